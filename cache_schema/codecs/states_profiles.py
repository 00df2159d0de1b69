"""One layer's states [positions, width] in one of three profiles, each of standard Zarr v3 arrays.

| profile | bytes an element, bfloat16 | values | reads |
|---|---|---|---|
| ``hot`` | 2 | exact | one copy, memcpy |
| ``archive`` | about 1.4 | exact | decompressing |
| ``lossy2x`` | 1.003 | int8 standardised, error reported | decoding |

A layer's array is ``<layer_dir>/{zarr.json,c/0/0}``; ``lossy2x`` has two more beside it. bfloat16
is stored as the uint16 of its bits, with the attribute ``logical_dtype``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.states_archive import ArchiveReader, ArchiveWriter
from cache_schema.codecs.states_files import ContiguousRows, PathOf, check_sizes
from cache_schema.codecs.states_lossy2x import Lossy2xReader, Lossy2xWriter
from cache_schema.codecs.zarr_rows import FileRecords, RowsWriter, states_spec
from cache_schema.errors import TapeError
from cache_schema.signals import STATES_PROFILES


class StatesWriter(Protocol):
    """Writes one layer of one shard."""

    @property
    def num_rows(self) -> int:
        """Positions appended so far."""

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows [n, width] in the stored type of the logical type (bfloat16: uint16 bits).

        Raises:
            TapeError: ``lossy2x`` cannot hold a value (NaN, infinite, far from its channel's mean).
        """

    def close(self) -> tuple[FileRecords, dict[str, float]]:
        """Finish and fsync the files.

        Returns:
            Records of the files, named relative to the shard's folder, and the error report for
            the manifest: empty if the profile is exact. Directories are not fsynced.
        """

    def abort(self) -> None:
        """Close the files without finishing them; whoever made the folder removes it."""


class StatesReader(Protocol):
    """Reads one layer of one shard; several threads may read at once."""

    @property
    def num_rows(self) -> int:
        """Positions of the layer."""

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill ``out`` from position ``start``.

        Args:
            start: first position.
            out: [n, width], C-contiguous, in the stored type of the logical type; any memory, such
                as a slice of a pinned buffer. ``hot`` copies straight into it.

        Raises:
            TapeError: positions that do not exist, or damaged or truncated data.
        """

    def close(self) -> None:
        """Give the open file back (also done when the reader is dropped).

        No thread may be reading.
        """


class _ExactWriter:
    """An array without loss: names relative to the shard, nothing to report."""

    def __init__(self, layer_dir: str, rows: RowsWriter | ArchiveWriter) -> None:
        self._layer_dir = layer_dir
        self._rows = rows
        self.append = rows.append
        self.abort = rows.abort

    @property
    def num_rows(self) -> int:
        return self._rows.num_rows

    def close(self) -> tuple[FileRecords, dict[str, float]]:
        files = self._rows.close()
        return {f"{self._layer_dir}/{name}": record for name, record in files.items()}, {}


def open_states_writer(
    folder: Path, layer_dir: str, width: int, logical_dtype: str, profile: str
) -> StatesWriter:
    """Start writing one layer.

    Args:
        folder: the shard's folder.
        layer_dir: the layer's array inside it, such as ``"hidden.zarr/L012"``; must not exist.
        width: channels.
        logical_dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``.
        profile: ``"hot"``, ``"archive"`` or ``"lossy2x"``.

    Raises:
        TapeError: type, profile or width are none of the format's.
    """
    _check(layer_dir, 0, width, logical_dtype, profile)
    if profile == "lossy2x":
        return Lossy2xWriter(folder, layer_dir, width, logical_dtype)
    if profile == "archive":
        return _ExactWriter(layer_dir, ArchiveWriter(folder / layer_dir, width, logical_dtype))
    spec = states_spec(width, logical_dtype)
    return _ExactWriter(layer_dir, RowsWriter(folder / layer_dir, spec))


def open_states_reader(
    path_of: PathOf, layer_dir: str, profile: str, num_rows: int, width: int, logical_dtype: str
) -> StatesReader:
    """Open one layer; metadata, file sizes and indexes are checked here.

    Args:
        path_of: name of a file, relative to the shard's folder -> its checked local path.
        layer_dir: the layer's array inside the shard's folder.
        profile: ``"hot"``, ``"archive"`` or ``"lossy2x"``.
        num_rows: positions, as the manifest has them.
        width: channels, as the manifest has them.
        logical_dtype: type of the states, as the manifest has it.

    Raises:
        TapeError: the arguments or the files are not what the format prescribes.
    """
    _check(layer_dir, num_rows, width, logical_dtype, profile)
    if profile == "lossy2x":
        return Lossy2xReader(path_of, layer_dir, num_rows, width, logical_dtype)
    if profile == "archive":
        return ArchiveReader(path_of, layer_dir, num_rows, width, logical_dtype)
    return ContiguousRows(path_of, layer_dir, states_spec(width, logical_dtype), num_rows)


def _check(name: str, num_rows: object, width: object, logical: object, profile: object) -> None:
    if profile not in STATES_PROFILES:
        raise TapeError(f"{name}: profile {profile!r}, expected one of {list(STATES_PROFILES)}")
    if not isinstance(logical, str) or logical not in STORED_DTYPES:
        raise TapeError(f"{name}: logical type {logical!r}, expected one of {list(STORED_DTYPES)}")
    check_sizes(name, num_rows, width)
