"""Timed metadata as text: who said what from when to when, one line an entry.

``[00:00-00:05] Hello (Gender: Female, Emotion: Happy)``, the form of DeSTA2.5 (arXiv 2507.02768).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cache_schema.errors import DatasetError

START_KEYS = ("start", "start_s", "begin")
END_KEYS = ("end", "end_s", "stop")
DURATION_KEYS = ("duration", "duration_s")
TEXT_KEYS = ("text", "transcript", "sentence", "content")
LABEL_KEYS = ("label", "event", "event_label", "class", "category", "name")
"""What an entry without a text is called by: events have a label and say nothing."""

FIRST_ATTRIBUTES = ("speaker", "gender", "age", "emotion", "language", "accent")
"""Attributes that come first: metadata on a tape has its keys in the alphabet's order."""

SPANS_COLUMN = "recordings_s"
"""Where a sample's metadata has the seconds of each recording that was joined."""

BOOKKEEPING = (
    "id",
    "seek",
    "tokens",
    "temperature",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
    "words",
)
"""What speech recognisers note of a segment for themselves: it says nothing of the sound."""

MAX_ATTRIBUTE = 100
"""Characters of the longest attribute: a name, a feeling, a number; a longer text is none."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", re.ASCII)


def timed_entries(value: Any, column: str) -> Sequence[Any] | None:
    """Return the entries of timed metadata; ``None`` for a value that is something else.

    That is a list of mappings, one of which has a start or an end, or the same turned over, as
    ``datasets`` gives a sequence of structures: a mapping of lists, starts or ends among them.

    Raises:
        DatasetError: the lists of a mapping differ in length.
    """
    if isinstance(value, list | tuple):
        found = any(isinstance(entry, Mapping) and _has_times(entry) for entry in value)
        return value if found else None
    if not (isinstance(value, Mapping) and _has_times(value)):
        return None
    if not all(isinstance(items, list | tuple) for items in value.values()):
        return None
    lengths = {str(key): len(items) for key, items in value.items()}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"column {column!r}: lists of different lengths, {lengths}")
    return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]


def _has_times(entry: Mapping[str, Any]) -> bool:
    return any(key in entry for key in (*START_KEYS, *END_KEYS))


def timed_lines(entries: Sequence[Any], column: str, tenths: bool = False) -> list[str]:
    """Return a line for each entry that says something, in the order given.

    Times are rounded to the nearest second; hours are written where the column needs them. An
    entry with a start alone is at that moment.

    Args:
        entries: mappings with a start, maybe an end or a duration (seconds, or text such as
            ``01:05`` and ``1:02:03.5``), a text or a label, and any other fields (``entry_text``).
        column: what errors call it.
        tenths: tell tenths of a second of an entry that is shorter than a second, or starts in the
            same one as another.

    Raises:
        DatasetError: an entry is no mapping, or says something at no time or an impossible one.
    """
    said: list[tuple[float, float | None, str]] = []
    for index, entry in enumerate(entries):
        where = f"column {column!r}, entry {index}"
        if not isinstance(entry, Mapping):
            raise DatasetError(f"{where}: expected fields with a start and an end, got {entry!r}")
        if text := entry_text(entry):
            said.append((*_span_s(entry, where), text))
    last_s = [start_s if end_s is None else end_s for start_s, end_s, _ in said]
    with_hours = any(_whole(time_s) >= 3600 for time_s in last_s)
    starts = Counter(_whole(start_s) for start_s, _, _ in said)
    lines = []
    for start_s, end_s, text in said:
        is_short = end_s is not None and end_s - start_s < 1
        fine = tenths and (is_short or starts[_whole(start_s)] > 1)
        end = "" if end_s is None else f"-{_clock(end_s, with_hours, fine)}"
        lines.append(f"[{_clock(start_s, with_hours, fine)}{end}] {text}")
    return lines


def span_lines(spans_s: Any) -> str | None:
    """Return a line for each recording that was joined into one; ``None`` for another value.

    Args:
        spans_s: start and end of each, in seconds, as
            ``pipeline.dataset.recordings_of_row`` tells them.
    """
    entries = spans_s if isinstance(spans_s, list | tuple) else ()
    if not entries or not all(isinstance(one, list | tuple) and len(one) == 2 for one in entries):
        return None
    said = [
        {"start": start_s, "end": end_s, "text": f"Recording {number}"}
        for number, (start_s, end_s) in enumerate(entries, 1)
    ]
    return "\n".join(timed_lines(said, SPANS_COLUMN))


def silent_entries(value: Any, column: str) -> int:
    """Return how many entries of a list of entries say nothing, so that they get no line.

    Raises:
        DatasetError: as ``timed_entries``.
    """
    entries = timed_entries(value, column)
    if entries is None:
        entries = value if isinstance(value, list | tuple) else ()
    if not all(isinstance(entry, Mapping) for entry in entries):
        return 0
    return sum(not entry_text(entry) for entry in entries)


def entry_text(entry: Mapping[str, Any]) -> str:
    """Return what an entry says, its attributes in parentheses; empty if it says nothing.

    Attributes are its other fields that hold a number or short texts, but for times and for what
    speech recognisers note for themselves (``BOOKKEEPING``).
    """
    said = next((key for key in (*TEXT_KEYS, *LABEL_KEYS) if _plain(entry.get(key))), None)
    ranks = {key: rank for rank, key in enumerate(FIRST_ATTRIBUTES)}
    told = (said, *START_KEYS, *END_KEYS, *DURATION_KEYS)
    others = [key for key in entry if key not in told and str(key).lower() not in BOOKKEEPING]
    others.sort(key=lambda key: ranks.get(str(key).lower(), len(ranks)))
    values = {key: _attribute(entry[key]) for key in others}
    attributes = [f"{_title(key)}: {value}" for key, value in values.items() if value]
    parts = [_plain(entry[said])] if said is not None else []
    parts += [f"({', '.join(attributes)})"] if attributes else []
    return " ".join(parts)


def _attribute(value: Any) -> str:
    """Return a value as an attribute; empty for one that is none."""
    texts = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    text = _plain(value) if texts or isinstance(value, str | int | float) else ""
    return text if len(text) <= MAX_ATTRIBUTE else ""


def seconds_of(value: Any, where: str) -> float:
    """Return seconds from a number, or from text: ``mm:ss``, ``hh:mm:ss`` or a number.

    Raises:
        DatasetError: it is none of these, is negative or not finite.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer that no float holds
            seconds = float(value)
    elif isinstance(value, str):
        seconds = _seconds_of_text(value.strip())
    if not (math.isfinite(seconds) and seconds >= 0):
        raise DatasetError(
            f"{where}: expected seconds from 0 on, 'mm:ss' or 'hh:mm:ss', got {value!r:.80}"
        )
    return seconds


def _seconds_of_text(text: str) -> float:
    match = _CLOCK.fullmatch(text)
    if match is None:
        try:
            return float(text)
        except ValueError:
            return math.nan
    hours, minutes, seconds = int(match[1] or 0), int(match[2]), float(match[3])
    if seconds >= 60 or (match[1] is not None and minutes >= 60):
        return math.nan
    return hours * 3600 + minutes * 60 + seconds


def _span_s(entry: Mapping[str, Any], where: str) -> tuple[float, float | None]:
    """Return start and end; the end ``None`` if neither an end nor a duration tells it."""
    start_s = _time_s(entry, START_KEYS, where)
    if start_s is None:
        raise DatasetError(
            f"{where}: no {START_KEYS[0]} ({', '.join(START_KEYS)}); it has "
            f"{', '.join(map(str, entry))}"
        )
    end_s = _time_s(entry, END_KEYS, where)
    if end_s is None:
        duration_s = _time_s(entry, DURATION_KEYS, where)
        end_s = None if duration_s is None else start_s + duration_s
    if end_s is not None and end_s < start_s:
        raise DatasetError(f"{where}: it ends at {end_s:g} s, before it starts at {start_s:g} s")
    return start_s, end_s


def _time_s(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> float | None:
    found = [key for key in keys if entry.get(key) is not None]
    times_s = {seconds_of(entry[key], f"{where}, {key}") for key in found}
    if len(times_s) > 1:
        raise DatasetError(f"{where}: {' and '.join(found)} differ")
    return times_s.pop() if times_s else None


def _whole(seconds: float) -> int:
    return math.floor(seconds + 0.5)


def _clock(seconds: float, with_hours: bool, fine: bool) -> str:
    whole, tenth = divmod(math.floor(10 * seconds + 0.5), 10) if fine else (_whole(seconds), 0)
    minutes, rest = divmod(whole, 60)
    tail = f"{rest:02d}.{tenth}" if fine else f"{rest:02d}"
    if not with_hours:
        return f"{minutes:02d}:{tail}"
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{tail}"


def _title(key: Any) -> str:
    name = str(key).replace("_", " ").strip()
    return name[:1].upper() + name[1:]


def _plain(value: Any) -> str:
    """Return a field's value on one line; a line is an entry, so none may be within one."""
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_plain, value)))
    return "" if value is None or isinstance(value, Mapping) else " ".join(str(value).split())
