"""Slices: samples and signals of a tape as a tape of its own, values as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_push_and_pull import sound, uncounted
from whole_tape import content, make

from cache_schema import open_tape
from cache_schema.errors import MissingSignalError, OutputError, ProvenanceError, UsageError
from cache_schema.merge import merge
from cache_schema.part import Selection
from pipeline.share.slices import Filter, parse_filter, plan_slice, write_slice

CHOSEN = ("s1", "s2", "s6")


def cut(tape: Path | str, out: Path, wanted: Filter, **chosen: object) -> None:
    write_slice(plan_slice(str(tape), Selection(**chosen), wanted), out, uncounted)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", ["hot", "archive", "lossy2x"])
def test_values_of_chosen_samples_are_those_of_the_tape(tmp_path: Path, profile: str) -> None:
    tape, out = (
        make(tmp_path / "tape", profile, indexes=range(8), shard_samples=3),
        tmp_path / "out",
    )
    cut(tape, out, Filter(ids=CHOSEN))
    sound(out)
    here, there = content(out), content(tape)
    assert here["rows"] == {name: there["rows"][name] for name in CHOSEN}
    assert here["groups"] == there["groups"]
    cut(tape, out, Filter(ids=CHOSEN))  # again: nothing to do
    sound(out)
    rest = tmp_path / "rest"
    cut(tape, rest, Filter(ids=tuple(set(there["rows"]) - set(CHOSEN))))
    merged = tmp_path / "merged"
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
