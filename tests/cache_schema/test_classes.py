"""Logits of classifiers and pooled embeddings: written, read, merged, compared, verified."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classes_tape import (
    ACOUSTIC,
    EMBEDDED,
    LABELS,
    MAKERS,
    MOODS,
    TIMES,
    embedding_of,
    frames_of,
    logits_of,
    make,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sound_tape import edit_table, uncounted

from cache_schema import open_tape
from cache_schema.compare.tapes import compare
from cache_schema.errors import ProvenanceError, TapeError
from cache_schema.merge.tapes import merge
from cache_schema.prepare import RowError, prepare
from cache_schema.rows.classes import embedding_row, frame_logits_row, utterance_logits_row
from cache_schema.rows.values import decode
from cache_schema.shard import Storage
from cache_schema.types import Embedding, FrameLogits, UtteranceLogits
from cache_schema.validate.tape import validate
from cache_schema.writer import TapeWriter

POOLINGS = (("acoustic", EMBEDDED, "classifier input"), ("wavlm", 2, "x-vector"))
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
STEPS = st.floats(0, 9, width=32)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("good") / "tape")


def told(root: Path) -> set[tuple[str, str]]:
    """(location, kind) of every problem."""
    found = validate(root, uncounted, deep=True)
    return {(problem.location, problem.kind) for problem in found.problems}


def test_what_is_written_is_read(good: Path) -> None:
    tape = open_tape(good)
    for index, row in enumerate(tape):
        whole, frames = row["acoustic/utterance_logits"], row["acoustic/frame_logits"]
        assert isinstance(whole, UtteranceLogits)
        assert (whole.labels, whole.multi_label) == (tuple(MOODS), False)
        np.testing.assert_array_equal(whole.logits, logits_of(index))
        assert isinstance(frames, FrameLogits)
        assert (frames.labels, frames.multi_label) == (tuple(LABELS), True)
        np.testing.assert_array_equal(frames.logits, frames_of(index)[0])
        np.testing.assert_array_equal(frames.times_s, frames_of(index)[1])
        assert frames.logits.shape == (index % 4, len(LABELS))
        for source, width, pooling in POOLINGS:
            vector = row[f"{source}/embedding"]
            assert isinstance(vector, Embedding)
            assert vector.pooling == pooling
            np.testing.assert_array_equal(vector.values, embedding_of(index, width))
        values = (whole.logits, frames.logits, frames.times_s, vector.values)
        assert {one.dtype for one in values} == {np.dtype(np.float32)}
    frames_in_all = sum(index % 4 for index in range(5))
    totals = tape.shards["acoustic"][0].record.totals
    assert totals["frame_logits_frames"] == frames_in_all
    assert not any(name.startswith(("utterance", "embedding")) for name in totals)
    assert told(good) == set()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_finite_values_come_back_bit_for_bit(data: st.DataObject) -> None:
    num_classes, num_frames = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 5))
    labels = data.draw(
        st.lists(st.text(max_size=4), min_size=num_classes, max_size=num_classes, unique=True)
    )
    logits = data.draw(arrays.arrays(np.float32, (num_frames, num_classes), elements=FINITE))
    steps_s = data.draw(arrays.arrays(np.float32, num_frames + 1, elements=STEPS))
    edges_s = np.cumsum(steps_s)
    times_s = np.stack([edges_s[:-1], edges_s[1:]], axis=1)
    facts = {"labels": labels, "multi_label": data.draw(st.booleans())}
    vector = logits.reshape(-1)
    signals: dict[str, dict[str, Any]] = {"frame_logits": facts}
    rows = {"frame_logits": [frame_logits_row("s", logits, times_s)]}
    if num_frames:
        signals |= {"utterance_logits": facts}
        rows |= {"utterance_logits": [utterance_logits_row("s", logits[0])]}
        signals |= {"embedding": {"width": len(vector), "pooling": "mean"}}
        rows |= {"embedding": [embedding_row("s", vector)]}
    try:
        stored = prepare(rows, [], Storage(), signals).rows
    except RowError as error:
        raise AssertionError(labels) from error
    read = {name: decode(name, stored[name][0], signals, name) for name in rows}
    frames = read["frame_logits"]
    assert frames.logits.tobytes() == logits.tobytes()
    assert frames.times_s.tobytes() == times_s.astype(np.float32).tobytes()
    assert frames.labels == tuple(labels)
    if num_frames:
        assert read["utterance_logits"].logits.tobytes() == logits[0].tobytes()
        assert read["embedding"].values.tobytes() == vector.tobytes()


CLASSES = {"labels": ["a", "b"], "multi_label": True}
POOLED = {"width": 4, "pooling": "x-vector"}


@pytest.mark.parametrize(
    ("signal", "facts", "message"),
    [
        ("utterance_logits", {}, "labels None: expected a list of 1 to 65536 names"),
        ("utterance_logits", {**CLASSES, "labels": []}, "expected a list of 1 to 65536 names"),
        ("frame_logits", {**CLASSES, "labels": "ab"}, "labels 'ab': expected a list"),
        ("frame_logits", {**CLASSES, "labels": {"a": 0}}, "expected a list"),
        ("frame_logits", {**CLASSES, "labels": ["a", 1]}, "label 1: expected text"),
        ("frame_logits", {**CLASSES, "labels": ["a", "\ud800"]}, "expected text"),
        ("frame_logits", {**CLASSES, "labels": ["a", "b", "a"]}, "label 'a' is there twice"),
        (
            "frame_logits",
            {**CLASSES, "labels": [str(n) for n in range(65_537)]},
            "expected a list of 1 to 65536 names",
        ),
        ("frame_logits", {"labels": ["a"]}, "multi_label None: expected true or false"),
        ("frame_logits", {**CLASSES, "multi_label": 1}, "multi_label 1: expected true or false"),
        ("embedding", {"width": 4}, "pooling None: expected 1 to 200 characters"),
        ("embedding", {**POOLED, "pooling": ""}, "pooling '': expected 1 to 200 characters"),
        ("embedding", {**POOLED, "pooling": "x" * 201}, "expected 1 to 200 characters"),
        ("embedding", {**POOLED, "width": 0}, "width 0: expected 1 to 1048576"),
        ("embedding", {**POOLED, "width": True}, "width True: expected 1 to 1048576"),
        ("embedding", {**POOLED, "width": 1 << 21}, "width 2097152: expected 1 to 1048576"),
        ("embedding", {**POOLED, "width": 4.0}, "width 4.0"),
    ],
    ids=map(str, itertools.count()),
)
def test_a_group_without_the_facts_is_refused_before_anything_is_written(
    tmp_path: Path, signal: str, facts: dict[str, Any], message: str
) -> None:
    info = replace(MAKERS["acoustic"], signals={signal: facts})
    with pytest.raises(TapeError, match=f"facts of signal '{signal}': .*{message}"):
        TapeWriter(tmp_path, info)
    assert list(tmp_path.iterdir()) == []


def test_classes_belong_to_acoustic_sources(tmp_path: Path) -> None:
    info = replace(MAKERS["textual"], signals={"utterance_logits": CLASSES})
    with pytest.raises(TapeError, match="'utterance_logits' in a group of kind 'textual'"):
        TapeWriter(tmp_path, info)


def test_as_many_classes_as_there_may_be(tmp_path: Path) -> None:
    labels = [f"class {number}" for number in range(1 << 16)]
    facts = {"labels": labels, "multi_label": True}
    info = replace(MAKERS["acoustic"], signals={"utterance_logits": facts})
    logits = np.arange(1 << 16, dtype=np.float32)
    make(tmp_path / "tape", [0], groups=["samples"])
    with TapeWriter(tmp_path / "tape", info) as writer:
        writer.add({"utterance_logits": [utterance_logits_row("s0", logits)]})
    read = open_tape(tmp_path / "tape")["s0"]["acoustic/utterance_logits"]
    assert isinstance(read, UtteranceLogits)
    assert (list(read.labels), read.logits.tolist()) == (labels, logits.tolist())
    assert told(tmp_path / "tape") == set()


def test_names_too_long_for_a_reader_are_refused(tmp_path: Path) -> None:
    facts = {"labels": [f"{number:0100}" for number in range(1 << 16)], "multi_label": True}
    info = replace(MAKERS["acoustic"], signals={"utterance_logits": facts})
    with pytest.raises(TapeError, match=r"of group 'acoustic' is too long: .* takes 4194304"):
        TapeWriter(tmp_path, info)
    assert list(tmp_path.iterdir()) == []


def test_other_classes_are_another_maker_and_told_in_a_line(good: Path, tmp_path: Path) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    labels = [f"class {number}" for number in range(5000)]
    facts = ({**CLASSES, "labels": some} for some in (labels, [*labels[:-1], "another"]))
    before, after = (
        replace(MAKERS["wavlm"], group="beats", signals={"frame_logits": some}) for some in facts
    )
    with TapeWriter(root, before) as writer:
        writer.add({"frame_logits": [frame_logits_row("s0", np.zeros((0, 5000)), TIMES[:0])]})
    expected = r"item 4999 'class 4999', .* item 4999 'another'"
    with pytest.raises(ProvenanceError, match=expected) as refused:
        TapeWriter(root, after)
    assert len(str(refused.value)) < 500


def first(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


def second(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[1].update(values)


@pytest.mark.parametrize(
    ("table", "change", "location", "kind"),
    [
        ("utterance_logits", first(logits=[1.0]), "row 0", "row"),
        ("utterance_logits", first(logits=[1.0, np.nan]), "row 0", "row"),
        ("utterance_logits", first(trace_index=0), "row 0", "row"),
        ("utterance_logits", lambda rows: rows.append(rows[0]), "", "table"),
        ("frame_logits", second(logits=[1.0]), "row 1", "row"),
        ("frame_logits", second(logits=[1.0] * 6), "row 1", "row"),
        ("frame_logits", second(times_s=[0.2, 0.1]), "row 1", "row"),
        ("frame_logits", second(times_s=[0.0]), "row 1", "row"),
        ("frame_logits", second(times_s=[np.inf, np.inf]), "row 1", "row"),
        ("embedding", first(embedding=[1.0]), "row 0", "row"),
        ("embedding", first(embedding=[np.inf] * EMBEDDED), "row 0", "row"),
    ],
    ids=map(str, itertools.count()),
)
def test_rows_that_are_wrong_but_sealed_are_found_by_reading_and_by_verify(
    good: Path, tmp_path: Path, table: str, change: Callable[[Any], Any], location: str, kind: str
) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, ACOUSTIC, table, change)
    assert (f"{ACOUSTIC}/{table}.arrow {location}".rstrip(), kind) in told(root)
    with pytest.raises(TapeError):
        [row[f"acoustic/{table}"] for row in open_tape(root)]


def test_frames_end_with_their_audio_and_are_counted(good: Path, tmp_path: Path) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, ACOUSTIC, "frame_logits", second(times_s=[0.5, 0.6]))
    assert told(root) == {("acoustic/frame_logits", "times")}
    edit_table(root, ACOUSTIC, "frame_logits", second(times_s=[0.0, 0.1] * 2, logits=[0.0] * 6))
    assert told(root) == {(ACOUSTIC, "totals")}


def test_a_row_of_no_sample_is_found(good: Path, tmp_path: Path) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, ACOUSTIC, "embedding", first(sample_id="s77"))
    assert ("acoustic/embedding", "no sample") in told(root)


def test_parts_are_merged_to_the_same_tape(good: Path, tmp_path: Path) -> None:
    parts = [make(tmp_path / "a", [0, 2]), make(tmp_path / "b", [1, 3, 4])]
    merge(parts, tmp_path / "out", uncounted)
    assert told(tmp_path / "out") == set()
    found = compare(open_tape(tmp_path / "out"), open_tape(good), uncounted)
    assert found.equal
    assert found.contents["acoustic/frame_logits"].compared == 5
    assert found.contents["wavlm/embedding"].compared == 5


@pytest.mark.parametrize(
    ("table", "change", "fields"),
    [
        ("utterance_logits", second(logits=[1.0, 2.0]), ["logits"]),
        ("frame_logits", second(times_s=[0.0, 0.125]), ["times_s"]),
        ("embedding", second(embedding=[0.5] * EMBEDDED), ["values"]),
    ],
)
def test_diff_tells_what_differs_and_how_far(
    good: Path, tmp_path: Path, table: str, change: Callable[[Any], Any], fields: list[str]
) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, ACOUSTIC, table, change)
    found = compare(open_tape(good), open_tape(root), uncounted)
    differing = {name: some for name, some in found.contents.items() if not some.equal}
    assert {name: list(some.fields) for name, some in differing.items()} == {
        f"acoustic/{table}": fields
    }
    assert found.contents[f"acoustic/{table}"].max_abs[fields[0]] > 0
