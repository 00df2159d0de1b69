# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile indexes of a tape, whose manifest is as it was; see ``forge``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import xxhash
from attacks.forge import ATTACKS, HUGE, Forge


def _put_index(forge: Forge, table: pa.Table) -> None:
    folder = forge.root / "index"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    content = sink.getvalue().to_pybytes()
    next(folder.glob("*.arrow")).unlink()
    (folder / f"{xxhash.xxh3_128_hexdigest(content)}.arrow").write_bytes(content)


def _index_of(forge: Forge) -> pa.Table:
    content = next((forge.root / "index").glob("*.arrow")).read_bytes()
    return pa.ipc.open_file(content).read_all()


def _index_column(forge: Forge, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    table = _index_of(forge)
    at = table.schema.get_field_index(column)
    values = change(table.column(column)[0].as_py())
    field = table.schema.field(at)
    _put_index(forge, table.set_column(at, field, pa.array([values], field.type)))


def _index_facts(forge: Forge, key: str, value: Any) -> None:
    table = _index_of(forge)
    facts = json.loads(table.schema.metadata[b"teachertape"])
    facts[key] = value
    _put_index(forge, table.replace_schema_metadata({"teachertape": json.dumps(facts)}))


for _column, _title, _change in (
    ("row_number", "to other rows", lambda values: values[::-1]),
    ("row_number", "far", lambda values: [(1 << 31) - 1] * len(values)),
    ("row_number", "negative", lambda values: [-1] * len(values)),
    ("row_line", "to other shards", lambda values: values[::-1]),
    ("row_line", "far", lambda values: [(1 << 31) - 1] * len(values)),
    ("row_key", "unordered", lambda values: values[::-1]),
    ("row_key", "fewer", lambda values: values[:-1]),
    ("row_key", "far", lambda values: [*values[:-1], (1 << 64) - 1]),
    ("sample_id", "other ids", lambda values: [f"{value}x" for value in values]),
    ("sample_id", "swapped ids", lambda values: values[::-1]),
    ("id_hash", "fewer", lambda values: values[:-1]),
    ("id_number", "far", lambda values: [HUGE] * len(values)),
    ("line_offset", "shifted", lambda values: [value + 1 for value in values]),
    ("line_offset", "far", lambda values: [HUGE] * len(values)),
    ("line_offset", "overflowing", lambda values: [(1 << 63) - 1] * len(values)),
    ("line_length", "long", lambda values: [(1 << 31) - 1] * len(values)),
    ("line_file", "far", lambda values: [7] * len(values)),
    ("line_group", "other groups", lambda values: values[::-1]),
    ("line_group", "far", lambda values: [7] * len(values)),
    ("line_kind", "all quarantined", lambda values: [1] * len(values)),
    ("line_kind", "all shards", lambda values: [0] * len(values)),
):
    ATTACKS[f"index {_column} {_title}"] = lambda forge, column=_column, change=_change: (
        _index_column(forge, column, change)
    )
for _key, _value in (
    ("num_samples", HUGE), ("num_samples", -1), ("num_samples", 3), ("manifests", {}), ("manifests", []),
    ("manifests", {"/etc/passwd": 10}), ("manifests", {"manifest/w0.jsonl": HUGE}), ("groups", []),
    ("groups", ["a", "b", "c", "d"]), ("tables", [["textual", "trace", 0, HUGE]]), ("tables", 3),
    ("tables", [["textual", "trace", -3, 2]]), ("duplicates", "x"),
    ("hashes", {"manifest/w0.jsonl": "0" * 16}), ("hashes", 3),
):  # fmt: skip
    ATTACKS[f"index {_key} = {_value}"] = lambda forge, key=_key, value=_value: _index_facts(
        forge, key, value
    )
