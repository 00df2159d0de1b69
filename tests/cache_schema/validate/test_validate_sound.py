"""Verification of sound tapes: of several writers, being written, locked, or of a later release."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sound_tape
from damaged import SAMPLES, TEXTUAL, check, flip, told
from sound_tape import ALL, MAKERS, edit_line, make

from cache_schema import open_tape
from cache_schema.codecs.files import checksum
from cache_schema.errors import TapeError
from cache_schema.shard import Storage
from cache_schema.writer import TapeWriter


@pytest.mark.parametrize(
    "storage",
    [
        Storage(),
        Storage(profile="archive", topk="compact"),
        Storage(profile="lossy2x", topk="compact"),
    ],
    ids=["hot", "archive", "lossy2x"],
)
def test_a_sound_tape_has_no_problem(tmp_path: Path, storage: Storage) -> None:
    found = check(make(tmp_path / "tape", storage=storage))
    assert (found.problems, found.notes, found.count) == ([], [], 0)
    assert found.files > 40
    assert found.bytes > 10_000


def test_two_writers_and_a_grown_index_are_sound(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", range(3))
    kept = shutil.copytree(root / "index", tmp_path / "index")
    make(root, range(3, 7), writer="w1")
    make(root, range(7, 9))
    assert check(root).problems == []
    shutil.rmtree(root / "index")
    shutil.copytree(kept, root / "index")
    assert check(root).problems == []


def test_nothing_is_changed(root: Path) -> None:
    def listing() -> list[tuple[str, int]]:
        return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))

    before = listing()
    check(root)
    assert listing() == before
    assert tuple(json.loads((root / f"groups/{g}.json").read_text())["group"] for g in ALL) == ALL


def test_a_tape_that_is_being_written_is_no_problem(root: Path) -> None:
    with TapeWriter(root, MAKERS["acoustic"], writer="w4", shard_samples=2) as writer:
        for index in range(5, 10):
            sound_tape.add(writer, "acoustic", index)
            found = check(root, deep=False)
            assert found.problems == []
            assert all(note.kind == "being written" for note in found.notes)
        assert [note.location for note in found.notes] == ["shards/acoustic/.w4-000002"]


def test_what_a_later_release_adds_or_leaves_out_is_no_problem(root: Path) -> None:
    """Tables and totals it does not know, totals that are left out; checksums all the same."""
    (root / TEXTUAL / "speakers.arrow").write_bytes(b"speakers")
    record = {"bytes": 8, "xxh3_128": checksum(root / TEXTUAL / "speakers.arrow")}

    def change(line: dict[str, Any]) -> None:
        line["rows"]["speakers"] = 1
        line["files"]["speakers.arrow"] = record
        line["totals"] = {"speakers_heard": 3}

    edit_line(root, TEXTUAL, change)
    found = check(root)
    assert found.problems == []
    assert [(note.location, note.kind) for note in found.notes] == [(TEXTUAL, "tables")]
    flip(root / TEXTUAL / "speakers.arrow")
    assert (f"{TEXTUAL}/speakers.arrow", "checksum") in told(root, deep=False)


def test_where_locks_cannot_be_asked_for_all_is_checked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with (root / "manifest/w0.jsonl").open("ab") as file:
        file.write(b"cut")
    shutil.copytree(root / SAMPLES, root / "shards/samples/000/w0-000009")
    monkeypatch.setattr("fcntl.flock", refuse)
    assert {("manifest/w0.jsonl", "cut line"), ("shards/samples/000/w0-000009", "orphan")} <= told(
        root, deep=False
    )


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"hidden": {"profile": "fp4"}}, "profile 'fp4', this software knows hot, archive"),
        ({"topk": {"k": 2, "codec": "zfp9"}}, "codec 'zfp9', this software knows hot, compact"),
    ],
    ids=["profile", "codec"],
)
def test_storage_of_a_later_release_is_refused(
    root: Path, signals: dict[str, Any], message: str
) -> None:
    info = sound_tape.replace(MAKERS["acoustic"], group="strange", signals=signals)
    (root / "groups/strange.json").write_bytes(info.to_json())
    with pytest.raises(TapeError, match=message):
        open_tape(root)
    assert (".", "not opened") in told(root, deep=False)
