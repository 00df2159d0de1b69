"""Rows of traces, text states and what was heard that break the format are refused unwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_tape import rejected_of, trace_of

from cache_schema.errors import TapeError
from cache_schema.maker import GroupInfo
from cache_schema.prepare import RowError, prepare
from cache_schema.rows.values import heard_row, hidden_row, rejected_row, trace_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW, HIDDEN_KINDS
from cache_schema.types import Heard, Segment
from cache_schema.writer import TapeWriter

SEGMENT = {"start_s": 0.0, "end_s": 1.0, "text": "a"}


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ({"start_s": 2.0}, "from 2.0 to 1.0 s"),
        ({"start_s": -0.5}, "from -0.5 to 1.0 s"),
        ({"end_s": float("nan")}, "NaN is not JSON"),
        ({"end_s": float("inf")}, "Infinity is not JSON"),
        ({"text": "\ud800"}, "not UTF-8"),
    ],
)
def test_what_was_heard_at_no_time_is_refused(segment: dict[str, Any], message: str) -> None:
    heard = Heard(text="a", segments=(Segment(**{**SEGMENT, **segment}),))
    with pytest.raises(RowError, match=message):
        prepare({"heard": [heard_row("s", heard)]}, [], Storage(), {})


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{**SEGMENT, "more": 1}], "not an object of start_s, end_s and text"),
        ([{"start_s": 0, "end_s": 1}], "not an object of start_s, end_s and text"),
        ([{**SEGMENT, "start_s": True}], "is no number"),
        ([{**SEGMENT, "end_s": "1"}], "is no number"),
        ([{**SEGMENT, "end_s": 10**400}], "too large"),
        ([{**SEGMENT, "text": 1}], "is no text"),
        ([{**SEGMENT, "text": "a" * (1 << 20)}], "segments of more than 1048576 bytes"),
    ],
)
def test_segments_of_another_form_are_refused(segments: list[Any], message: str) -> None:
    row = {"sample_id": "s", "text": "a", "segments": json.dumps(segments)}
    with pytest.raises(RowError, match=message):
        prepare({"heard": [row]}, [], Storage(), {})


def test_half_a_character_in_a_segment_is_refused() -> None:
    row = {"sample_id": "s", "text": "a", "segments": json.dumps([{**SEGMENT, "text": "\ud800"}])}
    with pytest.raises(RowError, match="surrogates not allowed"):
        prepare({"heard": [row]}, [], Storage(), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": "own"}, "origin 'own': expected one of free, label, given"),
        ({"draw": -1}, "draw -1"),
        ({"draw": 1 << 31}, "draw 2147483648"),
        ({"seed": 1 << 63}, "expected a 64-bit integer"),
    ],
)
def test_a_trace_from_nowhere_is_refused(changes: dict[str, Any], message: str) -> None:
    for table, row in (
        ("trace", trace_row("s", 0, trace_of(0))),
        ("rejected", rejected_row("s", 0, rejected_of(0, 0))),
    ):
        with pytest.raises(RowError, match=message):
            prepare({table: [{**row, **changes}]}, [], Storage(), {})


@pytest.mark.parametrize("reason", ["", "because " * 11])
def test_a_reason_is_a_few_words(reason: str) -> None:
    row = {**rejected_row("s", 0, rejected_of(0, 0)), "reason": reason}
    with pytest.raises(RowError, match="expected 1 to 80 characters"):
        prepare({"rejected": [row]}, [], Storage(), {})


@pytest.mark.parametrize(
    ("trace", "ids", "times_s", "message"),
    [
        (0, [1, 2], None, "of a trace"),
        (AUDIO_ROW, [1, 2], [[0, 1], [1, 2]], "with times"),
        (AUDIO_ROW, None, None, "without target_ids"),
        (AUDIO_ROW, [1], None, "1 target ids for 2 states"),
    ],
)
def test_text_states_of_another_form_are_refused(
    trace: int, ids: list[int] | None, times_s: list[list[float]] | None, message: str
) -> None:
    target_ids = None if ids is None else np.array(ids)
    times = None if times_s is None else np.array(times_s, np.float32)
    row = hidden_row("s", trace, "text", (0, 0), target_ids, times)
    with pytest.raises(RowError, match=message):
        prepare({}, [(row, {1: np.zeros((2, 4), np.float32)})], Storage(), {})
    assert "text" in HIDDEN_KINDS


@pytest.mark.parametrize(
    "name", ["heard_", "heard", "Heard_x", "transcript", "heard_a b", "heard_/x"]
)
def test_a_group_of_what_was_heard_is_named_after_its_column(tmp_path: Path, name: str) -> None:
    info = GroupInfo(group=name, kind="heard")
    with pytest.raises(TapeError, match=r"expected the name heard_<column>|letters, digits and _"):
        TapeWriter(tmp_path, info)
    assert list(tmp_path.iterdir()) == []
