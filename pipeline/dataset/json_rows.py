"""Rows of a ``.jsonl`` file, found by byte offset and parsed one at a time; of a ``.json``, whole.

A ``.jsonl`` costs 8 bytes of memory a row. A ``.json`` list has no lines to find rows by, so it is
read whole (benchmarks such as MMAU are megabytes); a large data set belongs in a ``.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DatasetError

JsonRow = Mapping[str, Any]


class JsonlRows(Sequence[JsonRow]):
    """Random access to the rows of a JSONL file; several threads may read at once.

    The file is read by ``pread`` and not mapped: a mapped file that someone shortens kills the
    process with SIGBUS, where reading can name the error.

    Args:
        path: the file.
        bounds: int64 [rows + 1], the byte where each row begins, then the end of the last one.
        stamp: ``stamp_of`` the file before it was indexed.
    """

    def __init__(self, path: Path, bounds: NDArray[np.int64], stamp: tuple[int, int]) -> None:
        self._path = path
        self._bounds = bounds
        self._stamp = stamp
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        """Return one row, or a list of rows for a slice.

        Raises:
            DatasetError: the file was changed since it was opened.
        """
        if isinstance(index, slice):
            return [self._row(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._row(int(index) % len(self))

    def _row(self, number: int) -> JsonRow:
        start, end = int(self._bounds[number]), int(self._bounds[number + 1])
        line = os.pread(self._file, end - start, start)
        if stamp_of(os.fstat(self._file)) != self._stamp:
            raise DatasetError(f"{self._path}: the file was changed while it was read; run again")
        return _object(_parse(line.strip(), f"{self._path}, row {number}"), self._path)


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """Return what differs after a file was written to: its date in nanoseconds, and its size."""
    return status.st_mtime_ns, status.st_size


def read_json(path: Path) -> tuple[Sequence[JsonRow], list[str], str]:
    """Open a ``.jsonl`` or ``.json`` file.

    Every row is parsed once here, so that a bad line is named before anything is written.

    Returns:
        The rows, the names of their columns in the order met, and the SHA-256 of the file's bytes.

    Raises:
        DatasetError: a line or the file is not JSON, or not made of objects.
    """
    stamp = stamp_of(path.stat())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    names: dict[str, None] = {}
    if path.suffix == ".json":
        rows = _parse(path.read_bytes(), str(path))
        if not isinstance(rows, list):
            raise DatasetError(f"{path}: expected a list of objects")
        for row in rows:
            names.update(dict.fromkeys(_object(row, path)))
        return rows, list(names), digest
    bounds = array("q")
    end = 0
    for number, start, line in _lines(path):
        if line.strip():
            row = _object(_parse(line.strip(), f"{path}, line {number}"), path)
            names.update(dict.fromkeys(row))
            bounds.append(start)
            end = start + len(line)
    bounds.append(end)
    return JsonlRows(path, np.frombuffer(bounds, dtype=np.int64), stamp), list(names), digest


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 1), first byte and content of each line, ended by LF, CR or CRLF."""
    number = start = 0
    with path.open("rb") as file:
        for block in file:  # up to an LF
            for line in block.splitlines(keepends=True):
                number += 1
                yield number, start, line
                start += len(line)


def _parse(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " * (error.lineno > 1)  # of a piece that is a line, always 1
        raise DatasetError(f"{where}: {error.msg} at {line}column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: {error}") from error


def _object(row: Any, path: Path) -> JsonRow:
    if not isinstance(row, dict):
        raise DatasetError(f"{path}: expected a list of objects")
    return row
