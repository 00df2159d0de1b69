"""The index of a tape that grows: it changes no answer, is of this tape, and holds nobody up."""

from __future__ import annotations

import fcntl
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sound_tape import uncounted
from whole_tape import GROUPS as MAKERS
from whole_tape import make

from cache_schema import open_tape
from cache_schema.errors import TapeError, nearest
from cache_schema.index.build import update_index
from cache_schema.rows.values import sample_rows
from cache_schema.types import Sample
from cache_schema.validate.tape import validate
from cache_schema.writer import TapeWriter, complete_index


def describe(root: Path, writer: str, described: dict[str, str]) -> None:
    with TapeWriter(root, MAKERS["descriptions"], writer=writer) as made:
        for name, text in described.items():
            made.add({"descriptions": [{"sample_id": name, "description": text}]})


def add_sample(root: Path, writer: str, name: str, row_index: int) -> None:
    item = Sample(sample_id=name, row_index=row_index, audio=None, question="?")
    with TapeWriter(root, MAKERS["samples"], writer=writer) as made:
        made.add(sample_rows(item, "0" * 64, 100))


def answers(root: Path) -> Any:
    tape = open_tape(root)
    assert tape.catalog.index.duplicates == 1
    return (
        tape.sample_ids,
        [tape[name].description for name in tape.sample_ids],
        {group: [s.record.path for s in shards] for group, shards in tape.shards.items()},
        [record.sample_id for record in tape.quarantined],
    )


def test_the_index_changes_no_answer(tmp_path: Path) -> None:
    """Of equal rows the first committed by manifest name and byte; of equal places by id."""
    root = tmp_path / "tape"
    for writer, name in (("w2", "s9"), ("w0", "s1"), ("w1", "s5")):
        add_sample(root, writer, name, 7)
        with TapeWriter(root, MAKERS["samples"], writer=writer) as made:
            made.quarantine(f"q{writer}", 8, "audio", "?")
        complete_index(root)
    describe(root, "w1", {"s1": "by w1"})
    describe(root, "w0", {"s1": "by w0"})
    with_index = answers(root)
    assert not open_tape(root).catalog.has_new_lines
    found = validate(root, uncounted, deep=True)
    assert {(p.kind, p.message) for p in found.problems} == {
        ("twice", "sample 's1': also in shards/descriptions/000/w0-000000")
    }
    shutil.rmtree(root / "index")
    assert answers(root) == with_index
    assert with_index[0] == ("s1", "s5", "s9")
    assert with_index[1] == ["by w0", None, None]
    assert with_index[3] == ["qw0", "qw1", "qw2"]


def test_an_index_of_another_tape_is_refused(tmp_path: Path) -> None:
    """Even where its manifests have the same sizes; one that does not say of which is not used."""
    root, other = tmp_path / "a", tmp_path / "b"
    add_sample(root, "w0", "a0", 0)
    add_sample(other, "w0", "b0", 0)
    index = next((root / "index").glob("*.arrow"))
    kept = index.read_bytes()
    shutil.rmtree(root / "index")
    shutil.copytree(other / "index", root / "index")
    with pytest.raises(TapeError, match="index is of another manifest/w0"):
        open_tape(root)
    assert "index" in validate(root, uncounted).kinds
    shutil.rmtree(root / "index")
    unbound = open_tape(root).catalog.index
    update_index(root, lambda: replace(unbound, hashes={}))
    assert open_tape(root).catalog.has_new_lines
    assert validate(root, uncounted).problems == []
    complete_index(root)
    assert next((root / "index").glob("*.arrow")).read_bytes() == kept


def test_a_held_lock_of_the_index_delays_a_writer_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(tmp_path / "tape", groups=("samples",), indexes=range(2))
    monkeypatch.setattr("cache_schema.index.build.LOCK_WAIT_S", 0.1)
    with (root / "index/lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        add_sample(root, "w1", "late", 9)
    assert capsys.readouterr().err
    assert open_tape(root).catalog.has_new_lines
    complete_index(root)
    assert not open_tape(root).catalog.has_new_lines


def test_a_misspelt_id_among_many_is_answered_at_once() -> None:
    known = [f"recording-{number:06d}" for number in range(100_000)]
    start_s = time.process_time()
    assert "did you mean" in nearest("recording-00001x", known)
    assert nearest("another", known) == ""
    assert time.process_time() - start_s < 0.9


def test_a_long_run_keeps_the_index_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_schema.writer.INDEX_EVERY_S", 0.0)
    with TapeWriter(tmp_path, MAKERS["samples"], shard_samples=2) as writer:
        for number in range(1, 6):
            sample = Sample(sample_id=f"s{number}", row_index=number, audio=None, question="")
            writer.add(sample_rows(sample, "0" * 64, 1))
            if number > 1:
                tape = open_tape(tmp_path)
                assert (len(tape), tape.catalog.has_new_lines) == (number // 2 * 2, False)
