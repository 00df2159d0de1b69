"""The manifest: what is committed, a sealed JSON line each; nothing else exists."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache_schema import layout
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.files import CHECKSUM, sync_dir
from cache_schema.codecs.sealed_json import MAX_BYTES, seal, unseal
from cache_schema.codecs.states_files import MAX_WIDTH
from cache_schema.errors import TapeError
from cache_schema.signals import STATES_PROFILES

MAX_COUNT = 1 << 48
"""Largest number of rows, positions or bytes that is believed."""


MAX_LAYER = 1 << 12


@dataclass(frozen=True, kw_only=True)
class States:
    """How the layer arrays of a shard are stored.

    Attributes:
        layers: recorded layers, ascending.
        positions: rows of each array.
        width: columns of each array.
        dtype: logical type.
        profile: ``hot``, ``archive`` or ``lossy2x``.
        errors: layer (as text) -> what storing it lost, measured while it was written; empty for
            lossless profiles.
    """

    layers: tuple[int, ...]
    positions: int
    width: int
    dtype: str
    profile: str
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One committed shard.

    Attributes:
        group: ``samples``, ``descriptions`` or a source.
        path: directory, relative to the tape.
        fingerprint: of the group's maker.
        samples: number of samples in it.
        rows: table -> number of rows.
        totals: sums over its rows (tokens, audio samples, right answers, ...), for summaries.
        states: its layer arrays, if it has any.
        files: file -> ``{"bytes": n, "xxh3_128": hex}``.
    """

    group: str
    path: str
    fingerprint: str
    samples: int
    rows: Mapping[str, int]
    totals: Mapping[str, int]
    states: States | None
    files: Mapping[str, Mapping[str, Any]]

    @property
    def layers(self) -> tuple[int, ...]:
        """Recorded layers."""
        return () if self.states is None else self.states.layers

    @property
    def positions(self) -> int:
        """Rows of each layer array."""
        return 0 if self.states is None else self.states.positions


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """One sample a group could not record, and why."""

    group: str
    sample_id: str
    row_index: int
    reason: str
    detail: str


def line_of(kind: str, record: ShardRecord | Quarantined) -> bytes:
    """Return the manifest line of a record."""
    return seal({"type": kind, **asdict(record)})


def append_line(path: Path, line: bytes) -> None:
    """Append one line durably; this is the moment a shard begins to exist."""
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(descriptor).st_size
    written = 0
    try:
        while written < len(line):  # a disk that fills up takes a part first, then says so
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)
    if new:
        sync_dir(path.parent)


def drop_cut_line(path: Path) -> None:
    """Remove a last line that a crash cut short, so that the next one starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.truncate(path, whole)


def whole_lines(content: bytes | mmap.mmap, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) from ``start``; a last line cut by a crash is not yet a line.

    Of a line longer than any is, only as much is yielded as ``unseal`` needs to refuse it.
    """
    most = MAX_BYTES + 1
    while (end := content.find(b"\n", start, start + most)) >= 0:
        yield start, content[start : end + 1]
        start = end + 1
    if len(content) - start >= most:
        yield start, content[start : start + most]


def parse_line(line: bytes, where: str) -> ShardRecord | Quarantined:
    """Read a manifest line, believing nothing in it.

    Raises:
        TapeError: it is damaged, of an unknown kind, leads out of the tape, or claims the absurd.
    """
    values = unseal(line, where)
    try:
        kind = values.pop("type")
        if kind == "shard":
            states = values["states"]
            if states is not None:
                values["states"] = States(**{**states, "layers": tuple(states["layers"])})
            return _checked(ShardRecord(**values))
        if kind == "quarantine":
            return _checked_quarantine(Quarantined(**values))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TapeError(f"{where}: not a manifest line ({error})") from error
    raise TapeError(f"{where}: unknown line type {kind!r}")


def records_of(content: bytes, where: str) -> list[ShardRecord | Quarantined]:
    """Return every record of a manifest file."""
    return [parse_line(line, f"{where} at byte {at}") for at, line in whole_lines(content)]


def _checked(record: ShardRecord) -> ShardRecord:
    """Refuse what leads out of the tape or claims the absurd: it must be safe to open."""
    expected = layout.SHARD_PATH.fullmatch(record.path)
    if expected is None or expected["group"] != record.group:
        raise ValueError(f"{record.path!r} is not a shard of group {record.group!r}")
    for name, file in record.files.items():
        if not layout.SHARD_FILE_NAME.fullmatch(name) or ".." in name:
            raise ValueError(f"{name!r} is not a file of a shard")
        _count(file["bytes"], f"bytes of {name}")
        if not isinstance(file[CHECKSUM], str):
            raise TypeError(f"{name!r} has no checksum")
    tables = {layout.table_file(name) for name in record.rows}
    if tables != {name for name in record.files if name.endswith(layout.table_file(""))}:
        raise ValueError(f"rows of {sorted(record.rows)}, which are not the tables among its files")
    _count(record.samples, "samples")
    for name, count in [*record.rows.items(), *record.totals.items()]:
        _count(count, name)
    if record.states is not None:
        _check_states(record.states)
    return record


def _checked_quarantine(record: Quarantined) -> Quarantined:
    texts = (record.group, record.sample_id, record.reason, record.detail)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("group, sample_id, reason and detail must be text")
    _count(record.row_index, "row_index")
    return record


def _check_states(states: States) -> None:
    _count(states.positions, "positions")
    if _count(states.width, "width") > MAX_WIDTH:
        raise ValueError(f"width {states.width} is beyond {MAX_WIDTH}")
    if states.dtype not in STORED_DTYPES:
        raise ValueError(f"dtype {states.dtype!r}: expected one of {', '.join(STORED_DTYPES)}")
    if states.profile not in STATES_PROFILES:
        raise ValueError(f"profile {states.profile!r}: expected {', '.join(STATES_PROFILES)}")
    layers = [_count(layer, "layer") for layer in states.layers]
    if layers != sorted(set(layers)) or (layers and layers[-1] > MAX_LAYER):
        raise ValueError(f"layers {layers}: expected ascending numbers up to {MAX_LAYER}")


def _count(value: Any, name: str) -> int:
    """Return a count that can be believed."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name}: {value!r} is not a count")
    return value
