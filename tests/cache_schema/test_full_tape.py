"""Rejected traces, origins, text states and what was heard: written, read, checked, united."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_tape
import numpy as np
import pyarrow as pa
import pytest
import sound_tape
from full_tape import ENCODER, HEARD, TEXTUAL, heard_of, rejected_of, trace_of
from sound_tape import edit_line, edit_table, uncounted

from cache_schema import open_tape
from cache_schema.codecs.arrow_file import write_table
from cache_schema.compare.tapes import compare
from cache_schema.errors import MissingSignalError, TapeError
from cache_schema.merge.tapes import merge
from cache_schema.signals import LATER_COLUMNS, schemas_of
from cache_schema.validate.tape import validate


@pytest.fixture(scope="module", params=["hot", "compact"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_tape.make(tmp_path_factory.mktemp("tape") / "tape", codec=request.param)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_tape.make(tmp_path_factory.mktemp("good") / "tape")


def told(root: Path) -> set[tuple[str, str]]:
    return {(p.location, p.kind) for p in validate(root, uncounted, deep=True).problems}


def plain(trace: Any) -> dict[str, Any]:
    fields = vars(trace).items()
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in fields}


def test_every_value_comes_back(root: Path) -> None:
    tape = open_tape(root)
    for index in range(5):
        row = tape[f"s{index}"]
        kept = [] if index == 4 else [trace_of(index)]
        assert [plain(trace) for trace in row.traces] == [plain(trace) for trace in kept]
        count = 3 if index == 4 else index % 2
        assert row.rejected == [rejected_of(index, number) for number in range(count)]
        assert row.heard == {"transcript": heard_of(index)}
        states = row["encoder/hidden"]
        assert (states.kind, states.times_s) == ("text", None)
        np.testing.assert_array_equal(states.target_ids, [101, *sound_tape.targets_of(index), 102])
        assert states.states.shape == (len(states.target_ids), 1, sound_tape.WIDTH)
        lens = {"acoustic/lens", "textual/lens"}
        assert lens & set(row.signals) == (set() if index == 4 else lens)
    assert validate(root, uncounted, deep=True).problems == []


def test_a_sample_with_rejected_traces_only_is_recorded(root: Path) -> None:
    tape = open_tape(root)
    assert tape.recorded("textual") == {f"s{index}" for index in range(5)}
    assert tape.recorded("heard_transcript") == tape.recorded("textual")
    assert tape["s4"].traces == []
    assert "textual/trace" not in tape["s4"]
    with pytest.raises(MissingSignalError, match="has no 'textual/lens'"):
        tape["s4"]["textual/lens"]


def test_totals(root: Path) -> None:
    totals = open_tape(root).shards["textual"][0].record.totals
    assert {name: count for name, count in totals.items() if "_t" not in name} == {
        "traces_right": 4,
        "traces_judged": 4,
        "traces_label": 1,
        "traces_given": 1,
        "traces_rejected": 5,
        "rejected: wrong answer": 3,
        "rejected: truncated": 1,
        "rejected: other": 1,
    }
    assert totals["lens_tokens"] == totals["trace_tokens"] == totals["topk_tokens"]
    (encoder,) = open_tape(root).shards["encoder"]
    assert encoder.record.totals == {"hidden_text_positions": encoder.record.positions}


def as_first_release(root: Path, path: str) -> None:
    """Write the trace table of a shard as the first release did."""
    file = root / path / "trace.arrow"
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    file.unlink()
    record = write_table(file, table.drop_columns(LATER_COLUMNS["trace"]))
    edit_line(root, path, lambda line: line["files"].update({"trace.arrow": record}))


def test_traces_of_the_first_release_are_read(tmp_path: Path) -> None:
    root = sound_tape.make(tmp_path / "tape", range(3), shard_samples=8)
    before = [plain(row.traces[0]) for row in open_tape(root)]
    as_first_release(root, TEXTUAL)
    assert open_tape(root).shards["textual"][0].table("trace").schema == schemas_of("trace")[1]
    assert [plain(row.traces[0]) for row in open_tape(root)] == before
    assert [(one["origin"], one["draw"], one["seed"]) for one in before] == [("free", 0, 0)] * 3
    assert told(root) == set()
    sound_tape.make(root, [3], groups=("samples", "textual"), writer="w1")
    assert [row.traces[0].text for row in open_tape(root)] == [f"trace {n}" for n in range(4)]
    assert told(root) == set()


@pytest.mark.parametrize("lacking", [("origin",), ("draw", "seed"), ("logprob",)])
def test_other_columns_of_a_trace_are_refused(tmp_path: Path, lacking: tuple[str, ...]) -> None:
    root = sound_tape.make(tmp_path / "tape", [0])
    file = root / TEXTUAL / "trace.arrow"
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_file(source).read_all().drop_columns(lacking)
    file.unlink()
    record = write_table(file, table)
    edit_line(root, TEXTUAL, lambda line: line["files"].update({"trace.arrow": record}))
    with pytest.raises(TapeError, match="columns differ from the format's"):
        list(open_tape(root)["s0"].traces)


def test_merge_takes_shards_of_both_releases_and_all_tables(tmp_path: Path) -> None:
    old = full_tape.make(tmp_path / "old", [0, 3])
    as_first_release(old, TEXTUAL)
    new = full_tape.make(tmp_path / "new", [1, 2, 4])
    merge([old, new], tmp_path / "out", uncounted)
    out = open_tape(tmp_path / "out")
    assert told(tmp_path / "out") == set()
    assert [trace.origin for row in out for trace in row.traces] == [
        "free",
        "label",
        "given",
        "free",
    ]
    assert [len(row.rejected) for row in out] == [0, 1, 0, 1, 3]
    assert all(row.heard["transcript"] == heard_of(row.row_index) for row in out)
    difference = compare(out, open_tape(full_tape.make(tmp_path / "whole")), uncounted)
    differing = {name: some.fields for name, some in difference.contents.items() if not some.equal}
    assert differing == {"textual/trace": {"seed": 2}}


@pytest.mark.parametrize(
    ("path", "table", "change", "where"),
    [
        (TEXTUAL, "rejected", {"text": "yes"}, "textual/rejected"),
        (HEARD, "heard", {"text": "yes"}, "heard_transcript"),
        (TEXTUAL, "trace", {"origin": "given"}, "textual/trace"),
        (TEXTUAL, "lens", {"target_ids": [9, 9]}, "textual/lens"),
        (ENCODER, "hidden", {"target_ids": [1, 7, 2]}, "encoder/hidden"),
    ],
)
def test_diff_tells_a_value_that_differs(
    tmp_path: Path, path: str, table: str, change: dict[str, Any], where: str
) -> None:
    one, two = (full_tape.make(tmp_path / name, [0, 1]) for name in "ab")
    at = 1 if table == "lens" else 0
    edit_table(two, path, table, lambda rows: rows[at].update(change))
    found = compare(open_tape(one), open_tape(two), uncounted)
    differing = {name: some for name, some in found.contents.items() if not some.equal}
    assert {name: list(some.fields) for name, some in differing.items()} == {where: list(change)}


def test_diff_tells_rows_that_one_tape_has(tmp_path: Path) -> None:
    one = full_tape.make(tmp_path / "a", [1])
    two = full_tape.make(tmp_path / "b", [1], groups=("samples", "descriptions"))
    found = compare(open_tape(one), open_tape(two), uncounted).contents
    assert found["textual/rejected"].only_a.first == ["s1"]
    assert found["heard_transcript"].only_a.first == ["s1"]
    assert not any(some.only_b.count for some in found.values())


def first(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


@pytest.mark.parametrize(
    ("path", "table", "change", "location", "kind"),
    [
        (TEXTUAL, "trace", first(origin="heaven"), "trace.arrow row 0", "row"),
        (TEXTUAL, "trace", first(draw=-1), "trace.arrow row 0", "row"),
        (TEXTUAL, "rejected", first(reason=""), "rejected.arrow row 0", "row"),
        (TEXTUAL, "rejected", first(origin=""), "rejected.arrow row 0", "row"),
        (TEXTUAL, "rejected", first(trace_index=-1), "rejected.arrow row 0", "row"),
        (TEXTUAL, "rejected", first(reason="truncated"), "", "totals"),
        (TEXTUAL, "rejected", lambda rows: rows.append(rows[0]), "rejected.arrow", "table"),
        (TEXTUAL, "lens", first(layers=[1, 2]), "lens.arrow row 0", "row"),
        (TEXTUAL, "lens", first(k=2), "lens.arrow row 0", "row"),
        (TEXTUAL, "lens", first(tail=[0.9, 0.9]), "lens.arrow row 0", "row"),
        (HEARD, "heard", first(segments="{}"), "heard.arrow row 0", "row"),
        (HEARD, "heard", first(segments="[1]"), "heard.arrow row 0", "row"),
        (ENCODER, "hidden", first(kind="token"), "", "totals"),
        (ENCODER, "hidden", first(times_s=[0.0] * 6), "hidden.arrow row 0", "row"),
        (ENCODER, "hidden", first(trace_index=0), "hidden.arrow row 0", "row"),
        (ENCODER, "hidden", first(target_ids=None), "hidden.arrow row 0", "row"),
        (ENCODER, "hidden", first(target_ids=[1 << 20] * 3), "hidden.arrow row 0", "row"),
    ],
    ids=map(str, itertools.count()),
)
def test_rows_that_are_wrong_but_sealed_are_found_by_decoding(
    good: Path,
    tmp_path: Path,
    path: str,
    table: str,
    change: Callable[[list[dict[str, Any]]], Any],
    location: str,
    kind: str,
) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, path, table, change)
    assert (f"{path}/{location}".rstrip("/"), kind) in told(root)


@pytest.mark.parametrize(
    ("path", "table", "change", "location", "kind"),
    [
        (TEXTUAL, "rejected", first(sample_id="s9"), "textual/rejected", "no sample"),
        (TEXTUAL, "rejected", first(trace_index=1), "textual/rejected", "trace index"),
        (TEXTUAL, "lens", first(trace_index=1), "textual/lens", "no trace"),
        (HEARD, "heard", first(sample_id="s9"), "heard_transcript/heard", "no sample"),
        (ENCODER, "hidden", first(sample_id="s9"), "encoder/hidden", "no sample"),
    ],
    ids=map(str, itertools.count()),
)
def test_tables_that_contradict_each_other_are_found(
    good: Path,
    tmp_path: Path,
    path: str,
    table: str,
    change: Callable[[list[dict[str, Any]]], Any],
    location: str,
    kind: str,
) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, path, table, change)
    assert (location, kind) in told(root)
