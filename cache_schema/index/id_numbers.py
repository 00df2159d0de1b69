"""Numbers for ids, given as they are met, without a Python object for each id.

A million ids in a dictionary are 150 MB and more; here an id costs its text and about 32 bytes, and
nothing where an index that is mapped knows it already. Ids are looked up by their XXH3-64; what is
found is compared as text.
"""

from __future__ import annotations

from array import array

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema.index.arrays import Index, hash_of

RECENT = 1 << 13
"""New ids kept in a dictionary before they are moved, sorted, into the arrays."""


def settled(
    hashes: NDArray[np.uint64], numbers: NDArray[np.int64], recent: dict[int, int]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return sorted hashes and their numbers with the recent ones among them; clears those."""
    new = np.fromiter(recent.keys(), dtype=np.uint64, count=len(recent))
    numbers_of_new = np.fromiter(recent.values(), dtype=np.int64, count=len(recent))
    recent.clear()
    order = np.argsort(new)
    at = np.searchsorted(hashes, new[order])
    return np.insert(hashes, at, new[order]), np.insert(numbers, at, numbers_of_new[order])


class IdNumbers:
    """Ids and their numbers, 0, 1, 2, ...; those of an index come first, then new ones as met.

    Args:
        known: the index whose ids are numbered already, if there is one.
    """

    def __init__(self, known: Index | None = None) -> None:
        self._known = known
        self._num_known = 0 if known is None else len(known.sample_id)
        self._text = bytearray()
        self._ends = array("q", [0])
        self._hashes = array("Q")
        self._sorted: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._sorted_number: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._recent: dict[int, int] = {}
        self._unlucky: dict[str, int] = {}  # ids whose hash another new id has

    def __len__(self) -> int:
        return self._num_known + len(self._hashes)

    def __getitem__(self, number: int) -> str:
        """Return the id of a number."""
        if self._known is not None and number < self._num_known:
            return str(self._known.sample_id[number])
        new = number - self._num_known
        return self._text[self._ends[new] : self._ends[new + 1]].decode()

    def add(self, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the numbers of ids, [n]; new ids get the next ones."""
        texts = ids.to_pylist()
        hashes = np.fromiter(map(hash_of, texts), dtype=np.uint64, count=len(texts))
        numbers = self._looked_up(hashes)
        for row in np.flatnonzero(numbers < 0):
            numbers[row] = self._recent.get(int(hashes[row]), -1)
            if numbers[row] < 0:
                numbers[row] = self._recent[int(hashes[row])] = self._append(
                    texts[row], int(hashes[row])
                )
        for row, text in enumerate(texts):
            if self[int(numbers[row])] != text:
                numbers[row] = self._collided(text, int(hashes[row]))
        if len(self._recent) >= RECENT:
            self._sorted, self._sorted_number = settled(
                self._sorted, self._sorted_number, self._recent
            )
        return numbers

    def texts(self) -> pa.LargeStringArray:
        """Return every id, by its number; no id can be added while the array is held."""
        ends, text = pa.py_buffer(self._ends), pa.py_buffer(self._text)
        new = pa.LargeStringArray.from_buffers(len(self._hashes), ends, text)
        return new if self._known is None else pa.concat_arrays([self._known.sample_id, new])

    def hashes(self) -> NDArray[np.uint64]:
        """Return every id's XXH3-64, by its number."""
        hashes = np.empty(len(self), dtype=np.uint64)
        if self._known is not None:
            hashes[self._known.id_number] = self._known.id_hash
        hashes[self._num_known :] = np.frombuffer(self._hashes, dtype=np.uint64)
        return hashes

    def _looked_up(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the numbers the sorted hashes have, -1 where there is none."""
        numbers = np.full(len(hashes), -1, dtype=np.int64)
        levels = [(self._sorted, self._sorted_number)]
        if self._known is not None:
            levels.append((self._known.id_hash, self._known.id_number))
        for ordered, number in levels:
            if len(ordered):
                at = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
                numbers = np.where(ordered[at] == hashes, number[at], numbers)
        return numbers

    def _collided(self, text: str, hashed: int) -> int:
        """Return the number of an id of whose hash another id was found."""
        number = self._unlucky.get(text)
        if number is None and self._known is not None:
            number = self._known.number_of(text)
        if number is None:
            number = self._unlucky[text] = self._append(text, hashed)
        return number

    def _append(self, text: str, hashed: int) -> int:
        self._text += text.encode()
        self._ends.append(len(self._text))
        self._hashes.append(hashed)
        return len(self) - 1
