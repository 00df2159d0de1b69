# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile arrays of layer states: metadata, chunks, and their compression; see ``forge``."""

from __future__ import annotations

import struct

import google_crc32c
from attacks.forge import ATTACKS, HUGE, ONLY_PROFILE, Forge, _set, attack
from whole_tape import WIDTH

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
