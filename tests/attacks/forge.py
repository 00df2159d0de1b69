# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile tapes with correct checksums and seals: what an attacker writes, not what a disk breaks.

``ATTACKS`` has a function for each; it changes a good tape in place. The modules ``forge_*`` beside
this one fill it when they are imported. Numbers are drawn from the generator an attack is given, so
that a seed names a tape.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import xxhash

from cache_schema.codecs.sealed_json import seal
from cache_schema.fingerprint import fingerprint

HUGE = 1 << 60
BAD_COUNTS: dict[str, Any] = {
    "2^60": HUGE, "negative": -1, "float": 1.5, "10^400": 10**400, "bool": True, "text": "7",
    "null": None, "list": [], "object": {},
}  # fmt: skip


class Forge:
    """A tape being forged.

    Args:
        root: a good tape of one shard a group.
        profile: of its states.
        rng: draws what an attack leaves open.
    """

    def __init__(self, root: Path, profile: str, rng: Random) -> None:
        self.root = root
        self.profile = profile
        self.rng = rng
        self.manifest = root / "manifest" / "w0.jsonl"
        self.topk = "topk" if profile == "hot" else "topk_compact"

    def drop_index(self) -> None:
        """Without an index the reader makes its own, from what is forged."""
        shutil.rmtree(self.root / "index", ignore_errors=True)

    def lines(self) -> list[dict[str, Any]]:
        """The manifest's lines, unsealed."""
        found = [json.loads(line) for line in self.manifest.read_bytes().splitlines()]
        for line in found:
            del line["xxh3_64"]
        return found

    def write_lines(self, lines: list[dict[str, Any]]) -> None:
        """Seal lines; leave no index."""
        self.manifest.write_bytes(b"".join(map(seal, lines)))
        self.drop_index()

    def record(self, group: str) -> dict[str, Any]:
        """The line of a group's shard."""
        return next(
            line for line in self.lines() if line.get("path", "").split("/")[1:2] == [group]
        )

    def change(self, group: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the line of a group's shard, and its ``shard.json``."""
        lines = self.lines()
        at = lines.index(self.record(group))
        folder = self.root / lines[at]["path"]
        change(lines[at])
        self.write_lines(lines)
        (folder / "shard.json").write_bytes(seal(lines[at]))

    def file(self, group: str, name: str) -> Path:
        """A file of a group's shard."""
        return self.root / self.record(group)["path"] / name

    def put(self, group: str, name: str, content: bytes) -> None:
        """Replace a file of a shard; its record fits."""
        self.file(group, name).write_bytes(content)
        made = {"bytes": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}
        self.change(group, lambda line: line["files"].update({name: made}))

    def table(self, group: str, name: str) -> pa.Table:
        """A table of a shard."""
        return pa.ipc.open_file(self.file(group, f"{name}.arrow").read_bytes()).read_all()

    def put_table(self, group: str, name: str, table: pa.Table, **options: Any) -> None:
        """Replace a table; the rows of its record fit."""
        sink = pa.BufferOutputStream()
        batches = options.pop("batches", None) or [table.combine_chunks().to_batches()[0]]
        with pa.ipc.new_file(
            sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)
        ) as writer:
            for batch in batches:
                writer.write_batch(batch)
        self.put(group, f"{name}.arrow", sink.getvalue().to_pybytes())
        rows = sum(batch.num_rows for batch in batches)
        self.change(group, lambda line: line["rows"].update({name: rows}))

    def put_column(self, group: str, table: str, column: str, values: Any) -> None:
        """Replace the values of a column, its type kept unless an array is given."""
        old = self.table(group, table)
        at = old.schema.get_field_index(column)
        field = old.schema.field(at)
        if not isinstance(values, pa.Array):
            values = pa.array(values, field.type)
        else:
            field = field.with_type(values.type)
        self.put_table(group, table, old.set_column(at, field, values))

    def put_cell(self, group: str, table: str, column: str, value: Any) -> None:
        """Replace the last value of a column."""
        values = self.table(group, table).column(column).to_pylist()
        self.put_column(group, table, column, [*values[:-1], value])

    def put_json(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a sealed JSON file; a group's fingerprint fits."""
        path = self.root / name
        values = json.loads(path.read_bytes())
        del values["xxh3_64"]
        change(values)
        if "fingerprint" in values:
            parts = {"signals": values.get("signals"), "identity": values.get("identity")}
            values["fingerprint"] = fingerprint(parts)
        path.write_bytes(seal(values, indent=2))

    def put_zarr(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the metadata of a layer's array."""
        name = "hidden.zarr/L001/zarr.json"
        values = json.loads(self.file("textual", name).read_bytes())
        change(values)
        self.put("textual", name, json.dumps(values).encode())

    def put_chunk(self, change: Callable[[bytearray], Any]) -> None:
        """Change the bytes of a layer's array."""
        name = "hidden.zarr/L001/c/0/0"
        content = bytearray(self.file("acoustic", name).read_bytes())
        change(content)
        self.put("acoustic", name, bytes(content))


Attack = Callable[[Forge], object]
ATTACKS: dict[str, Attack] = {}
"""Name -> what makes the tape. Reading every value must raise a ``TeachertapeError``."""

ONLY_PROFILE: dict[str, str] = {}
"""Attack -> the profile whose files it changes, where it is one."""


def attack(name: str, profile: str = "") -> Callable[[Attack], Attack]:
    """Put an attack into the table."""

    def put(function: Attack) -> Attack:
        assert name not in ATTACKS, name
        ATTACKS[name] = function
        if profile:
            ONLY_PROFILE[name] = profile
        return function

    return put


def sealed_by_hand(body: bytes) -> bytes:
    """Seal JSON text that ``seal`` would refuse to write."""
    body += b', "xxh3_64": "'
    return body + xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n'


NESTED = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000


def _set(values: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        values = values[key]
    values[keys[-1]] = value


def _retyped(forge: Forge, group: str, table: str, column: str) -> None:
    old = forge.table(group, table).column(column)
    wide = {"int32": pa.int64(), "int64": pa.int32(), "float": pa.float64(), "double": pa.float32(),
            "string": pa.large_string(), "bool": pa.int8(), "large_binary": pa.binary()}  # fmt: skip
    kind = wide.get(str(old.type)) or pa.large_list(old.type.value_field)
    forge.put_column(group, table, column, old.cast(kind).combine_chunks())
