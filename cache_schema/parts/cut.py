"""Cutting a shard down to some of its samples: rows as they are, states as they are stored.

A file of which every row stays is taken whole. Stored states are copied, not decoded and coded
again: what ``lossy2x`` lost stays what it was, and the figures of that stay those of the shard.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs.arrow_file import write_table
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.files import sync_dir, sync_file
from cache_schema.codecs.states_files import ContiguousRows
from cache_schema.codecs.states_lossy2x import lossy2x_specs
from cache_schema.codecs.states_profiles import open_states_reader, open_states_writer
from cache_schema.codecs.zarr_rows import FileRecords, RowsWriter
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.manifest import ShardRecord, States
from cache_schema.signals import SCHEMAS, totals_of

_BLOCK_BYTES = 8 << 20
Spans = list[tuple[int, int]]
BoolArray = NDArray[np.bool_]


def cut_shard(
    shard: Shard, record: ShardRecord, ids: Collection[str] | None, directory: Path
) -> ShardRecord | None:
    """Put what stays of a shard into a directory, durably.

    Args:
        shard: a committed shard.
        record: its line, or that of the part of it that is wanted.
        ids: samples that stay, a set of them; ``None`` for all.
        directory: a new one.

    Returns:
        The record of what is there; ``None``, and nothing there, if no row stays.

    Raises:
        TapeError: the shard is damaged.
    """
    masks = {name: _mask(shard.table(name), ids) for name in record.rows if name in SCHEMAS}
    if not any(mask.any() for mask in masks.values()):
        return None
    if all(mask.all() for mask in masks.values()):
        for name in record.files:
            _take(shard.local(name), directory / name)
        _sync(directory)
        return record
    files: FileRecords = {}
    states = record.states
    tables = {name: shard.table(name).filter(pa.array(mask)) for name, mask in masks.items()}
    tables = {name: table for name, table in tables.items() if table.num_rows}
    if "hidden" in tables and states is not None:
        tables["hidden"], spans = _moved(tables["hidden"], shard)
        states = replace(states, positions=sum(count for _, count in spans))
        for layer in states.layers:
            files |= _cut_layer(shard, layer, spans, directory)
        node = f"{layout.HIDDEN_STORE}/zarr.json"
        _take(shard.local(node), directory / node)
        files[node] = dict(record.files[node])
    else:
        states = None
    for name, table in tables.items():
        file = layout.table_file(name)
        files[file] = write_table(directory / file, table)
    _sync(directory)
    return replace(
        record,
        samples=len({one for table in tables.values() for one in table["sample_id"].to_pylist()}),
        rows={name: table.num_rows for name, table in sorted(tables.items())},
        totals=_totals(shard, masks),
        states=states,
        files=files,
    )


def _mask(table: pa.Table, ids: Collection[str] | None) -> BoolArray:
    """Return which rows are of chosen samples, bool [rows]."""
    if ids is None:
        return np.ones(table.num_rows, dtype=bool)
    # Not by Arrow, which would look through all the ids for every table.
    return np.array([one in ids for one in table.column("sample_id").to_pylist()], dtype=bool)


def _take(source: Path, target: Path) -> None:
    """Put a committed file somewhere else: by hard link, where the disk allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    sync_file(target)


def _sync(directory: Path) -> None:
    for folder in [directory, *(path for path in directory.rglob("*") if path.is_dir())]:
        sync_dir(folder)


def _moved(table: pa.Table, shard: Shard) -> tuple[pa.Table, Spans]:
    """Return rows of ``hidden`` whose states lie one after another, and where those lay.

    Raises:
        TapeError: they lie outside the arrays, or one on another.
    """
    offsets = table.column("offset").to_pylist()
    counts = table.column("count").to_pylist()
    has = shard.record.states.positions if shard.record.states is not None else 0
    if sum(counts) > has or not all(
        start >= 0 <= count and start + count <= has
        for start, count in zip(offsets, counts, strict=True)
    ):
        raise TapeError(
            f"{shard.record.path}: rows of hidden are not within its arrays of {has} positions"
        )
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)
    place = table.schema.get_field_index("offset")
    moved = table.set_column(place, table.schema.field(place), pa.array(starts, pa.int64()))
    return moved, list(zip(offsets, counts, strict=True))


def _cut_layer(shard: Shard, layer: int, spans: Spans, directory: Path) -> FileRecords:
    """Copy the states of some rows of a layer."""
    states, name = shard.record.states, layout.layer_dir(layer)
    assert states is not None
    if states.profile == "lossy2x":
        return _cut_coded(shard, states, name, spans, directory)
    writer = open_states_writer(directory, name, states.width, states.dtype, states.profile)
    reader = open_states_reader(
        shard.local,
        name,
        profile=states.profile,
        num_rows=states.positions,
        width=states.width,
        logical_dtype=states.dtype,
    )
    spec = _stored(states)
    try:
        _copy(reader, spans, np.empty(spec[0], spec[1]), writer.append)
        return writer.close()[0]
    finally:
        reader.close()
        writer.abort()


def _stored(states: States) -> tuple[tuple[int, int], Any]:
    dtype = STORED_DTYPES[states.dtype]
    return (max(1, _BLOCK_BYTES // (states.width * dtype.itemsize)), states.width), dtype


def _cut_coded(
    shard: Shard, states: States, name: str, spans: Spans, directory: Path
) -> FileRecords:
    """Copy rows and scales of ``lossy2x``; the channels' mean and deviation stay."""
    files: FileRecords = {}
    for suffix, spec in lossy2x_specs(states.width, states.dtype).items():
        of_channels = suffix == "_channels"
        rows = 2 if of_channels else states.positions
        reader = ContiguousRows(shard.local, name + suffix, spec, rows)
        writer = RowsWriter(directory / (name + suffix), spec)
        block = np.empty((max(1, _BLOCK_BYTES // spec.row_bytes), *spec.row_shape), spec.stored)
        try:
            _copy(reader, [(0, 2)] if of_channels else spans, block, writer.append)
            closed = writer.close()
        finally:
            reader.close()
            writer.abort()
        files |= {f"{name}{suffix}/{file}": record for file, record in closed.items()}
    return files


def _copy(reader: Any, spans: Spans, block: Any, append: Any) -> None:
    for start, count in spans:
        for at in range(start, start + count, len(block)):
            part = block[: min(len(block), start + count - at)]
            reader.read_into(at, part)
            append(part)


def _totals(shard: Shard, masks: dict[str, BoolArray]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for name, mask in masks.items():
        if name == "audio":
            continue
        for index in np.flatnonzero(mask).tolist():
            totals.update(totals_of(name, shard.row(name, index)))
    return dict(totals)
