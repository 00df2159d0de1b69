"""The rows of one table while an index is built: 8 bytes each until they are the index's.

A writer builds indexes inside the process of a teacher, of tapes with millions of rows, so nothing
is held twice: a shard's rows are consecutive and of one manifest line, so of a new row only its key
is kept, and the rows of a mapped index stay where they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.index.arrays import TRACE_BITS

Piece = tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]
"""Key, manifest line and row in the shard's table, [n] each."""

_BLOCK = 1 << 16
"""Rows moved together, so that what is held besides does not grow with the tape."""


class TableRows:
    """Rows of one table, as they are met.

    Args:
        known: the rows of an index that are added to; mapped, and not copied.
    """

    def __init__(self, known: Piece | None = None) -> None:
        self._known = known
        self._keys = array("Q")  # grows in place, and gives its memory back at once
        self._shards: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._keys) + (0 if self._known is None else len(self._known[0]))

    def add(self, keys: NDArray[np.uint64], line: int) -> None:
        """Add the rows of a shard, all of them and in order."""
        self._keys.frombytes(keys.tobytes())
        self._shards.append((line, len(keys)))

    def write(self, into: Piece, place: NDArray[np.int64] | None = None) -> None:
        """Write the rows into arrays as long as this.

        Args:
            into: the arrays.
            place: the number in the index of each id's number here, [I]; the same without.
        """
        at = 0
        for keys, lines, rows in self._pieces():
            part = slice(at, at + len(keys))
            into[0][part] = keys if place is None else _renumbered(keys, place)
            into[1][part], into[2][part] = lines, rows
            at += len(keys)

    def _pieces(self) -> Iterator[tuple[NDArray[np.uint64], Any, NDArray[np.int32]]]:
        """Yield keys, line or lines, and rows, a block at a time."""
        if self._known is not None:
            for start in range(0, len(self._known[0]), _BLOCK):
                yield cut(self._known, slice(start, start + _BLOCK))
        keys, at = np.frombuffer(self._keys, dtype=np.uint64), 0
        for line, count in self._shards:
            for start in range(0, count, _BLOCK):
                stop = min(start + _BLOCK, count)
                yield keys[at + start : at + stop], line, np.arange(start, stop, dtype=np.int32)
            at += count


def room_for(count: int) -> Piece:
    """Return arrays of so many rows; their memory is taken when it is written to."""
    return np.empty(count, np.uint64), np.empty(count, np.int32), np.empty(count, np.int32)


def cut(piece: Piece, part: slice) -> Piece:
    """Return a part of a piece, as views."""
    keys, lines, rows = piece
    return keys[part], lines[part], rows[part]


def sort_rows(part: Piece, age: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort rows by key in place, of equal keys the first committed first.

    Args:
        part: the rows of one table.
        age: the place of each manifest line in the order of commitment.

    Returns:
        Where a key is there again, ascending.
    """
    keys, lines, _ = part
    if _ascends(keys):  # one worker that went through the dataset in order
        return np.empty(0, dtype=np.int64)
    _reorder(part, np.argsort(keys, kind="stable"))
    again = _repeated(keys)
    if len(again):
        _reorder(part, np.lexsort((age[lines], keys)))
    return again


def leave_out(part: Piece, places: NDArray[np.int64]) -> None:
    """Close the gaps of rows to be left out; as many at the end mean nothing afterwards."""
    kept = np.ones(len(part[0]), dtype=bool)
    kept[places] = False
    for values in part:
        some = values[kept]
        values[: len(some)] = some


def _renumbered(keys: NDArray[np.uint64], place: NDArray[np.int64]) -> NDArray[np.uint64]:
    low = keys & np.uint64((1 << TRACE_BITS) - 1)
    high = place[keys >> np.uint64(TRACE_BITS)].astype(np.uint64)
    renumbered: NDArray[np.uint64] = high << np.uint64(TRACE_BITS) | low
    return renumbered


def _reorder(part: Piece, order: NDArray[np.int64]) -> None:
    for values in part:
        values[:] = values[order]


def _ascends(keys: NDArray[np.uint64]) -> bool:
    """Whether each key is greater than the one before."""
    blocks = (keys[start : start + _BLOCK + 1] for start in range(0, len(keys), _BLOCK))
    return all(bool((block[1:] > block[:-1]).all()) for block in blocks)


def _repeated(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    again: NDArray[np.int64] = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    return again
