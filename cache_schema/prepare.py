"""A sample is checked before any of it is written, as its reader will check it.

Whatever fails leaves the shard as it was, so the sample can be quarantined and the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema.codecs import bfloat16
from cache_schema.codecs.sealed_json import refuse_constant
from cache_schema.errors import TapeError
from cache_schema.index.arrays import MAX_TRACES
from cache_schema.rows.values import DECODERS, Row, audio_of, compact_row, decode, place_of
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW, CLASS_SIGNALS, SCHEMAS

Rows = Mapping[str, list[Row]]
Facts = Mapping[str, Mapping[str, Any]]
Placed = list[tuple[Row, Mapping[int, NDArray[Any]]]]


class RowError(TapeError):
    """A sample's rows or states break the format; nothing of it was written."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One sample as it will be stored.

    Attributes:
        rows: table -> rows, number lists as arrays, top-k in the stored form.
        hidden: ``hidden`` rows with their states, layer -> [n, width] in the stored type.
    """

    rows: dict[str, list[Row]]
    hidden: Placed


def prepare(rows: Rows, hidden: Placed, storage: Storage, signals: Facts) -> Prepared:
    """Check one sample and bring it into the form it is stored in.

    Args:
        rows: table -> rows, top-k as ``topk`` and ``lens``, however they are stored.
        hidden: ``hidden`` rows with their states, layer -> [n, width], float32, float16 or the bits
            of bfloat16 as uint16.
        storage: how signals are stored.
        signals: what the group says of its signals ``hidden`` (``layers``, ``width``) and ``lens``
            (``layers``, ``k``), if anything; of classifiers and embeddings everything there is.

    Raises:
        RowError: values out of range or not finite, lengths that differ, text that is not UTF-8; or
            no row at all, a sample that a shard would count and no reader could find.
    """
    if not hidden and not any(rows.values()):
        raise RowError("nothing to record: a sample without a row in any table")
    found: dict[str, list[Row]] = {}
    for table, items in rows.items():
        for number, item in enumerate(items):
            row = _as_stored(table, item)
            _check(table, row, rows, number, signals)
            if table == "lens":
                _check_lens(row, signals.get("lens", {}))
            stored = table
            if table in ("topk", "lens") and storage.topk == "compact":
                stored, row = f"{table}_compact", _compact(table, row)
            found.setdefault(stored, []).append(row)
    facts = signals.get("hidden", {})
    placed = [_prepare_states(row, states, storage, facts) for row, states in hidden]
    return Prepared(rows=found, hidden=placed)


def _compact(table: str, row: Row) -> Row:
    try:
        return compact_row(row)
    except TapeError as error:
        raise RowError(f"{table} of sample {row['sample_id']!r}: {error}") from error


def _as_stored(table: str, item: Row) -> Row:
    """Return a row whose number lists are arrays of integers or of float32."""
    row: Row = {}
    for field in SCHEMAS[table]:
        value = item[field.name]
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise RowError(f"{table}.{field.name}: not UTF-8 ({error})") from error
        if pa.types.is_list(field.type) and value is not None:
            if pa.types.is_integer(field.type.value_type):
                value = np.asarray(value)
                if len(value) and value.dtype.kind not in "iu":
                    raise RowError(
                        f"{table}.{field.name}: {value.dtype} numbers, expected integers"
                    )
            elif pa.types.is_floating(field.type.value_type):
                value = np.asarray(value, dtype=np.float32)
        row[field.name] = value
    return row


def _check(table: str, row: Row, rows: Rows, number: int, signals: Facts) -> None:
    where = f"{table} of sample {row['sample_id']!r}"
    if not AUDIO_ROW <= row.get("trace_index", 0) <= MAX_TRACES:
        raise RowError(f"{where}: trace index {row['trace_index']}")
    try:
        if table in DECODERS or table in CLASS_SIGNALS:
            decode(table, row, signals, where)
        elif table == "audio":
            audio_of(row, rows["samples"][number]["num_audio_samples"], where)
        elif table == "samples":
            _check_sample(row, where)
    except TapeError as error:
        raise RowError(str(error)) from error


def _check_sample(row: Row, where: str) -> None:
    if row["row_index"] < 0 or row["num_audio_samples"] < 0:
        raise RowError(f"{where}: row {row['row_index']}, {row['num_audio_samples']} audio samples")
    try:
        metadata = json.loads(row["metadata"], parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{where}: metadata is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise RowError(f"{where}: metadata is not a JSON object")


def _check_lens(row: Row, facts: Mapping[str, Any]) -> None:
    """Refuse other layers or another k than the group's; its readers go by the group's facts."""
    given = {"layers": row["layers"].tolist(), "k": row["k"]}
    told = {name: facts.get(name, value) for name, value in given.items()}
    if told != given:
        raise RowError(
            f"lens of sample {row['sample_id']!r}: layers {given['layers']} and k {given['k']}, "
            f"the group says {told}"
        )


def _prepare_states(
    row: Row, states: Mapping[int, NDArray[Any]], storage: Storage, facts: Mapping[str, Any]
) -> tuple[Row, Mapping[int, NDArray[Any]]]:
    where = f"hidden of sample {row['sample_id']!r}"
    shapes = {rows.shape for rows in states.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise RowError(f"{where}: layers of shapes {sorted(shapes)}, expected one [n, width]")
    count, width = shapes.pop()
    layers = sorted(states)
    told = {"layers": facts.get("layers", layers), "width": facts.get("width", width)}
    if told != {"layers": layers, "width": width}:
        raise RowError(f"{where}: layers {layers} of width {width}, the group says {told}")
    placed = _as_stored("hidden", {**row, "offset": 0, "count": count})
    _check("hidden", placed, {}, 0, {})
    try:
        place_of(placed, count, where)
    except TapeError as error:
        raise RowError(str(error)) from error
    encoded = {}
    for layer, values in states.items():
        encoded[layer] = bfloat16.encode(values, storage.states_dtype)
        if not bfloat16.is_finite(encoded[layer]):
            raise RowError(
                f"{where}: a state of layer {layer} is not finite as {storage.states_dtype}"
            )
    return placed, encoded


def storage_of(signals: Facts) -> Storage:
    """Return the storage a group's facts name, the defaults where they name none."""
    hidden, default = signals.get("hidden", {}), Storage()
    topk = {**signals.get("lens", {}), **signals.get("topk", {})}
    return Storage(
        states_dtype=hidden.get("dtype", default.states_dtype),
        profile=hidden.get("profile", default.profile),
        topk=topk.get("codec", default.topk),
    )


def check_storage(signals: Facts, storage: Storage) -> None:
    """Refuse a storage other than the one a group's facts name.

    Raises:
        TapeError: naming what differs.
    """
    hidden = signals.get("hidden", {})
    pairs = [
        ("hidden.profile", hidden.get("profile", storage.profile), storage.profile),
        ("hidden.dtype", hidden.get("dtype", storage.states_dtype), storage.states_dtype),
        *(
            (f"{name}.codec", signals.get(name, {}).get("codec", storage.topk), storage.topk)
            for name in ("topk", "lens")
        ),
    ]
    for name, told, given in pairs:
        if told != given:
            raise TapeError(f"the group's {name} is {told!r}, the writer's storage {given!r}")
