"""Templates of descriptions: text with ``{column}`` fields, read once and filled for each sample.

``{a.b}`` and ``{a[b]}`` mean key ``b`` of column ``a``; a heard column has the keys ``text`` (what
the column alone means too) and ``segments`` (lines with their times). Fields are looked up in
values and nowhere else, so that no template reaches an attribute of a Python object.
"""

from __future__ import annotations

import functools
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cache_schema.errors import DatasetError, UsageError, nearest
from cache_schema.types import Heard
from pipeline.describe.timed import (
    SPANS_COLUMN,
    entry_text,
    silent_entries,
    span_lines,
    timed_entries,
    timed_lines,
)

_FIELD = re.compile(r"(?P<head>[^.\[\]]+)(?P<keys>(?:\.[^.\[\]]+|\[[^.\[\]]+\])*)")
_KEY = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field.

    Attributes:
        name: as written, for messages.
        column: the column it begins at.
        keys: the keys that lead on from there.
        spec: how Python formats the value (``.1f``); empty for plainly.
    """

    name: str
    column: str
    keys: tuple[str, ...]
    spec: str


@functools.lru_cache(maxsize=8)
def parse_template(template: str) -> tuple[str | Field, ...]:
    """Return a template's texts and fields, in order.

    Raises:
        UsageError: it cannot be read, or a field is not the name of a column or of a key within.
    """
    where = f"textualize.template {template!r}"
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"{where}: {error}; fields are {{column}}, braces of the text are {{{{ and }}}}"
        ) from error
    pieces: list[str | Field] = []
    for text, name, spec, conversion in parsed:
        if text:
            pieces.append(text)
        if name is None:
            continue
        if conversion or "{" in (spec or ""):
            raise UsageError(f"{where}: field {name!r} has a conversion or a field within a field")
        pieces.append(_field(name, spec or "", where))
    return tuple(pieces)


def _field(name: str, spec: str, where: str) -> Field:
    match = _FIELD.fullmatch(name)
    keys = tuple(_KEY.findall(match["keys"])) if match else ()
    hidden = [key for key in (name, *keys) if key.startswith("__")]
    if match is None or hidden or match["head"].isdigit():
        raise UsageError(
            f"{where}: {'{' + name + '}'} is no field; expected {{column}}, or {{column.key}} or "
            "{column[key]} for a key of a column that holds fields of its own"
        )
    return Field(name=name, column=match["head"], keys=keys, spec=spec)


def columns_of(template: str) -> list[str]:
    """Return the columns a template begins its fields at."""
    return [piece.column for piece in parse_template(template) if isinstance(piece, Field)]


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """Return the template with a sample's values.

    Raises:
        DatasetError: the sample lacks a column or a key, or a value cannot be written as asked.
        UsageError: the template cannot be read.
    """
    return "".join(
        piece if isinstance(piece, str) else _written(piece, columns)
        for piece in parse_template(template)
    )


def silent_fields(template: str, columns: Mapping[str, Any]) -> int:
    """Return how many entries of the fields' lists of entries say nothing.

    Raises:
        DatasetError: as ``fill``.
    """
    fields = [piece for piece in parse_template(template) if isinstance(piece, Field)]
    return sum(silent_entries(_look_up(field, columns), field.name) for field in fields)


def _written(field: Field, columns: Mapping[str, Any]) -> str:
    value = _look_up(field, columns)
    if not field.spec:
        return as_text(value, field.name)
    plain = isinstance(value, str | int | float)
    try:
        return format(value if plain else as_text(value, field.name), field.spec)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"template field {field.name!r}: {value!r:.80}: {error}") from error


def _look_up(field: Field, columns: Mapping[str, Any]) -> Any:
    if field.name in columns:  # a column whose own name has a dot
        return columns[field.name]
    if field.column not in columns:
        raise DatasetError(
            f"description template names column {field.column!r}, which the sample lacks"
            f"{nearest(field.column, columns)} (it has: {', '.join(sorted(columns)) or 'none'})"
        )
    value = columns[field.column]
    if isinstance(value, Heard) and field.keys:
        value = {"text": value.text, "segments": [vars(segment) for segment in value.segments]}
    for key in field.keys:
        if not isinstance(value, Mapping) or key not in value:
            has = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)[:80]
            raise DatasetError(
                f"description template names {field.name!r}, and there is no {key!r} in what it "
                f"leads to (there is: {has})"
            )
        value = value[key]
    return value


def as_text(value: Any, column: str) -> str:
    """Return a column's value as the text of a description.

    Text and numbers are as they are, plain lists joined by commas, lists of entries a line an
    entry that says something (with its times where they have times), what was heard is its text,
    the seconds of joined recordings a line each, and anything else is JSON.

    Raises:
        DatasetError: an entry of timed metadata is malformed.
    """
    if value is None:
        return ""
    spans = span_lines(value) if column == SPANS_COLUMN else None
    if spans is not None:
        return spans
    entries = timed_entries(value, column)
    if entries is not None:
        return "\n".join(timed_lines(entries, column))
    if isinstance(value, list | tuple):
        if value and all(isinstance(entry, Mapping) for entry in value):
            return "\n".join(filter(None, map(entry_text, value)))
        return ", ".join(filter(None, (as_text(entry, column) for entry in value)))
    if isinstance(value, Heard):
        return value.text
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
