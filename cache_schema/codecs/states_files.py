"""The files of a Zarr array, opened without trust and read at offsets.

``zarr.json`` must be, key by key, what this format writes for the row count, width and type of the
manifest; only the rows of an inner chunk are taken from it. Whatever differs is named at once.
"""

from __future__ import annotations

import json
import mmap
import operator
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs.zarr_rows import RowsSpec, chunks_of
from cache_schema.errors import TapeError

PathOf = Callable[[str], Path]
"""Name of a file inside a shard -> its checked local path."""

MAX_METADATA_BYTES = 64 << 10
MAX_BRACKETS = 64  # a bound of the depth that needs no parser; ours has 24
MAX_INNER_BYTES = 64 << 20
MAX_CHUNKS = 1 << 20
MAX_ROWS = 1 << 26
MAX_WIDTH = 1 << 20
_SHOWN_CHARS = 160


class DataFile:
    """A regular file held open, read at offsets by any number of threads.

    The descriptor lives as long as the object: close it only when no thread reads any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._mapped: mmap.mmap | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise TapeError(f"{path}: cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise TapeError(f"{path}: expected a regular file")
        self.size = status.st_size

    def read_into(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` [bytes], contiguous, from ``offset``; the kernel copies straight into it.

        Raises:
            TapeError: the file ends before, or cannot be read.
        """
        view = out.data
        while view.nbytes:
            try:
                count = os.preadv(self._descriptor, [view], offset)
            except OSError as error:
                raise TapeError(f"{self.path}: cannot be read: {error.strerror}") from error
            if not count:
                raise TapeError(f"{self.path}: ends at {offset}, {view.nbytes} bytes too early")
            view = view[count:]
            offset += count

    def map(self) -> None:
        """Map the file, for ``copy_into``; ``read_into`` is over.

        Raises:
            TapeError: the file was cut since it was opened.
        """
        try:
            self._mapped = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TapeError(f"{self.path}: cannot be mapped: {error}") from error
        self._close_descriptor()

    def copy_into(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` as ``read_into`` does, out of the mapped file, the interpreter's lock freed.

        Warm, this is memcpy; ``preadv`` reached 0.55 of it. Whether the file was cut since it was
        opened is asked before each copy: a page that is gone would end the process.

        Raises:
            TapeError: the file is shorter than when it was opened.
        """
        if self._mapped is None:
            raise TapeError(f"{self.path}: was closed")
        if (missing := self.size - self._mapped.size()) > 0:
            raise TapeError(f"{self.path}: was cut while open, {missing} bytes too early")
        np.copyto(out, np.frombuffer(self._mapped, np.uint8, out.size, offset))

    def close(self) -> None:
        """Give the descriptor and the mapping back; harmless when repeated."""
        self._mapped = None
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View a contiguous array as its bytes."""
    assert array.flags.c_contiguous
    return array.reshape(-1).view(np.uint8)


def check_rows(name: str, start: int, count: int, num_rows: int) -> int:
    """Return ``start`` as an int.

    Raises:
        TapeError: rows ``start`` to ``start + count`` are not all inside ``[0, num_rows)``.
    """
    start = operator.index(start)
    if not 0 <= start <= start + count <= num_rows:
        raise TapeError(f"{name}: rows {start} to {start + count} of {num_rows}")
    return start


def check_sizes(name: str, num_rows: object, width: object) -> None:
    """Check row count and width that a manifest gives.

    Raises:
        TapeError: one is no whole number, or beyond the format's limits.
    """
    if type(num_rows) is not int or not 0 <= num_rows <= MAX_ROWS:
        raise TapeError(f"{name}: {_shown(num_rows)} positions, expected 0 to {MAX_ROWS}")
    if type(width) is not int or not 1 <= width <= MAX_WIDTH:
        raise TapeError(f"{name}: width {_shown(width)}, expected 1 to {MAX_WIDTH}")


def read_inner_rows(path: Path, spec: RowsSpec, num_rows: int) -> int:
    """Check ``zarr.json`` against what is expected; return the rows of an inner chunk.

    Raises:
        TapeError: the file is no small JSON object, or not the expected one.
    """
    found = _parse(path)
    try:
        inner_rows = found["codecs"][0]["configuration"]["chunk_shape"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise TapeError(f"{path}: codecs name no inner chunks (sharding_indexed)") from error
    most = max(1, MAX_INNER_BYTES // spec.row_bytes)
    if type(inner_rows) is not int or not 1 <= inner_rows <= most:
        raise TapeError(f"{path}: {_shown(inner_rows)} rows a chunk, expected 1 to {most}")
    if chunks_of(num_rows, inner_rows) > MAX_CHUNKS:
        raise TapeError(f"{path}: {num_rows} rows by {inner_rows}, expected <= {MAX_CHUNKS} chunks")
    expected = spec.metadata(num_rows, inner_rows)
    differing = [
        f"{key} is {_shown(found.get(key))}, expected {_shown(expected.get(key))}"
        for key in sorted(expected.keys() | found.keys())
        if key not in found or key not in expected or found[key] != expected[key]
    ]
    if differing:
        raise TapeError(f"{path}: " + "; ".join(differing[:8]))
    return inner_rows


def read_index(file: DataFile, num_chunks: int) -> NDArray[np.uint64]:
    """Read (offset, bytes) of every inner chunk, [num_chunks, 2], from the file's end.

    Raises:
        TapeError: the file is too short, or the index fails its crc32c.
    """
    num_bytes = num_chunks * 16 + 4
    if file.size < num_bytes:
        raise TapeError(f"{file.path}: {file.size} bytes, expected more than {num_bytes}")
    raw = np.empty(num_bytes, dtype=np.uint8)
    file.read_into(file.size - num_bytes, raw)
    content = raw.tobytes()
    if int(google_crc32c.value(content[:-4])).to_bytes(4, "little") != content[-4:]:
        raise TapeError(f"{file.path}: the index of {num_chunks} chunks fails its crc32c")
    return np.frombuffer(content[:-4], dtype="<u8").reshape(num_chunks, 2)


class ContiguousRows:
    """Rows of an array without compression, read straight from the file.

    Raises:
        TapeError: metadata, size or index differ from what the format prescribes.
    """

    def __init__(self, path_of: PathOf, name: str, spec: RowsSpec, num_rows: int) -> None:
        self.num_rows = num_rows
        self._spec = spec
        inner_rows = read_inner_rows(path_of(f"{name}/zarr.json"), spec, num_rows)
        num_chunks = chunks_of(num_rows, inner_rows)
        chunk_bytes = inner_rows * spec.row_bytes
        self._file = DataFile(path_of(f"{name}/{spec.data_file}"))
        expected = num_chunks * (chunk_bytes + 16) + 4
        if self._file.size != expected:
            raise TapeError(f"{self._file.path}: {self._file.size} bytes, expected {expected}")
        spans = read_index(self._file, num_chunks)
        offsets = np.arange(num_chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
        if not (np.array_equal(spans[:, 0], offsets) and (spans[:, 1] == chunk_bytes).all()):
            raise TapeError(f"{self._file.path}: chunks are not contiguous; rewrite the shard")
        self._file.map()

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill ``out`` [n, *row_shape], C-contiguous and of the stored type, from row ``start``.

        Raises:
            TapeError: rows that do not exist, or a file that ends early.
        """
        assert out.shape[1:] == self._spec.row_shape, (out.shape, self._spec.row_shape)
        assert out.dtype == self._spec.stored, out.dtype
        start = check_rows(str(self._file.path), start, out.shape[0], self.num_rows)
        if out.size:
            self._file.copy_into(start * self._spec.row_bytes, as_bytes(out))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _parse(path: Path) -> dict[str, Any]:
    file = DataFile(path)
    try:
        if file.size > MAX_METADATA_BYTES:
            raise TapeError(f"{path}: {file.size} bytes, expected <= {MAX_METADATA_BYTES}")
        raw = np.empty(file.size, dtype=np.uint8)
        file.read_into(0, raw)
    finally:
        file.close()
    content = raw.tobytes()
    if content.count(b"[") + content.count(b"{") > MAX_BRACKETS:
        raise TapeError(f"{path}: more than {MAX_BRACKETS} lists and objects")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TapeError(f"{path}: expected JSON: {error}") from error
    if not isinstance(found, dict):
        raise TapeError(f"{path}: expected a JSON object")
    return found


def _shown(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
