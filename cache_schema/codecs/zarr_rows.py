"""Rows of one array, streamed into a Zarr v3 shard that is also plain contiguous bytes.

A ``sharding_indexed`` chunk whose inner codec is ``bytes`` alone is the row-major array followed by
an index. Any Zarr v3 reader opens it; ours reads rows from it with one copy. Streaming it this way
was measured at 2.1 GB/s, against 0.03 for zarr-python appending an example at a time.

```
row 0 .. row n-1, zero rows up to whole inner chunks, index, crc32c of the index
```
The index holds (offset, bytes) of every inner chunk as little-endian uint64, the crc32c 4 bytes.
How many rows an inner chunk has is chosen on closing, so that almost none are padding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.files import HashedFile, write_hashed

INNER_CHUNK_BYTES = 1 << 20
LITTLE: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
FileRecords = dict[str, dict[str, Any]]
"""File name -> its bytes and checksum."""


@dataclass(frozen=True, kw_only=True)
class RowsSpec:
    """What ``zarr.json`` says of an array [num_rows, *row_shape] except how many rows it has.

    Attributes:
        row_shape: shape of one row; ``()`` for one number a row.
        stored: NumPy type of the elements; little-endian.
        attributes: the array's Zarr attributes.
        dimension_names: a name an axis, the row axis first.
        inner_codecs: codecs of an inner chunk; ``bytes`` alone makes the data contiguous.
    """

    row_shape: tuple[int, ...]
    stored: np.dtype[Any]
    attributes: Mapping[str, str]
    dimension_names: tuple[str, ...]
    inner_codecs: Sequence[Mapping[str, Any]] = (LITTLE,)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.stored.itemsize

    @property
    def data_file(self) -> str:
        """Name of the only outer chunk inside the array's directory."""
        return "c/0" + "/0" * len(self.row_shape)

    def metadata(self, num_rows: int, inner_rows: int) -> dict[str, Any]:
        """Return ``zarr.json`` of an array of ``num_rows`` in inner chunks of ``inner_rows``."""
        outer_rows = chunks_of(num_rows, inner_rows) * inner_rows
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [num_rows, *self.row_shape],
            "data_type": self.stored.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [outer_rows, *self.row_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [inner_rows, *self.row_shape],
                        "codecs": [dict(codec) for codec in self.inner_codecs],
                        "index_codecs": [LITTLE, {"name": "crc32c"}],
                        "index_location": "end",
                    },
                }
            ],
            "attributes": dict(self.attributes),
            "dimension_names": list(self.dimension_names),
        }


def states_spec(
    width: int, logical_dtype: str, inner_codecs: Sequence[Mapping[str, Any]] = (LITTLE,)
) -> RowsSpec:
    """Describe one layer's states [positions, width], stored as they are."""
    return RowsSpec(
        row_shape=(width,),
        stored=STORED_DTYPES[logical_dtype],
        attributes={"logical_dtype": logical_dtype},
        dimension_names=("position", "width"),
        inner_codecs=inner_codecs,
    )


def chunks_of(num_rows: int, inner_rows: int) -> int:
    """How many inner chunks hold the rows; an array without rows has one chunk of padding."""
    return max(1, -(-num_rows // inner_rows))


def encode_index(spans: NDArray[np.uint64]) -> bytes:
    """Encode (offset, bytes) of every inner chunk, [num_chunks, 2], and their crc32c."""
    encoded = spans.astype("<u8").tobytes()
    return encoded + int(google_crc32c.value(encoded)).to_bytes(4, "little")


def create_data_file(directory: Path, spec: RowsSpec) -> HashedFile:
    """Make the array's directory and its data file."""
    path = directory / spec.data_file
    path.parent.mkdir(parents=True)
    return HashedFile(path)


def write_metadata(
    directory: Path, spec: RowsSpec, num_rows: int, inner_rows: int
) -> dict[str, Any]:
    """Write ``zarr.json``; return its record."""
    content = json.dumps(spec.metadata(num_rows, inner_rows), indent=1).encode()
    return write_hashed(directory / "zarr.json", content)


class RowsWriter:
    """Append rows to ``<directory>/c/0...``; ``close`` adds index and ``zarr.json``."""

    def __init__(self, directory: Path, spec: RowsSpec) -> None:
        self.directory = directory
        self.spec = spec
        self.num_rows = 0
        self._file = create_data_file(directory, spec)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows [n, *row_shape], already in the stored type."""
        assert rows.shape[1:] == self.spec.row_shape, (rows.shape, self.spec.row_shape)
        assert rows.dtype == self.spec.stored, rows.dtype
        if rows.shape[0]:
            self._file.write(np.ascontiguousarray(rows).data)
            self.num_rows += rows.shape[0]

    def close(self) -> FileRecords:
        """Pad to whole inner chunks, write index and metadata; return the files' records."""
        num_chunks = chunks_of(self.num_rows, max(1, INNER_CHUNK_BYTES // self.spec.row_bytes))
        inner_rows = max(1, -(-self.num_rows // num_chunks))
        num_chunks = chunks_of(self.num_rows, inner_rows)
        self._file.write(bytes((num_chunks * inner_rows - self.num_rows) * self.spec.row_bytes))
        chunk_bytes = inner_rows * self.spec.row_bytes
        spans = np.empty((num_chunks, 2), dtype=np.uint64)
        spans[:, 0] = np.arange(num_chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
        spans[:, 1] = chunk_bytes
        self._file.write(encode_index(spans))
        return {
            self.spec.data_file: self._file.close(),
            "zarr.json": write_metadata(self.directory, self.spec, self.num_rows, inner_rows),
        }

    def abort(self) -> None:
        """Close the file without finishing it."""
        self._file.abort()
