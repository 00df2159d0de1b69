"""Wrong metadata and damaged archives of layer states, and copies to damage."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from states_files import LAYER

from cache_schema.signals import STATES_PROFILES as PROFILES

# --- hostile files -------------------------------------------------------------------------------

SHAPE = (600, 512)  # three chunks of archive
Change = Callable[[dict[str, Any]], object]


def sharding(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["codecs"][0]["configuration"]


BAD_METADATA: dict[str, Change] = {
    "huge shape": lambda m: m.update(shape=[2**60, SHAPE[1]]),
    "negative shape": lambda m: m.update(shape=[-1, SHAPE[1]]),
    "other width": lambda m: m.update(shape=[SHAPE[0], 511]),
    "text as shape": lambda m: m.update(shape=["600", "512"]),
    "three axes": lambda m: m.update(shape=[*SHAPE, 1]),
    "no rows a chunk": lambda m: sharding(m).update(chunk_shape=[0, SHAPE[1]]),
    "negative rows a chunk": lambda m: sharding(m).update(chunk_shape=[-4, SHAPE[1]]),
    "huge rows a chunk": lambda m: sharding(m).update(chunk_shape=[2**62, SHAPE[1]]),
    "large rows a chunk": lambda m: sharding(m).update(chunk_shape=[2**14, SHAPE[1]]),
    "true rows a chunk": lambda m: sharding(m).update(chunk_shape=[True, SHAPE[1]]),
    "float rows a chunk": lambda m: sharding(m).update(chunk_shape=[256.0, SHAPE[1]]),
    "text as rows a chunk": lambda m: sharding(m).update(chunk_shape=["256", SHAPE[1]]),
    "one row a chunk": lambda m: sharding(m).update(chunk_shape=[1, SHAPE[1]]),
    "no chunk shape": lambda m: sharding(m).pop("chunk_shape"),
    "narrow chunks": lambda m: sharding(m).update(chunk_shape=[256, 1]),
    "huge outer chunk": lambda m: m["chunk_grid"].update(configuration={"chunk_shape": [2**60, 1]}),
    "irregular grid": lambda m: m["chunk_grid"].update(name="rectangular"),
    "no codecs": lambda m: m.update(codecs=[]),
    "codecs no list": lambda m: m.update(codecs="gzip"),
    "unknown codec": lambda m: sharding(m)["codecs"].append({"name": "rot13"}),
    "big endian": lambda m: sharding(m)["codecs"][0]["configuration"].update(endian="big"),
    "index without checksum": lambda m: sharding(m)["index_codecs"].pop(),
    "index at the start": lambda m: sharding(m).update(index_location="start"),
    "fill value": lambda m: m.update(fill_value=7),
    "NaN as fill value": lambda m: m.update(fill_value=math.nan),
    "other type": lambda m: m.update(data_type="int64"),
    "version 2": lambda m: m.update(zarr_format=2),
    "a group": lambda m: m.update(node_type="group"),
    "no attributes": lambda m: m.pop("attributes"),
    "attributes no object": lambda m: m.update(attributes=[]),
    "other logical type": lambda m: m.update(attributes={"logical_dtype": "int4"}),
    "unknown key": lambda m: m.update(storage_transformers=[{"name": "x"}]),
    "deep": lambda m: m.update(attributes=json.loads("[" * 90 + "]" * 90)),
    "large": lambda m: m.update(attributes={"x": "y" * (1 << 16)}),
    "long": lambda m: m.update(dimension_names=["y" * 60_000]),
}


def copy_of(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            copied = target / path.relative_to(folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    return target


def arrays_of(profile: str) -> list[str]:
    return [LAYER, f"{LAYER}_scale", f"{LAYER}_channels"] if profile == "lossy2x" else [LAYER]


ARRAYS = [(profile, name) for profile in PROFILES for name in arrays_of(profile)]


def reindexed(content: bytes, change: Callable[[np.ndarray], object]) -> bytes:
    """Change the index of three (offset, bytes), under a checksum that is right again."""
    index = np.frombuffer(content[-52:-4], "<u8").reshape(3, 2).copy()
    change(index)
    encoded = index.tobytes()
    return content[:-52] + encoded + google_crc32c.value(encoded).to_bytes(4, "little")


def rechunked(content: bytes, change: Callable[[bytearray], object]) -> bytes:
    """Change the first chunk of archive data, under a checksum that is right again."""
    length = int.from_bytes(content[-44:-36], "little")
    chunk = bytearray(content[: length - 4])
    change(chunk)
    crc = google_crc32c.value(bytes(chunk)).to_bytes(4, "little")
    return bytes(chunk) + crc + content[length:]


def put(offset: int, form: str, *values: int) -> Callable[[bytearray], object]:
    return lambda chunk: struct.pack_into(form, chunk, offset, *values)


MISSING = 2**64 - 1
BAD_ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda c: b"",
    "index cut": lambda c: c[-50:],
    "front cut": lambda c: c[1:],
    "end cut": lambda c: c[:-1],
    "longer": lambda c: b"\0" + c,
    "index checksum": lambda c: c[:-1] + bytes([c[-1] ^ 1]),
    "missing chunk": lambda c: reindexed(c, lambda i: i[1].fill(MISSING)),
    "offset beyond": lambda c: reindexed(c, lambda i: i[2, :1].fill(2**63)),
    "length beyond": lambda c: reindexed(c, lambda i: i[2, 1:].fill(2**63)),
    "length wraps": lambda c: reindexed(c, lambda i: i[1, 1:].fill(2**64 - 5)),
    "length 0": lambda c: reindexed(c, lambda i: i[1, 1:].fill(0)),
    "overlapping": lambda c: reindexed(c, lambda i: i[1].__setitem__(slice(None), i[0])),
    "backwards": lambda c: reindexed(c, lambda i: i.__setitem__(slice(None), i[::-1].copy())),
    "hole": lambda c: reindexed(c, lambda i: i[0, 1:].__isub__(np.uint64(1))),
    "chunk checksum": lambda c: bytes([c[0] ^ 1]) + c[1:],
    "unpacks to 4 GiB": lambda c: rechunked(c, put(4, "<I", 2**32 - 1)),
    "unpacks to 0": lambda c: rechunked(c, put(4, "<I", 0)),
    "unpacks to less": lambda c: rechunked(c, put(4, "<I", 256 * 1024 - 2)),
    "block of 2 GiB": lambda c: rechunked(c, put(8, "<I", 2**31 - 1)),
    "block of 0": lambda c: rechunked(c, put(8, "<I", 0)),
    "blocks of 1": lambda c: rechunked(c, put(8, "<I", 1)),
    "packed 4 GiB": lambda c: rechunked(c, put(12, "<I", 2**32 - 1)),
    "packed 0": lambda c: rechunked(c, put(12, "<I", 0)),
    "element of 0": lambda c: rechunked(c, put(3, "<B", 0)),
    "other blosc": lambda c: rechunked(c, put(0, "<B", 3)),
    "not packed": lambda c: rechunked(c, put(2, "<B", 0x93)),
    "unknown packer": lambda c: rechunked(c, put(2, "<B", 0xF1)),
    "block beyond": lambda c: rechunked(c, put(16, "<I", 2**31 - 1)),
    "block before": lambda c: rechunked(c, put(16, "<i", -5)),
    "stream of 2 GiB": lambda c: rechunked(c, put(20, "<I", 2**31 - 1)),
    "zeros": lambda c: rechunked(
        c, lambda chunk: chunk.__setitem__(slice(16, None), bytes(len(chunk) - 16))
    ),
}
