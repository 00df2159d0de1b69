"""JSON that notices damage: its last field is a checksum of every byte before that field's value.

A sealed text ends in ``"xxh3_64": "<16 hex digits>"}`` and a newline; the digits are the XXH3-64 of
all bytes up to and including the opening quote of the digits. It stays plain JSON for any reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import xxhash

from cache_schema.errors import TapeError

MAX_BYTES = 4 << 20
"""Longest sealed text: a manifest line of a shard with thousands of files stays far below."""

_FIELD = b'"xxh3_64": "'
_SEALED = re.compile(rb'(.*"xxh3_64": ")([0-9a-f]{16})"\}\n', re.DOTALL)


def seal(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return sealed JSON: one line, or indented for people.

    Args:
        values: JSON values; a NaN or an infinity is refused.
        indent: spaces a level; ``None`` for one line.

    Raises:
        TapeError: longer than a reader would take.
    """
    assert values, "an empty object has nothing to seal"
    text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)
    separator = ", " if indent is None else ",\n" + " " * indent
    text = text.removesuffix("}").rstrip("\n") + separator
    body = text.encode(errors="backslashreplace") + _FIELD  # a lone surrogate as its JSON escape
    sealed = body + xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n'
    if len(sealed) > MAX_BYTES:
        raise TapeError(f"{len(sealed)} bytes of JSON, a tape takes {MAX_BYTES} in one text")
    return sealed


def is_sealed(content: bytes) -> bool:
    """Whether a text ends in the checksum of what is before: it arrived as it was written."""
    match = _SEALED.fullmatch(content) if len(content) <= MAX_BYTES else None
    return match is not None and xxhash.xxh3_64_hexdigest(match[1]).encode() == match[2]


def unseal(content: bytes, where: str) -> dict[str, Any]:
    """Read what ``seal`` wrote.

    Args:
        content: the whole text.
        where: what to call it in an error.

    Raises:
        TapeError: too long, damaged, or not a JSON object.
    """
    if len(content) > MAX_BYTES:
        raise TapeError(f"{where}: {len(content)} bytes of JSON, at most {MAX_BYTES} are read")
    match = _SEALED.fullmatch(content)
    if match is None:
        raise TapeError(f"{where}: does not end in its checksum; it was cut or is no tape's file")
    if xxhash.xxh3_64_hexdigest(match[1]).encode() != match[2]:
        raise TapeError(f"{where} is damaged (its checksum differs)")
    try:
        values = json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TapeError(f"{where}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise TapeError(f"{where}: expected a JSON object, got a {type(values).__name__}")
    del values["xxh3_64"]
    return values


def refuse_constant(name: str) -> NoReturn:
    """Refuse what Python reads in JSON and JSON has not: NaN, Infinity."""
    raise ValueError(f"{name} is not JSON")
