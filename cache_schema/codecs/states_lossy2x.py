"""Profile ``lossy2x``: int8 states with a reported error, in three Zarr arrays side by side.

| array | type, shape | bytes of its ``c/0...`` |
|---|---|---|
| ``L012`` | int8 [positions, width] | q, contiguous |
| ``L012_scale`` | float32 [positions] | scale of each position, contiguous |
| ``L012_channels`` | float32 [2, width] | mean of each channel, then standard deviation |

Each is a contiguous shard as ``hot`` has it. ``cache_schema.codecs.states_int8`` has the formula.
1.003 bytes an element at 2048 wide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs import bfloat16
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.states_files import ContiguousRows, PathOf, check_rows
from cache_schema.codecs.states_int8 import (
    FORMULA,
    Decoder,
    ErrorSums,
    block_rows,
    fit_channels,
    quantise,
)
from cache_schema.codecs.zarr_rows import FileRecords, RowsSpec, RowsWriter
from cache_schema.errors import TapeError
from cache_schema.types import FloatArray

FIT_BYTES = 16 << 20
_FIT_ROWS = (1024, 4096)


def fit_rows(row_bytes: int) -> int:
    """How many of a shard's first positions give mean and deviation: 1,024 to 4,096, 16 MiB."""
    return max(_FIT_ROWS[0], min(_FIT_ROWS[1], FIT_BYTES // row_bytes))


def lossy2x_specs(width: int, logical_dtype: str) -> dict[str, RowsSpec]:
    """Describe the three arrays; the keys are what follows the layer's name."""

    def spec(role: str, shape: tuple[int, ...], stored: str, *names: str) -> RowsSpec:
        attributes = {"logical_dtype": logical_dtype, "role": role, "formula": FORMULA}
        return RowsSpec(
            row_shape=shape, stored=np.dtype(stored), attributes=attributes, dimension_names=names
        )

    return {
        "": spec("q", (width,), "i1", "position", "width"),
        "_scale": spec("scale", (), "<f4", "position"),
        "_channels": spec("mean, std", (width,), "<f4", "statistic", "width"),
    }


class Lossy2xWriter:
    """Append states [n, width]; the first positions are held in memory until they are fitted."""

    def __init__(self, folder: Path, name: str, width: int, logical_dtype: str) -> None:
        self.num_rows = 0
        self._name = name
        self._width = width
        self._logical = logical_dtype
        self._stored = STORED_DTYPES[logical_dtype]
        self._held: list[NDArray[Any]] = []
        self._fit_rows = fit_rows(width * self._stored.itemsize)
        self._writers = {
            suffix: RowsWriter(folder / (name + suffix), spec)
            for suffix, spec in lossy2x_specs(width, logical_dtype).items()
        }
        self._channels: FloatArray | None = None
        self._errors: ErrorSums | None = None

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows [n, width], already in the stored type.

        Raises:
            TapeError: a state is not finite, or too far from its channel's mean for float32.
        """
        assert rows.shape[1:] == (self._width,), (rows.shape, self._width)
        assert rows.dtype == self._stored, rows.dtype
        if not bfloat16.is_finite(rows):
            raise TapeError(f"{self._name}: lossy2x holds finite states only")
        self.num_rows += rows.shape[0]
        if self._channels is None:
            lacking = self._fit_rows - sum(len(held) for held in self._held)
            self._held.append(rows[:lacking].copy())
            rows = rows[lacking:]
            if sum(len(held) for held in self._held) < self._fit_rows:
                return
            self._fit()
        self._encode(rows)

    def close(self) -> tuple[FileRecords, dict[str, float]]:
        """Finish the three arrays; return the files' records and the error report."""
        errors = self._errors or self._fit()
        files = {
            f"{self._name}{suffix}/{file}": record
            for suffix, writer in self._writers.items()
            for file, record in writer.close().items()
        }
        return files, errors.report()

    def abort(self) -> None:
        """Close the files without finishing them."""
        for writer in self._writers.values():
            writer.abort()

    def _fit(self) -> ErrorSums:
        empty = np.empty((0, self._width), dtype=self._stored)
        rows = np.concatenate([empty, *self._held])
        self._held.clear()
        self._channels = fit_channels(rows)
        self._errors = ErrorSums(self._channels)
        self._writers["_channels"].append(self._channels)
        self._encode(rows)
        return self._errors

    def _encode(self, rows: NDArray[Any]) -> None:
        assert self._channels is not None
        assert self._errors is not None
        decoder = Decoder(self._channels, self._logical)
        step = block_rows(self._width)
        decoded = np.empty((step, self._width), dtype=self._stored)
        for start in range(0, rows.shape[0], step):
            values = bfloat16.decode(rows[start : start + step])
            q, scale = quantise(values, self._channels)
            self._writers[""].append(q)
            self._writers["_scale"].append(scale)
            seen = decoded[: len(scale)]
            decoder.decode(q, scale, seen)
            self._errors.add(values, bfloat16.decode(seen))


class Lossy2xReader:
    """Decode rows of a layer; scales and channels (4 bytes a position) stay in memory.

    Raises:
        TapeError: metadata, sizes, indexes or numbers differ from what the format prescribes.
    """

    def __init__(
        self, path_of: PathOf, name: str, num_rows: int, width: int, logical_dtype: str
    ) -> None:
        self.num_rows = num_rows
        self._name = name
        self._width = width
        self._logical = logical_dtype
        specs = lossy2x_specs(width, logical_dtype)
        self._scale = _read_numbers(path_of, f"{name}_scale", specs["_scale"], num_rows)
        self._channels = _read_numbers(path_of, f"{name}_channels", specs["_channels"], 2)
        if (self._scale < 0).any() or (self._channels[1] <= 0).any():
            raise TapeError(f"{name}: scales below 0, or deviations not above 0")
        self._q = ContiguousRows(path_of, name, specs[""], num_rows)

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill ``out`` [n, width], C-contiguous and of the stored type, from row ``start``.

        Raises:
            TapeError: rows that do not exist, or a file that ends early.
        """
        assert out.shape[1:] == (self._width,), (out.shape, self._width)
        assert out.dtype == STORED_DTYPES[self._logical], out.dtype
        assert out.flags.c_contiguous
        start = check_rows(self._name, start, out.shape[0], self.num_rows)
        decoder = Decoder(self._channels, self._logical)
        q = np.empty((decoder.rows, self._width), dtype=np.int8)
        for first in range(0, out.shape[0], decoder.rows):
            block = out[first : first + decoder.rows]
            count = block.shape[0]
            at = start + first
            self._q.read_into(at, q[:count])
            decoder.decode(q[:count], self._scale[at : at + count], block)

    def close(self) -> None:
        """Give the file back."""
        self._q.close()


def _read_numbers(path_of: PathOf, name: str, spec: RowsSpec, num_rows: int) -> FloatArray:
    rows = ContiguousRows(path_of, name, spec, num_rows)
    numbers = np.empty((num_rows, *spec.row_shape), dtype=np.float32)
    rows.read_into(0, numbers)
    rows.close()
    if not np.isfinite(numbers).all():
        raise TapeError(f"{name}: expected finite numbers")
    return numbers
