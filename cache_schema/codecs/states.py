"""One layer's states on disk, by profile: how they are written and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs.zarr_rows import ZarrRowsWriter, map_rows
from cache_schema.errors import TapeError


class StatesWriter(Protocol):
    """Writes one layer's array."""

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows [n, width] in the stored type of the logical dtype."""

    def close(self) -> tuple[dict[str, dict[str, Any]], Mapping[str, float]]:
        """Finish; return the files' records and what storing lost."""

    def abort(self) -> None:
        """Close without finishing."""


class StatesReader(Protocol):
    """Reads rows of one layer's array."""

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill ``out`` [n, width] with the rows from ``start``."""


class _HotWriter:
    def __init__(self, folder: Path, layer_dir: str, width: int, logical_dtype: str) -> None:
        self._layer_dir = layer_dir
        self._rows = ZarrRowsWriter(folder / layer_dir, width, logical_dtype)

    def append(self, rows: NDArray[Any]) -> None:
        self._rows.append(rows)

    def close(self) -> tuple[dict[str, dict[str, Any]], Mapping[str, float]]:
        return {f"{self._layer_dir}/{k}": v for k, v in self._rows.close().items()}, {}

    def abort(self) -> None:
        self._rows.abort()


class _HotReader:
    def __init__(self, rows: NDArray[Any]) -> None:
        self._rows = rows

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        np.copyto(out, self._rows[start : start + len(out)])


def open_states_writer(
    folder: Path, layer_dir: str, width: int, logical_dtype: str, profile: str
) -> StatesWriter:
    """Open the writer of one layer's array."""
    if profile != "hot":
        raise TapeError(f"profile {profile!r} is not there yet")
    return _HotWriter(folder, layer_dir, width, logical_dtype)


def open_states_reader(
    path_of: Callable[[str], Path],
    layer_dir: str,
    profile: str,
    num_rows: int,
    width: int,
    logical_dtype: str,
) -> StatesReader:
    """Open the reader of one layer's array."""
    rows = map_rows(path_of(f"{layer_dir}/zarr.json"), path_of(f"{layer_dir}/c/0/0"))
    if profile != "hot" or rows.shape != (num_rows, width) or logical_dtype == "":
        raise TapeError(f"{layer_dir}: an array of {rows.shape}, expected {(num_rows, width)}")
    return _HotReader(rows)
