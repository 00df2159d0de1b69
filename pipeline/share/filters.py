"""Which samples of a tape are asked for: by id, by what their metadata says, the first so many.

Read from the columns of the tables of samples, a shard at a time: a million samples take 2 to 6 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema import Tape
from cache_schema.errors import MissingSignalError, TapeError, UsageError, nearest

ANSWER = "answer"
_SHOWN = 5
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which samples are taken: those that fit everything given.

    Attributes:
        ids: these; ``None`` for any.
        fields: (field of the metadata, ``a.b`` for one inside another, or ``answer``; its value as
            text or JSON).
        limit: the first so many of what fits, in the dataset's order.
    """

    ids: tuple[str, ...] | None = None
    fields: tuple[tuple[str, str], ...] = ()
    limit: int | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing is asked for."""
        return self.ids is None and not self.fields and self.limit is None


def parse_filter(
    samples: Path | None = None, fields: Sequence[str] = (), limit: int | None = None
) -> Filter:
    """Read what flags ask for.

    Raises:
        UsageError: no file of ids, or not ``key=value``.
    """
    for text in fields:
        if not text.partition("=")[0] or "=" not in text:
            raise UsageError(f"--filter {text!r}: expected KEY=VALUE, such as speaker=ann")
    pairs = tuple((text.partition("=")[0], text.partition("=")[2]) for text in fields)
    return Filter(ids=None if samples is None else _ids_of(samples), fields=pairs, limit=limit)


def _ids_of(file: Path) -> tuple[str, ...]:
    """Read ids: one a line, or a JSON list, in which an id may have line ends."""
    told = f"--samples {file}: expected a file of ids, one a line, or a .json file, a list of them"
    try:
        text = file.read_text(encoding="utf-8-sig")
        ids = json.loads(text) if file.suffix == ".json" else _lines(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(told) from error
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise UsageError(told)
    if not ids:
        raise UsageError(f"{told}; it has none")
    return tuple(ids)


def _lines(text: str) -> list[str]:
    # Not splitlines, which ends lines at characters that an id may have (U+2028 and others).
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]


def chosen_ids(tape: Tape, wanted: Filter) -> list[str]:
    """Return the samples a filter takes, in the dataset's order.

    Raises:
        MissingSignalError: ids or a field that are not on the tape, or nothing fits.
        TapeError: a table is damaged.
    """
    named = None if wanted.ids is None else frozenset(wanted.ids)
    tests = [(key, *_values(text)) for key, text in wanted.fields]
    seen: set[str] = set()
    keys: set[str] = {ANSWER}
    found: dict[str, int] = {}
    for shard in tape.shards.get("samples", ()):
        table = shard.table("samples")
        names = ("sample_id", "row_index", *((ANSWER, "metadata") if tests else ()))
        columns = [table.column(name).to_pylist() for name in names]
        for row in zip(*columns, strict=True):
            sample_id = row[0]
            if named is not None and sample_id not in named:
                continue
            seen.add(sample_id)
            if sample_id not in found and (not tests or _fits(row, tests, keys)):
                found[sample_id] = row[1]
    _refuse_absent(tape, wanted, seen)
    if not found:
        absent = [key for key, *_ in tests if key.split(".")[0] not in keys and key not in keys]
        told = "".join(
            f"; no field {key!r} in their metadata{nearest(key, keys)}" for key in absent[:1]
        )
        raise MissingSignalError(f"no sample of {tape.location} fits; nothing was written{told}")
    # The dataset's order; of equal rows that of the ids.
    ordered = sorted(found, key=lambda one: (found[one], one))
    return ordered[: wanted.limit]


def _refuse_absent(tape: Tape, wanted: Filter, seen: set[str]) -> None:
    absent = [one for one in wanted.ids or () if one not in seen]
    if absent:
        raise MissingSignalError(
            f"--samples: {len(absent)} of {len(wanted.ids or ())} ids are not on {tape.location}: "
            f"{absent[:_SHOWN]}{nearest(absent[0], tape.sample_ids)}"
        )


def _values(text: str) -> tuple[str, Any]:
    """Return what a field may be: this text, or this JSON value."""
    try:
        return text, json.loads(text)
    except (ValueError, RecursionError):
        return text, _ABSENT


def _fits(row: tuple[Any, ...], tests: list[tuple[str, str, Any]], keys: set[str]) -> bool:
    sample_id, _, answer, text = row
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TapeError(f"metadata of sample {sample_id!r}: {error}") from error
    keys.update(metadata)
    return all(_is(_field(metadata, answer, key), value, parsed) for key, value, parsed in tests)


def _field(metadata: Mapping[str, Any], answer: str, key: str) -> Any:
    if key in metadata or key == ANSWER:
        return metadata.get(key, answer)
    inner: Any = metadata
    for part in key.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return _ABSENT
        inner = inner[part]
    return inner


def _is(known: Any, text: str, parsed: Any) -> bool:
    """Whether a field has a value; a truth value is no number, and 1 is 1.0."""
    if isinstance(known, str):
        return known == text
    if known is _ABSENT or parsed is _ABSENT or isinstance(known, bool) != isinstance(parsed, bool):
        return False
    return bool(known == parsed)
