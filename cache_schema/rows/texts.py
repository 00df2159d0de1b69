"""Rows of texts without token ids: traces that were not kept, and what a listening model wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from cache_schema.codecs.sealed_json import refuse_constant
from cache_schema.index.arrays import MAX_TRACES
from cache_schema.rows.checks import Row, checked
from cache_schema.signals import ORIGINS
from cache_schema.types import Heard, Rejected, Segment

MAX_SEGMENTS_BYTES = 1 << 20
"""Longest ``segments`` text: some 10,000 segments; JSON unfolds into 25 times its size."""

MAX_REASON = 80
"""Characters of the reason why a trace was not kept: a few words, for counting."""

_SEEDS = 1 << 63


def check_origin(origin: str, draw: int, seed: int) -> None:
    """Refuse what says nothing of where a trace comes from.

    Raises:
        ValueError: naming what is out of range.
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin {origin!r}: expected one of {', '.join(ORIGINS)}")
    if not 0 <= draw <= MAX_TRACES:
        raise ValueError(f"draw {draw}: expected 0 to {MAX_TRACES}")
    if not -_SEEDS <= seed < _SEEDS:
        raise ValueError(f"seed {seed}: expected a 64-bit integer")


def rejected_row(sample_id: str, number: int, rejected: Rejected) -> Row:
    """Return the ``rejected`` row of a sample's trace that was not kept, numbered from 0."""
    return {"sample_id": sample_id, "trace_index": number, **vars(rejected)}


@checked
def rejected_of(row: Mapping[str, Any]) -> Rejected:
    """Return the trace of a ``rejected`` row."""
    if row["trace_index"] < 0:
        raise ValueError(f"trace index {row['trace_index']}: rejected traces are numbered from 0")
    if not 0 < len(row["reason"]) <= MAX_REASON:
        told = f"reason {row['reason'][:MAX_REASON]!r}"
        raise ValueError(f"{told}: expected 1 to {MAX_REASON} characters")
    check_origin(row["origin"], row["draw"], row["seed"])
    return Rejected(**{name: row[name] for name in Rejected.__dataclass_fields__})


def heard_row(sample_id: str, heard: Heard) -> Row:
    """Return the ``heard`` row of a sample."""
    segments = [vars(segment) for segment in heard.segments]
    return {
        "sample_id": sample_id,
        "text": heard.text,
        "segments": json.dumps(segments, ensure_ascii=False),
    }


@checked
def heard_of(row: Mapping[str, Any]) -> Heard:
    """Return what was heard, of a ``heard`` row."""
    if len(row["segments"].encode()) > MAX_SEGMENTS_BYTES:
        raise ValueError(f"segments of more than {MAX_SEGMENTS_BYTES} bytes")
    values = json.loads(row["segments"], parse_constant=refuse_constant)
    if not isinstance(values, list):
        raise TypeError("segments are not a JSON list")
    return Heard(text=row["text"], segments=tuple(map(_segment, values)))


def _segment(value: Any) -> Segment:
    if not isinstance(value, dict) or value.keys() != Segment.__dataclass_fields__.keys():
        raise ValueError("a segment is not an object of start_s, end_s and text")
    if not isinstance(value["text"], str):
        raise TypeError("the text of a segment is no text")
    value["text"].encode()  # JSON can escape halves of characters, which UTF-8 has not
    start_s, end_s = _seconds(value["start_s"]), _seconds(value["end_s"])
    if not 0 <= start_s <= end_s:
        raise ValueError(f"a segment from {start_s} to {end_s} s: expected 0 <= start_s <= end_s")
    return Segment(start_s=start_s, end_s=end_s, text=value["text"])


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a time of a segment is no number")
    if not math.isfinite(seconds := float(value)):
        raise ValueError("a time of a segment is not finite")
    return seconds
