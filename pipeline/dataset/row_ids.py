"""Ids that must not repeat, at a few bytes an id: 64-bit hashes, a match always checked exactly."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from cache_schema.index.arrays import hash_of
from cache_schema.index.id_numbers import RECENT, settled


def first_repeat(ids: Iterable[str], id_of: Callable[[int], str]) -> tuple[int, int] | None:
    """Return the first row whose id an earlier row has, as (earlier, row); ``None`` if none has.

    Costs 24 bytes a row while it runs. Hashes that match are compared as text.

    Args:
        ids: the id of each row, read once; rows without one (empty) are left out.
        id_of: reads the id of one row again.
    """
    hashes, rows = array("Q"), array("q")
    for row, given in enumerate(ids):
        if given:
            hashes.append(hash_of(given))
            rows.append(row)
    hashed = np.frombuffer(hashes, dtype=np.uint64)
    ordered = np.sort(hashed)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    seen: dict[str, int] = {}
    for at in np.flatnonzero(np.isin(hashed, twice)) if len(twice) else ():
        row = rows[at]
        earlier = seen.setdefault(id_of(row), row)
        if earlier != row:
            return earlier, row
    return None


class SeenIds:
    """Ids met so far and their rows, 16 bytes an id.

    Args:
        id_of: reads the id of a row again, to compare ids whose hashes match.
    """

    def __init__(self, id_of: Callable[[int], str]) -> None:
        self._id_of = id_of
        self._recent: dict[int, int] = {}
        self._hashes: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._unlucky: set[str] = set()  # ids whose hash is another id's

    def add(self, sample_id: str, row: int) -> bool:
        """Add an id; return whether it is new."""
        hashed = hash_of(sample_id)
        known = self._row_of(hashed)
        if known is None:
            self._recent[hashed] = row
            if len(self._recent) >= RECENT:
                self._hashes, self._rows = settled(self._hashes, self._rows, self._recent)
            return True
        if sample_id in self._unlucky or self._id_of(known) == sample_id:
            return False
        self._unlucky.add(sample_id)
        return True

    def _row_of(self, hashed: int) -> int | None:
        if hashed in self._recent:
            return self._recent[hashed]
        at = int(np.searchsorted(self._hashes, np.uint64(hashed)))
        if at < len(self._hashes) and int(self._hashes[at]) == hashed:
            return int(self._rows[at])
        return None
