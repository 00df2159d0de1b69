"""Merging: united by value, conflicts refused before a byte is written, continued after a kill."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_tape import MAKERS, edit_table, make, replace, topk_of, uncounted

from cache_schema import open_tape
from cache_schema.compare.tapes import compare
from cache_schema.errors import OutputError, ProvenanceError, TapeError, UsageError
from cache_schema.merge.tapes import Merged, merge
from cache_schema.rows.values import hidden_row, topk_row
from cache_schema.shard import Storage
from cache_schema.takeover import check_output
from cache_schema.validate.tape import validate
from cache_schema.writer import TapeWriter


def unite(*tapes: Path, out: Path, licence: str | None = None) -> Merged:
    return merge(tapes, out, uncounted, licence)


def assert_equal(one: Path, two: Path) -> None:
    difference = compare(open_tape(one), open_tape(two), uncounted)
    assert difference.equal, difference


def assert_sound(root: Path) -> None:
    assert validate(root, uncounted, deep=True).problems == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole") / "tape")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("halves")
    return make(folder / "a", range(2)), make(folder / "b", range(2, 5))


def test_other_samples_of_the_same_makers(
    halves: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    merged = unite(*halves, out=out)
    assert merged.plan.samples == 5
    assert merged.files["linked"] > 20
    assert merged.files["copied"] == 0
    assert_equal(out, whole)
    assert_sound(out)
    assert open_tape(out).sample_ids == open_tape(whole).sample_ids


def test_other_signals_of_the_same_samples(whole: Path, tmp_path: Path) -> None:
    textual = make(tmp_path / "a", groups=("samples", "descriptions", "textual"))
    acoustic = make(tmp_path / "b", groups=("samples", "acoustic"), shard_samples=3, writer="w7")
    merged = unite(textual, acoustic, out=tmp_path / "out")
    assert merged.plan.skipped["samples"] == 2
    assert merged.plan.repeated.total() == 0
    assert_equal(tmp_path / "out", whole)
    assert_sound(tmp_path / "out")


def test_what_overlaps_counts_once(whole: Path, tmp_path: Path) -> None:
    one, two = make(tmp_path / "a", range(3)), make(tmp_path / "b", [2, 3, 4])
    merged = unite(one, two, out=tmp_path / "out")
    assert merged.plan.repeated == {"samples": 1, "descriptions": 1, "textual": 3, "acoustic": 2}
    tape = open_tape(tmp_path / "out")
    assert tape.catalog.index.duplicates == 7, "a row of every table but audio"
    assert_equal(tmp_path / "out", whole)
    found = validate(tmp_path / "out", uncounted, deep=True)
    assert found.problems == []
    assert [(note.kind, note.message[:7]) for note in found.notes] == [("repeated", "7 rows ")]


def test_a_signal_that_only_one_tape_has_of_a_sample_is_taken(tmp_path: Path) -> None:
    """One tape has states of a sample; another states and top-k, of which the states repeat."""
    states = {n: np.ones((2, 8), np.float32) for n in (1, 3)}
    place = hidden_row("s0", -1, "audio", (0, 0), None, np.zeros((2, 2), np.float32))
    topk = topk_row("s0", 0, topk_of(np.random.default_rng(0), np.arange(3)))
    tapes = tmp_path / "a", tmp_path / "b"
    for root, rows in zip(tapes, ({}, {"topk": [topk]}), strict=True):
        make(root, [0], groups=("samples",))
        with TapeWriter(root, MAKERS["acoustic"]) as writer:
            writer.add(rows, [(dict(place), states)])
    merged = unite(*tapes, out=tmp_path / "out")
    assert merged.plan.skipped == {"samples": 1}
    assert merged.plan.repeated["acoustic"] == 1
    assert open_tape(tmp_path / "out")["s0"].signals == open_tape(tapes[1])["s0"].signals
    assert_equal(tmp_path / "out", tapes[1])
    assert unite(*tapes[::-1], out=tmp_path / "back").plan.skipped == {"samples": 1, "acoustic": 1}


def test_a_tape_with_itself_is_itself(whole: Path, tmp_path: Path) -> None:
    merged = unite(whole, whole, out=tmp_path / "out")
    assert merged.shards == sum(merged.plan.skipped.values())
    assert_equal(tmp_path / "out", whole)


@pytest.mark.parametrize("profile", ["archive", "lossy2x"])
def test_every_profile_is_taken_as_it_is(tmp_path: Path, profile: str) -> None:
    storage = Storage(profile=profile, topk="compact")
    one = make(tmp_path / "a", range(2), storage=storage)
    two = make(tmp_path / "b", range(2, 4), storage=storage)
    both = make(tmp_path / "both", range(4), storage=storage)
    unite(one, two, out=tmp_path / "out")
    assert_equal(tmp_path / "out", both)


def test_the_united_tape_can_be_added_to_and_merged(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    unite(*halves, out=out)
    make(out, [7], shard_samples=1)
    assert_sound(out)
    third = make(tmp_path / "third", [5, 6])
    unite(out, third, out=tmp_path / "more")
    assert len(open_tape(tmp_path / "more")) == 8
    assert_sound(tmp_path / "more")


def test_where_links_are_not_allowed_files_are_copied(
    halves: tuple[Path, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def refuse(source: Any, target: Any) -> None:
        if "shards" in str(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    merged = unite(*halves, out=tmp_path / "out")
    assert merged.files["linked"] == 0
    assert merged.files["copied"] > 20
    shutil.rmtree(tmp_path / "out" / "index")
    assert_equal(tmp_path / "out", whole)


def test_quarantined_samples_are_united(tmp_path: Path) -> None:
    tapes = [tmp_path / "a", tmp_path / "b"]
    for root, indexes, failed in zip(tapes, ([0, 1], [1, 2]), ([8, 2], [8, 9]), strict=True):
        make(root, indexes, groups=("samples",))
        with TapeWriter(root, MAKERS["samples"]) as writer:
            for index in failed:
                writer.quarantine(f"s{index}", index, "audio", "cannot decode")
    merged = unite(*tapes, out=tmp_path / "out")
    listed = [record.sample_id for record in open_tape(tmp_path / "out").quarantined]
    assert listed == ["s8", "s9"], "s2 is recorded on the other tape"
    unite(*tapes, out=tmp_path / "out")
    assert len(open_tape(tmp_path / "out").quarantined) == len(merged.plan.quarantined)


def test_other_makers_are_refused_by_field(whole: Path, tmp_path: Path) -> None:
    identity = {**MAKERS["textual"].identity, "model_digest": "other"}
    other = tmp_path / "other"
    make(other, groups=("samples",))
    with TapeWriter(other, replace(MAKERS["textual"], identity=identity)) as writer:
        writer.open()
    with pytest.raises(ProvenanceError, match=r'textual: identity.model_digest: "m" \| "other"'):
        unite(whole, other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_samples_of_one_id_are_refused_by_name(whole: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", groups=("samples",))
    edit_table(
        other,
        "shards/samples/000/w0-000001",
        "samples",
        lambda rows: rows[0].update(question="why?", answer="because"),
    )
    with pytest.raises(TapeError, match=r"1 sample ids .*\n  's2' on .*: answer, question"):
        unite(whole, other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_licences_must_be_settled(whole: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", [7], licence="CC-BY-4.0")
    with pytest.raises(TapeError, match=r"licences differ:\n.*unspecified\n.*CC-BY-4.0"):
        unite(whole, other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    unite(whole, other, out=tmp_path / "out", licence="research only")
    assert open_tape(tmp_path / "out").info["licence"] == "research only"


def test_only_a_new_folder_or_this_merge_is_written_to(
    halves: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    mine = make(tmp_path / "mine", [9], groups=("samples",))
    before = sorted(mine.rglob("*"))
    with pytest.raises(OutputError, match="another tape"):
        unite(*halves, out=mine)
    assert sorted(mine.rglob("*")) == before
    with pytest.raises(UsageError, match="one of the tapes"):
        unite(*halves, out=halves[0])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a tape"):
        unite(*halves, out=tmp_path / "thesis")
    unite(*halves, out=tmp_path / "out")
    again = unite(*halves, out=tmp_path / "out")
    assert (again.shards, again.earlier) == (0, sum(map(len, again.plan.shards.values())))
    with pytest.raises(OutputError, match="merge of other tapes"):
        unite(halves[1], halves[0], out=tmp_path / "out")


def test_a_damaged_tape_is_not_taken(halves: tuple[Path, Path], tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(halves[1], tmp_path / "damaged"))
    file = damaged / "shards/textual/000/w0-000000/hidden.zarr/L003/c/0/0"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    out = tmp_path / "out"
    with pytest.raises(TapeError, match="is damaged"):
        unite(halves[0], damaged, out=out)
    assert not list(out.glob("shards/*/.*")), "nothing half taken is left"
    shutil.copy(halves[1] / file.relative_to(damaged), file)
    unite(halves[0], damaged, out=out)
    assert_sound(out)


def killed(tapes: tuple[Path, Path], out: Path, fatal: int) -> int:
    """Merge in a child process that dies at the fatal-th line it runs of what commits."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = 0
    watched = ("merge/tapes.py", "writer.py", "takeover.py", "manifest.py", "codecs/files.py")

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        name = frame.f_code.co_filename
        if "cache_schema" not in name or not name.endswith(watched):
            return None
        lines += 1
        if lines == fatal:
            os._exit(9)
        return tracer

    status = 1
    try:
        sys.settrace(tracer)
        unite(*tapes, out=out)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("fatal", range(200, 11_000, 500))
def test_killed_at_any_point_it_is_continued(
    halves: tuple[Path, Path], whole: Path, tmp_path: Path, fatal: int
) -> None:
    out = tmp_path / "out"
    died = killed(halves, out, fatal)
    assert died in (0, 9)
    before = set()
    if (out / "dataset.json").exists():
        before = {s.record.path for shards in open_tape(out).shards.values() for s in shards}
    merged = unite(*halves, out=out)
    assert merged.earlier == len(before), "no committed shard is done again"
    assert_equal(out, whole)
    assert_sound(out)
    assert validate(out, uncounted).notes == []


def test_the_kills_hit_the_merge_early_and_late(halves: tuple[Path, Path], tmp_path: Path) -> None:
    assert killed(halves, tmp_path / "a", 700) == 9
    assert killed(halves, tmp_path / "b", 3000) == 9
    assert len(list((tmp_path / "b").rglob("shard.json"))) > 1
    assert check_output(tmp_path / "b")
