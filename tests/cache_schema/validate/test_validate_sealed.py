"""Verification of what is sealed and wrong all the same: rows, tables, states, lines and groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sound_tape
from damaged import ACOUSTIC, SAMPLES, TEXTUAL, check, told
from sound_tape import MAKERS, edit_line, edit_table, make

from cache_schema.rows.values import topk_row
from cache_schema.shard import Storage
from cache_schema.writer import TapeWriter


def set_first(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


NAN = float("nan")


@pytest.mark.parametrize(
    ("path", "table", "change", "location", "kind"),
    [
        (SAMPLES, "samples", set_first(audio_sha256="0" * 64), "audio.arrow row 0", "audio"),
        (SAMPLES, "samples", set_first(num_audio_samples=9), "audio.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata="{"), "samples.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata="[]"), "samples.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata='{"a": NaN}'), "samples.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata='{"a": -Infinity}'), "samples.arrow row 0", "row"),
        (SAMPLES, "audio", set_first(audio=b"\0\0"), "audio.arrow row 0", "row"),
        (SAMPLES, "audio", set_first(sample_id="s1"), "audio.arrow row 0", "row"),
        (TEXTUAL, "trace", set_first(token_ids=[1 << 20]), "trace.arrow row 0", "row"),
        (TEXTUAL, "trace", set_first(correct=False), "", "totals"),
        (TEXTUAL, "topk", set_first(tail=[0.9]), "topk.arrow row 0", "row"),
        (TEXTUAL, "topk", set_first(tail=[NAN]), "topk.arrow row 0", "row"),
        (TEXTUAL, "topk", set_first(token_ids=[1, 2]), "topk.arrow row 0", "row"),
        (TEXTUAL, "hidden", set_first(count=99), "hidden.arrow row 0", "row"),
        (TEXTUAL, "hidden", lambda rows: rows[1].update(offset=0), "hidden.arrow", "spans"),
        (TEXTUAL, "hidden", lambda rows: rows.pop(), "hidden.arrow", "spans"),
        (TEXTUAL, "hidden", set_first(kind="smell"), "hidden.arrow row 0", "row"),
        (TEXTUAL, "trace", lambda rows: rows.append(rows[0]), "trace.arrow", "table"),
    ],
    ids=map(str, itertools.count()),
)
def test_rows_that_are_wrong_but_sealed_are_found_by_decoding(
    root: Path,
    path: str,
    table: str,
    change: Callable[[list[dict[str, Any]]], Any],
    location: str,
    kind: str,
) -> None:
    edit_table(root, path, table, change)
    if kind != "table":
        assert check(root, deep=False).problems == []
    assert (f"{path}/{location}".rstrip("/"), kind) in told(root)


@pytest.mark.parametrize(
    ("path", "table", "change", "location", "kind"),
    [
        (SAMPLES, "samples", set_first(sample_id="other"), "textual/trace", "no sample"),
        (TEXTUAL, "trace", set_first(trace_index=1), "textual/trace", "trace index"),
        (TEXTUAL, "trace", lambda rows: rows.pop(), "textual/topk", "no trace"),
        (TEXTUAL, "topk", lambda rows: rows.pop(), "textual/topk", "no row"),
        (TEXTUAL, "topk", set_first(target_ids=[7]), "textual/topk", "tokens"),
        (TEXTUAL, "trace", set_first(token_ids=[7]), "acoustic/topk", "tokens"),
        (TEXTUAL, "trace", set_first(token_ids=[7, 8]), "textual/hidden", "tokens"),
        (ACOUSTIC, "hidden", set_first(times_s=[0, 0.1, 0.5, 0.6]), "acoustic/hidden", "times"),
        (
            ACOUSTIC,
            "hidden",
            set_first(times_s=[0.1, 0.2, 0, 0.1]),
            f"{ACOUSTIC}/hidden.arrow row 0",
            "row",
        ),
        (ACOUSTIC, "hidden", set_first(sample_id="s4"), f"{ACOUSTIC[:-1]}2/hidden.arrow", "twice"),
    ],
    ids=map(str, itertools.count()),
)
def test_tables_that_contradict_each_other_are_found(
    root: Path,
    path: str,
    table: str,
    change: Callable[[list[dict[str, Any]]], Any],
    location: str,
    kind: str,
) -> None:
    edit_table(root, path, table, change)
    assert (location, kind) in told(root)


def test_states_that_are_not_finite_are_found_in_every_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tape"
    make(root, groups=("samples",))
    states = {1: np.zeros((2, 8), np.float32), 3: np.zeros((2, 8), np.float32)}
    states[3][1, 5] = np.inf
    with monkeypatch.context() as unchecked:
        unchecked.setattr("cache_schema.codecs.bfloat16.is_finite", lambda values: True)
        for profile in ("hot", "archive"):
            with TapeWriter(
                root, MAKERS["acoustic"], storage=Storage(profile=profile), writer=profile
            ) as writer:
                place = {"sample_id": "s2", "trace_index": -1, "kind": "frame"}
                writer.add({}, [({**place, "target_ids": None, "times_s": None}, states)])
    found = {(p.location, p.kind, p.message) for p in check(root).problems}
    for profile in ("hot", "archive"):
        name = f"shards/acoustic/000/{profile}-000000/hidden.zarr/L003"
        assert (name, "not finite", "position 1, of sample s2") in found


def _foreign_table(line: dict[str, Any]) -> None:
    line["rows"]["descriptions"] = 2
    line["files"]["descriptions.arrow"] = line["files"]["trace.arrow"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda line: line["totals"].update(trace_tokens=99), "totals"),
        (lambda line: line.update(samples=1), "totals"),
        (lambda line: line["states"].update(positions=50), "spans"),
        (lambda line: line["rows"].update(trace=5), "table"),
        (_foreign_table, "tables"),
        (lambda line: line["states"].update(width=4), "states"),
        (lambda line: line["states"].update(width=4), "maker"),
        (lambda line: line["states"].update(layers=[1]), "maker"),
        (lambda line: line["states"].update(profile="archive"), "states"),
        (lambda line: line.update(fingerprint="0"), "maker"),
        (lambda line: line["files"].pop("hidden.zarr/L001/c/0/0"), "states"),
        (lambda line: line["files"].pop("hidden.zarr/L001/c/0/0"), "unnamed"),
    ],
    ids=map(str, itertools.count()),
)
def test_manifest_lines_that_claim_something_else(
    root: Path, change: Callable[[dict[str, Any]], Any], kind: str
) -> None:
    edit_line(root, TEXTUAL, change)
    found = check(root)
    assert any(p.kind == kind and p.location.startswith(TEXTUAL) for p in found.problems), found


def test_a_group_that_says_something_else(root: Path) -> None:
    info = sound_tape.replace(
        MAKERS["textual"], signals={"trace": {}, "topk": {"k": 9}, "hidden": {"layers": [1]}}
    )
    (root / "groups/textual.json").write_bytes(info.to_json())
    found = told(root)
    assert (TEXTUAL, "maker") in found  # the fingerprint
    assert (f"{TEXTUAL}/hidden.arrow", "maker") in found
    assert (f"{TEXTUAL}/topk.arrow row 0", "row") in found


def test_two_samples_of_one_id(root: Path) -> None:
    first = make(root, [7], groups=("samples",), writer="w1")
    edit_table(
        first, "shards/samples/000/w1-000000", "samples", set_first(sample_id="s0", row_index=0)
    )
    assert ("shards/samples/000/w1-000000", "two samples") in told(root, deep=False)


def test_a_row_in_both_tables_of_top_k_is_told(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", [0], groups=("samples",))
    topk = sound_tape.topk_of(np.random.default_rng(0), np.arange(3))
    for codec in ("compact", "hot"):
        with TapeWriter(root, MAKERS["acoustic"], storage=Storage(topk=codec)) as writer:
            writer.add({"topk": [topk_row("s0", 0, topk)]})
    found = {(p.location, p.kind, p.message) for p in check(root, deep=False).problems}
    assert found == {("acoustic/topk_compact", "twice", "sample 's0', trace 0: also in topk")}
