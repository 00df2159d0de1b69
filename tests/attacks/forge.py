# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile tapes with correct checksums and seals: what an attacker writes, not what a disk breaks.

``ATTACKS`` has a function for each; it changes a good tape in place. Numbers are drawn from the
generator it is given, so that a seed names a tape.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import xxhash
from whole_tape import WIDTH

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


# Names that lead out, links, and what is no file


def _named(values: dict[str, Any], name: str) -> None:
    values["files"][name] = values["files"].pop("trace.arrow")


for _path in ("../elsewhere/w0-000000", "/shards/textual/000/w0-000000", "shards/samples/000/w0-000000",
              "shards/textual/../textual/w0-000000", "", ".", "shards/textual/000/w0-000000/\0"):  # fmt: skip
    ATTACKS[f"path {_path!r}"] = lambda forge, path=_path: forge.change(
        "textual", lambda line: line.update(path=path)
    )
for _name in (
    "../../x",
    "/etc/hostname",
    "a/../../b",
    "hidden.zarr/../../../dataset.json",
    "",
    "a\0b",
):
    ATTACKS[f"file {_name!r}"] = lambda forge, name=_name: forge.change(
        "textual", lambda line: _named(line, name)
    )


def _places(forge: Forge) -> dict[str, Path]:
    return {
        "dataset": forge.root / "dataset.json",
        "group": forge.root / "groups" / "textual.json",
        "manifest": forge.manifest,
        "index": next((forge.root / "index").glob("*.arrow")),
        "table": forge.file("textual", "trace.arrow"),
        "zarr.json": forge.file("textual", "hidden.zarr/L001/zarr.json"),
        "chunk": forge.file("acoustic", "hidden.zarr/L003/c/0/0"),
        "shard": forge.root / forge.record("textual")["path"],
        "hidden.zarr": forge.file("acoustic", "hidden.zarr"),
    }


def _as_link(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    outside = forge.root.parent / f"outside-{forge.root.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _as_device(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    path.unlink()
    path.symlink_to("/dev/zero")


def _as_fifo(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    path.unlink()
    os.mkfifo(path)


def _as_folder(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    path.unlink()
    path.mkdir()


for _place in (
    "dataset",
    "group",
    "manifest",
    "index",
    "table",
    "zarr.json",
    "chunk",
    "shard",
    "hidden.zarr",
):
    ATTACKS[f"link to {_place}"] = lambda forge, place=_place: _as_link(forge, place)
    if _place not in ("shard", "hidden.zarr"):
        ATTACKS[f"fifo for {_place}"] = lambda forge, place=_place: _as_fifo(forge, place)
        ATTACKS[f"device for {_place}"] = lambda forge, place=_place: _as_device(forge, place)
        ATTACKS[f"folder for {_place}"] = lambda forge, place=_place: _as_folder(forge, place)


@attack("a link beside the manifest")
def _(forge: Forge) -> None:
    (forge.root / "manifest" / "evil.jsonl").symlink_to("/dev/zero")


# Manifest, groups and dataset.json


def _set(values: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        values = values[key]
    values[keys[-1]] = value


for _keys in (("samples",), ("rows", "trace"), ("totals", "trace_tokens"), ("states", "positions"),
              ("states", "width"), ("states", "layers", 0), ("files", "trace.arrow", "bytes")):  # fmt: skip
    for _title, _value in BAD_COUNTS.items():
        ATTACKS[f"{'.'.join(map(str, _keys))} {_title}"] = lambda forge, keys=_keys, value=_value: (
            forge.change("textual", lambda line: _set(line, keys, value))
        )
for _keys, _value in (
    (("rows", "trace"), 1 << 40), (("states", "positions"), 1 << 40), (("states", "width"), 1 << 19),
    (("states", "width"), WIDTH + 1), (("states", "positions"), 0), (("states", "dtype"), "float64"),
    (("states", "dtype"), "float16"), (("states", "dtype"), ["bfloat16"]), (("states", "profile"), "quantum"),
    (("states", "profile"), None), (("states", "layers"), [3, 1]), (("states", "layers"), "13"),
    (("states",), None), (("states",), []), (("states", "more"), 1), (("files",), []), (("files",), {}),
    (("rows",), {}), (("rows",), []), (("type",), "hologram"), (("type",), None), (("type",), "quarantine"),
    (("group",), "samples"), (("group",), ["textual"]), (("fingerprint",), "0"), (("future",), 1),
    (("files", "trace.arrow", "xxh3_128"), 7), (("files", "trace.arrow"), {}), (("path",), 7),
):  # fmt: skip
    ATTACKS[f"line {'.'.join(map(str, _keys))} = {_value!r}"] = (
        lambda forge, keys=_keys, value=_value: forge.change(
            "textual", lambda line: _set(line, keys, value)
        )
    )
for _file, _keys, _value in (
    ("dataset.json", ("version",), 2), ("dataset.json", ("version",), True), ("dataset.json", ("format",), "other"),
    ("dataset.json", ("requires",), ["telepathy"]), ("dataset.json", ("requires",), None),
    ("dataset.json", ("licence",), None), ("dataset.json", ("licence",), {"a": 1}),
    ("groups/textual.json", ("kind",), "olfactory"), ("groups/textual.json", ("kind",), ["textual"]),
    ("groups/textual.json", ("group",), "acoustic"), ("groups/textual.json", ("group",), "../textual"),
    ("groups/textual.json", ("signals",), []), ("groups/textual.json", ("signals", "topk"), 3),
    ("groups/textual.json", ("identity",), None), ("groups/textual.json", ("notes",), "n"),
    ("groups/textual.json", ("more",), 1), ("groups/textual.json", ("identity", "model_digest"), "other"),
):  # fmt: skip
    ATTACKS[f"{_file} {'.'.join(_keys)} = {_value!r}"] = (
        lambda forge, file=_file, keys=_keys, value=_value: forge.put_json(
            file, lambda values: _set(values, keys, value)
        )
    )


@attack("a group under another name")
def _(forge: Forge) -> None:
    (forge.root / "groups" / "textual.json").rename(forge.root / "groups" / "other.json")


for _file in ("dataset.json", "groups/textual.json", "manifest/w0.jsonl"):
    ATTACKS[f"deep nesting in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(sealed_by_hand(NESTED)),
    )
    ATTACKS[f"100 MB in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(b'{"a": "' + b" " * (100 << 20) + b'"}\n'),
    )
    ATTACKS[f"NaN in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(sealed_by_hand(b'{"a": NaN')),
    )
    ATTACKS[f"a list in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(b"[1, 2]\n"),
    )
    ATTACKS[f"invalid UTF-8 in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(sealed_by_hand(b'{"a": "\xff\xfe"')),
    )


@attack("100 MB without an end in the manifest")
def _(forge: Forge) -> None:
    with forge.manifest.open("ab") as file:
        file.truncate(100 << 20)


@attack("quarantine of numbers")
def _(forge: Forge) -> None:
    line = {"type": "quarantine", "group": "samples", "sample_id": 3, "row_index": "x"}
    forge.write_lines([*forge.lines(), {**line, "reason": None, "detail": []}])


@attack("manifest and tables of another tape under this index")
def _(forge: Forge) -> None:
    lines = forge.lines()
    index = forge.root / "index"
    shutil.copytree(index, forge.root.parent / "kept")
    forge.write_lines(lines[::-1])
    shutil.move(forge.root.parent / "kept", index)


@attack("shards of one size swapped")
def _(forge: Forge) -> None:
    one, two = (forge.file(group, "hidden.zarr/L001") for group in ("acoustic", "textual"))
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


# Tables


def _retyped(forge: Forge, group: str, table: str, column: str) -> None:
    old = forge.table(group, table).column(column)
    wide = {"int32": pa.int64(), "int64": pa.int32(), "float": pa.float64(), "double": pa.float32(),
            "string": pa.large_string(), "bool": pa.int8(), "large_binary": pa.binary()}  # fmt: skip
    kind = wide.get(str(old.type)) or pa.large_list(old.type.value_field)
    forge.put_column(group, table, column, old.cast(kind).combine_chunks())


def _in_table(forge: Forge, change: Callable[[pa.Table], pa.Table]) -> None:
    forge.put_table("textual", "trace", change(forge.table("textual", "trace")))


for _group, _table, _columns in (
    ("samples", "samples", ("sample_id", "row_index", "choices")),
    ("samples", "audio", ("audio",)),
    ("descriptions", "descriptions", ("description",)),
    ("textual", "trace", ("trace_index", "token_ids", "correct", "logprob")),
    ("textual", "sampled", ("packed", "num_draws")),
    ("textual", "hidden", ("offset", "times_s")),
):
    for _column in _columns:
        ATTACKS[f"type of {_table}.{_column}"] = (
            lambda forge, group=_group, table=_table, column=_column: _retyped(
                forge, group, table, column
            )
        )
        ATTACKS[f"no {_table}.{_column}"] = (
            lambda forge, group=_group, table=_table, column=_column: forge.put_table(
                group, table, forge.table(group, table).drop_columns([column])
            )
        )
        if _column not in ("correct", "times_s"):
            ATTACKS[f"null in {_table}.{_column}"] = (
                lambda forge, group=_group, table=_table, column=_column: forge.put_cell(
                    group, table, column, None
                )
            )
ATTACKS["a column more"] = lambda forge: _in_table(
    forge, lambda table: table.append_column("more", table.column("text"))
)
ATTACKS["columns in another order"] = lambda forge: _in_table(
    forge, lambda table: table.select(table.column_names[::-1])
)
ATTACKS["null inside a list"] = lambda forge: forge.put_column(
    "textual", "trace", "token_ids",
    pa.array([[1, None]] * 2, pa.list_(pa.field("item", pa.int32()))),
)  # fmt: skip
for _codec in ("lz4", "zstd"):
    ATTACKS[f"{_codec} table"] = lambda forge, codec=_codec: forge.put_table(
        "textual", "trace", forge.table("textual", "trace"), compression=codec
    )
ATTACKS["dictionary column"] = lambda forge: forge.put_column(
    "textual", "trace", "text",
    forge.table("textual", "trace").column("text").combine_chunks().dictionary_encode(),
)  # fmt: skip
ATTACKS["two batches"] = lambda forge: forge.put_table(
    "textual", "trace", forge.table("textual", "trace"),
    batches=forge.table("textual", "trace").to_batches(max_chunksize=1),
)  # fmt: skip
ATTACKS["a row twice"] = lambda forge: _in_table(
    forge, lambda table: pa.concat_tables([table, table])
)
ATTACKS["an id twice"] = lambda forge: forge.put_column(
    "samples", "samples", "sample_id", ["s0", "s0"]
)
ATTACKS["invalid UTF-8"] = lambda forge: forge.put_column(
    "textual", "trace", "text",
    pa.Array.from_buffers(pa.string(), 2, [
        None, pa.py_buffer(np.array([0, 1, 2], "<i4")), pa.py_buffer(b"\xff\xfe"),
    ]),
)  # fmt: skip


@attack("one id for two samples in two shards")
def _(forge: Forge) -> None:
    record = forge.record("samples")
    twin = record["path"][:-1] + "1"
    shutil.copytree(forge.root / record["path"], forge.root / twin)
    forge.write_lines([*forge.lines(), {**record, "path": twin}])
    forge.put_cell("samples", "samples", "answer", "one")


def _patched(forge: Forge, old: bytes, new: bytes) -> None:
    content = forge.file("textual", "trace.arrow").read_bytes()
    assert content.count(old) >= 1
    forge.put("textual", "trace.arrow", content.replace(old, new))


for _title, _ends in (("far", (0, 1 << 30)), ("negative", (-5, 3)), ("descending", (9, 2))):

    def _offsets(forge: Forge, ends: tuple[int, int] = _ends) -> None:
        forge.put_column("textual", "trace", "text", ["a" * 1237, "b" * 100])
        _patched(forge, struct.pack("<3i", 0, 1237, 1337), struct.pack("<3i", *ends, 1337))

    ATTACKS[f"offsets {_title}"] = _offsets
    ATTACKS[f"list offsets {_title}"] = lambda forge, ends=_ends: (
        forge.put_column("textual", "trace", "token_ids", [[1] * 1237, [2] * 100]),
        _patched(forge, struct.pack("<3i", 0, 1237, 1337), struct.pack("<3i", *ends, 1337)),
    )

for _group, _table, _column, _value in (
    ("textual", "trace", "trace_index", -2), ("textual", "trace", "trace_index", (1 << 31) - 1),
    ("textual", "trace", "token_ids", [-1]), ("textual", "trace", "prompt_token_ids", [1 << 20]),
    ("textual", "hidden", "offset", HUGE), ("textual", "hidden", "offset", -1),
    ("textual", "hidden", "count", HUGE), ("textual", "hidden", "count", -1),
    ("textual", "hidden", "offset", 1), ("textual", "hidden", "count", (1 << 63) - 1),
    ("textual", "hidden", "kind", "smell"), ("textual", "hidden", "kind", "audio"),
    ("textual", "hidden", "target_ids", None), ("textual", "hidden", "target_ids", [1] * 9),
    ("acoustic", "hidden", "times_s", [0.5]), ("acoustic", "hidden", "kind", "token"),
    ("samples", "samples", "num_audio_samples", HUGE), ("samples", "samples", "num_audio_samples", -1),
    ("samples", "samples", "metadata", "[" * 100_000), ("samples", "samples", "metadata", "[1]"),
    ("samples", "samples", "metadata", "null"), ("samples", "samples", "metadata", "{"),
    ("samples", "audio", "audio", b"\0"), ("samples", "audio", "audio_dtype", "int8"),
    ("samples", "audio", "audio", np.full(41, np.nan, "<f4").tobytes()),
    ("samples", "audio", "sample_id", "s9"),
    ("textual", "sampled", "packed", b""), ("textual", "sampled", "packed", b"\1\0" + b"\xff" * 90),
    ("textual", "sampled", "num_draws", (1 << 31) - 1), ("textual", "sampled", "num_draws", -1),
    ("textual", "sampled", "num_draws", 0), ("textual", "sampled", "target_ids", [1] * 5),
):  # fmt: skip
    ATTACKS[f"{_table}.{_column} = {str(_value)[:24]} ({_group})"] = (
        lambda forge, group=_group, table=_table, column=_column, value=_value: forge.put_cell(
            group, table, column, value
        )
    )
for _column, _value in (
    ("k", 0), ("k", -1), ("k", (1 << 31) - 1), ("logprobs", [0.0, 0.0, 0.0]), ("tail", [-0.5]), ("tail", [2.0]),
    ("logprobs", [float("nan")] * 3), ("logprobs", [float("inf")] * 3), ("tail", [float("nan")]),
    ("tail", [float("inf")]), ("tail", []), ("logprobs", []), ("token_ids", [1]), ("token_ids", [-1, 1, 2]),
    ("token_ids", [1 << 20, 1, 2]), ("target_ids", [5, 5]), ("target_ids", [-5]),
):  # fmt: skip
    ATTACKS[f"topk.{_column} = {_value}"] = lambda forge, column=_column, value=_value: (
        forge.put_cell("textual", "topk", column, value)
    )
    ONLY_PROFILE[f"topk.{_column} = {_value}"] = "hot"
for _column, _value in (
    ("k", 0), ("k", -1), ("k", (1 << 31) - 1), ("packed", b""), ("target_ids", [1] * 4),
    ("packed", struct.pack("<BBHIHH", 1, 240, 3, 1, 512, 256) + b"\xff" * 40),
    ("packed", struct.pack("<BBHIHH", 1, 0, 3, 1, 0, 0) + b"\0" * 40),
    ("packed", struct.pack("<BBHIHH", 2, 0, 3, 1, 512, 256) + b"\0" * 40),
    ("packed", struct.pack("<BBHIHH", 1, 0, 0xFFFF, 0xFFFFFFFF, 512, 256) + b"\0" * 40),
):  # fmt: skip
    _title = f"topk_compact.{_column} = {str(_value)[:60]}"
    ATTACKS[_title] = lambda forge, column=_column, value=_value: forge.put_cell(
        "textual", "topk_compact", column, value
    )
    ONLY_PROFILE[_title] = "lossy2x"

# Layer arrays

for _keys, _value in (
    (("shape",), [3, WIDTH + 1]), (("shape",), [HUGE, WIDTH]), (("shape",), [-1, WIDTH]), (("shape",), [3.0, 8.5]),
    (("shape",), []), (("shape",), "3x8"), (("data_type",), "float64"), (("data_type",), {"name": "uint16"}),
    (("chunk_grid",), {}), (("chunk_grid", "configuration", "chunk_shape"), [0, 0]),
    (("codecs",), []), (("codecs",), [{"name": "gzip"}]), (("codecs", 0, "name"), "transpose"),
    (("codecs", 0, "configuration", "chunk_shape"), [0, WIDTH]),
    (("codecs", 0, "configuration", "chunk_shape"), [HUGE, WIDTH]),
    (("codecs", 0, "configuration", "chunk_shape"), [-1, WIDTH]),
    (("codecs", 0, "configuration", "chunk_shape"), [1.0, WIDTH]),
    (("codecs", 0, "configuration", "chunk_shape"), [True, WIDTH]),
    (("codecs", 0, "configuration", "index_location"), "start"),
    (("attributes",), {}), (("attributes", "logical_dtype"), "float16"), (("zarr_format",), 2),
    (("node_type",), "group"), (("fill_value",), 1), (("storage_transformers",), [{"name": "x"}]),
):  # fmt: skip
    ATTACKS[f"zarr {'.'.join(map(str, _keys))} = {_value}"] = (
        lambda forge, keys=_keys, value=_value: forge.put_zarr(
            lambda values: _set(values, keys, value)
        )
    )
for _title, _content in (
    ("nothing", b""), ("no JSON", b"hello"), ("a list", b"[]"), ("a number", b"1e999"), ("NaN", b"NaN"),
    ("deep nesting", b"[" * 60_000), ("1 MB", b" " * (1 << 20)), ("invalid UTF-8", b'{"a": "\xff"}'),
    ("10^5000", b'{"shape": ' + b"9" * 5000 + b"}"),
):  # fmt: skip
    ATTACKS[f"zarr.json holds {_title}"] = lambda forge, content=_content: forge.put(
        "textual", "hidden.zarr/L001/zarr.json", content
    )


def _index_of_chunks(content: bytearray, offset: int, size: int) -> None:
    content[-20:-4] = struct.pack("<QQ", offset, size)
    content[-4:] = int(google_crc32c.value(bytes(content[-20:-4]))).to_bytes(4, "little")


for _title, _offset, _size in (
    ("missing", (1 << 64) - 1, (1 << 64) - 1), ("far", HUGE, 48), ("long", 0, HUGE), ("empty", 0, 0),
):  # fmt: skip
    ATTACKS[f"chunk {_title}"] = lambda forge, offset=_offset, size=_size: forge.put_chunk(
        lambda content: _index_of_chunks(content, offset, size)
    )
ATTACKS["chunk shorter"] = lambda forge: forge.put_chunk(lambda content: content.__delitem__(0))
ATTACKS["chunk longer"] = lambda forge: forge.put_chunk(lambda content: content.insert(0, 0))
ATTACKS["chunk of nothing"] = lambda forge: forge.put_chunk(lambda content: content.clear())


@attack("states that are NaN", "hot")
def _(forge: Forge) -> None:
    forge.put_chunk(lambda content: content.__setitem__(slice(0, 2), struct.pack("<H", 0x7FC0)))


@attack("states that are infinite", "hot")
def _(forge: Forge) -> None:
    forge.put_chunk(lambda content: content.__setitem__(slice(2, 4), struct.pack("<H", 0xFF80)))


def _blosc(content: bytearray, at: int, value: int, width: int) -> None:
    content[at : at + width] = value.to_bytes(width, "little")
    size = struct.unpack_from("<QQ", content, len(content) - 20)[1]
    crc = int(google_crc32c.value(bytes(content[: size - 4]))).to_bytes(4, "little")
    content[size - 4 : size] = crc


for _title, _at, _value, _bytes in (
    ("claims 2 GB", 4, (1 << 31) - 1, 4), ("claims 4 GB", 4, (1 << 32) - 1, 4), ("unpacks to nothing", 4, 0, 4),
    ("is packed in 4 GB", 12, (1 << 32) - 1, 4), ("is packed in nothing", 12, 0, 4), ("block of nothing", 8, 0, 4),
    ("block of 4 GB", 8, (1 << 32) - 1, 4), ("element of nothing", 3, 0, 1), ("version", 0, 99, 1),
):  # fmt: skip
    ATTACKS[f"blosc {_title}"] = lambda forge, at=_at, value=_value, width=_bytes: forge.put_chunk(
        lambda content: _blosc(content, at, value, width)
    )
    ONLY_PROFILE[f"blosc {_title}"] = "archive"


def _side_array(forge: Forge, suffix: str, data_file: str, value: float) -> None:
    name = f"hidden.zarr/L001{suffix}/{data_file}"
    content = bytearray(forge.file("acoustic", name).read_bytes())
    content[0:4] = struct.pack("<f", value)
    forge.put("acoustic", name, bytes(content))


for _value in (float("nan"), float("inf"), -1.0):
    ATTACKS[f"scale {_value}"] = lambda forge, value=_value: _side_array(
        forge, "_scale", "c/0", value
    )
    ONLY_PROFILE[f"scale {_value}"] = "lossy2x"
ATTACKS["mean NaN"] = lambda forge: _side_array(forge, "_channels", "c/0/0", float("nan"))
ONLY_PROFILE["mean NaN"] = "lossy2x"


# The index


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
