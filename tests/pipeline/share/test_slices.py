"""Slices: samples and signals of a tape as a tape of its own, values as they were."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sound_tape
from share_servers import Faults, http_server
from test_push_and_pull import bring, sound, uncounted
from typer.testing import CliRunner, Result
from whole_tape import GROUPS, content, fast_folder, fill, make

from cache_schema import open_tape
from cache_schema.errors import (
    MissingSignalError,
    OutputError,
    ProvenanceError,
    TapeError,
    UsageError,
)
from cache_schema.merge.tapes import merge
from cache_schema.parts.part import Selection
from cache_schema.rows.values import sample_rows
from cache_schema.types import Sample
from cache_schema.writer import TapeWriter
from pipeline.cli import app
from pipeline.share.filters import Filter, parse_filter
from pipeline.share.slices import plan_slice, write_slice

CHOSEN = ("s1", "s2", "s6")


@pytest.fixture
def memory() -> Iterator[Path]:
    with fast_folder() as folder:
        yield folder


def cut(tape: Path | str, out: Path, wanted: Filter, **chosen: object) -> None:
    write_slice(plan_slice(str(tape), Selection(**chosen), wanted), out, uncounted)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", ["hot", "archive", "lossy2x"])
def test_values_of_chosen_samples_are_those_of_the_tape(memory: Path, profile: str) -> None:
    tape, out = (
        make(memory / "tape", profile, indexes=range(8), shard_samples=3),
        memory / "out",
    )
    cut(tape, out, Filter(ids=CHOSEN))
    sound(out)
    here, there = content(out), content(tape)
    assert here["rows"] == {name: there["rows"][name] for name in CHOSEN}
    assert here["groups"] == there["groups"]
    cut(tape, out, Filter(ids=CHOSEN))  # again: nothing to do
    sound(out)
    rest = memory / "rest"
    cut(tape, rest, Filter(ids=tuple(set(there["rows"]) - set(CHOSEN))))
    merged = memory / "merged"
    merge([str(out), str(rest)], merged, uncounted)
    assert content(merged)["rows"] == there["rows"]


def test_by_metadata_limit_and_signals(tmp_path: Path) -> None:
    tape, out = make(tmp_path / "tape", indexes=range(5)), tmp_path / "out"
    cut(tape, out, parse_filter(fields=["index=3"]), signals=("textual/hidden",), layers={"": (1,)})
    sound(out)
    assert open_tape(out).sample_ids == ("s3",)
    assert open_tape(out).signals == ("textual/hidden",)
    cut(tape, tmp_path / "few", parse_filter(fields=["speaker=ann"], limit=2), audio=False)
    assert open_tape(tmp_path / "few").sample_ids == ("s0", "s1")
    sound(tmp_path / "few")
    with pytest.raises(OutputError, match="another slice"):
        cut(tape, out, Filter(limit=2))
    with pytest.raises(ProvenanceError, match="recorded differently"):
        make(out, groups=("textual",), indexes=range(3, 5))


def test_what_cannot_be_is_named(tape: Path, tmp_path: Path) -> None:
    names = tmp_path / "ids"
    names.write_text("s1\ns99\n")
    with pytest.raises(MissingSignalError, match=r"1 of 2 ids are not on .*\['s99'\]"):
        cut(tape, tmp_path / "out", parse_filter(names))
    with pytest.raises(MissingSignalError, match=r"no sample of .* fits"):
        cut(tape, tmp_path / "out", parse_filter(fields=["speaker=bob"]))
    for wrong in ({"fields": ["speaker"]}, {"samples": tmp_path / "gone"}):
        with pytest.raises(UsageError, match="expected"):
            parse_filter(**wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


ODD = {"a\nb": True, "a": 1, "b\u2028c": 1.5, " b ": None, "\N{OLD PERSIAN SIGN A}": "true"}


def odd_tape(root: Path) -> Path:
    """Ids and metadata of every kind."""
    with TapeWriter(root, GROUPS["samples"], shard_samples=2) as writer:
        for index, (name, value) in enumerate(ODD.items()):
            metadata = {"v": value, "in": {"room": index % 2, "x.y": "z"}, "p.q": index}
            item = Sample(
                sample_id=name,
                row_index=7 - index,
                audio=np.full(9, index / 99, np.float32),
                question="",
                choices=(),
                answer="yes" if index else "no",
                metadata=metadata,
            )
            writer.add(sample_rows(item, f"{index:064x}", 9))
    return root


@pytest.mark.parametrize(
    ("flags", "places"),
    [
        (["--filter", "v=true"], [4, 0]),
        (["--filter", "v=1"], [1]),
        (["--filter", "v=1.0"], [1]),
        (["--filter", "v=1.50"], [2]),
        (["--filter", "v=null"], [3]),
        (["--filter", "in.room=1"], [3, 1]),
        (["--filter", "in.room=1", "--filter", "v=1"], [1]),
        (["--filter", "p.q=2"], [2]),
        (["--filter", 'in={"room": 0, "x.y": "z"}', "--limit", "2"], [4, 2]),
        (["--filter", "answer=no"], [0]),
        (["--limit", "2"], [4, 3]),
    ],
)
def test_values_of_every_kind(tmp_path: Path, flags: list[str], places: list[int]) -> None:
    """The order is the dataset's, of which the first is the last here."""
    tape, out = odd_tape(tmp_path / "tape"), tmp_path / "out"
    done = run("slice", tape, "--out", out, *flags)
    assert done.exit_code == 0, done.stderr
    assert open_tape(out).sample_ids == tuple(list(ODD)[place] for place in places)


def test_ids_of_every_kind_and_files_of_them(tmp_path: Path) -> None:
    tape = odd_tape(tmp_path / "tape")
    listed = tmp_path / "ids.json"
    listed.write_text(json.dumps(["a\nb", " b "]))
    lines = tmp_path / "ids"
    lines.write_bytes("\ufeffa\r\nb\u2028c\n".encode())
    both = [("one", listed, {"a\nb", " b "}), ("two", lines, {"a", "b\u2028c"})]
    for name, file, ids in both:
        assert run("slice", tape, "--out", tmp_path / name, "--samples", file).exit_code == 0
        assert set(open_tape(tmp_path / name).sample_ids) == ids
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged", uncounted)
    assert len(open_tape(tmp_path / "merged")) == 4
    plans = [plan_slice(str(tape), Selection(), Filter(ids=ids)) for ids in (("a\nb",), ("a",))]
    assert plans[0].writer != plans[1].writer
    listed.write_text('{"a": 1}')
    for flags, told in (
        (["--samples", listed], "expected a file of ids"),
        (["--filter", "=x"], "expected KEY=VALUE"),
    ):
        wrong = run("slice", tape, "--out", tmp_path / "no", *flags)
        assert (wrong.exit_code, told in wrong.stderr) == (2, True), wrong.stderr
    wrong = run("slice", tape, "--out", tmp_path / "no", "--filter", "im.room=1")
    assert wrong.exit_code == 1
    assert "no field 'im.room' in their metadata" in wrong.stderr
    assert not (tmp_path / "no").exists()


def test_of_a_slice_of_a_part_and_of_a_tape_that_grows(tape: Path, tmp_path: Path) -> None:
    part, few, fewer = (tmp_path / name for name in ("part", "few", "fewer"))
    bring(str(tape), part, signals=("textual/hidden", "acoustic"), layers={"textual": (3,)})
    cut(part, few, parse_filter(fields=["index=1"]))
    sound(few)
    assert open_tape(few).signals == ("acoustic/hidden", "acoustic/topk", "textual/hidden")
    assert open_tape(few)["s1"]["textual/hidden"].layers == (3,)
    cut(few, fewer, Filter(limit=1), signals=("acoustic",), audio=False)
    sound(fewer)
    states = [open_tape(one)["s1"]["acoustic/hidden"].states for one in (tape, fewer)]
    assert np.array_equal(*states)
    growing = make(tmp_path / "growing")
    with TapeWriter(growing, GROUPS["samples"], writer="w1"):
        cut(growing, tmp_path / "then", Filter(limit=2))
    fill(growing, indexes=range(3, 6))
    cut(growing, tmp_path / "then", Filter(limit=2))  # the same samples of the same shards
    sound(tmp_path / "then")
    with pytest.raises(OutputError, match="before it grew"):
        cut(growing, tmp_path / "then", Filter(limit=5))


def test_by_filter_from_a_url(tape: Path, tmp_path: Path) -> None:
    faults, out = Faults(), tmp_path / "out"
    with http_server(tape, faults) as url:
        told = ["pull", url, out, "--filter", "index=3", "--signals", "textual/hidden"]
        dry = run(*told, "--dry-run")
        assert "1 of 4 samples" in dry.stderr
        assert not out.exists()
        done = run(*told, "--no-audio")
        assert done.exit_code == 0, done.stderr
    assert not [path for path in faults.served if "audio" in path or "topk" in path]
    sound(out)
    assert open_tape(out).sample_ids == ("s3",)
    there, here = open_tape(tape)["s3"], open_tape(out)["s3"]
    assert np.array_equal(here["textual/hidden"].states, there["textual/hidden"].states)


def test_a_full_disk_leaves_nothing_half_and_is_continued(
    tape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full(path: Path, table: Any) -> Any:
        if "textual" in str(path):
            raise OSError(errno.ENOSPC, "no room")
        return write(path, table)

    from cache_schema.parts import cut as module

    write = module.write_table
    monkeypatch.setattr(module, "write_table", full)
    with pytest.raises(OutputError, match="is full; every committed shard is safe"):
        cut(tape, out, Filter(ids=("s0", "s3")))
    assert not list(out.glob("shards/*/.*"))
    monkeypatch.undo()
    cut(tape, out, Filter(ids=("s0", "s3")))
    sound(out)
    assert set(content(out)["rows"]) == {"s0", "s3"}


def killed(tape: Path, out: Path, fatal: int) -> int:
    """Cut in a child process that dies at the fatal-th line it runs of what writes."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = 0

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        name = frame.f_code.co_filename
        if not name.endswith(("parts/cut.py", "share/slices.py", "writer.py", "codecs/files.py")):
            return None
        lines += 1
        if lines == fatal:
            os._exit(9)
        return tracer

    try:
        sys.settrace(tracer)
        cut(tape, out, Filter(ids=("s0", "s3")))
    finally:
        os._exit(0)


def test_killed_at_any_point_it_is_continued(tape: Path, memory: Path) -> None:
    whole = memory / "whole"
    cut(tape, whole, Filter(ids=("s0", "s3")))
    stages = set()
    for fatal in (60, 400, 900, 1500, 2300, 3200, 4300):
        out = memory / f"killed-{fatal}"
        died = killed(tape, out, fatal)
        stages.add((died, len(list(out.rglob("shard.json")))))
        cut(tape, out, Filter(ids=("s0", "s3")))
        assert content(out) == content(whole)
        sound(out)
    assert len({shards for died, shards in stages if died == 9}) > 2, stages


@pytest.mark.parametrize(
    ("field", "value"), [("offset", -1), ("offset", 1 << 40), ("count", 1 << 40)]
)
def test_states_that_lie_elsewhere_are_refused(tmp_path: Path, field: str, value: int) -> None:
    """What a tape of anyone says is looked at before it is copied."""
    tape = sound_tape.make(tmp_path / "tape")
    shard = open_tape(tape).shards["acoustic"][0].record.path
    sound_tape.edit_table(tape, shard, "hidden", lambda rows: rows[0].update({field: value}))
    with pytest.raises(TapeError, match="are not within its arrays"):
        cut(tape, tmp_path / "out", Filter(limit=1))
    assert not list((tmp_path / "out").glob("shards/*/.*"))
