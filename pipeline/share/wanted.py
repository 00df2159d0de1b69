"""Which recordings a tape refers to and where they are attached: found again by their hashes.

A tape may have millions of samples, so that what is kept of each is a few numbers: the first eight
bytes of the sha256 find candidates, and the whole of it is compared when a recording is written.

Shapes: S samples of shards without recordings, in the order of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache_schema import Tape
from cache_schema.attached import references
from cache_schema.committed import Shard

NONE = -1
_KEY_DIGITS = 16


def key_of(sha256: str) -> int:
    """Return what recordings are looked up by."""
    return int(sha256[:_KEY_DIGITS], 16)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A sample whose recording is wanted.

    Attributes:
        number: its place among those of its tape, S.
        sample_id: its id.
        row_index: its row of the data set.
        sha256: of its recording.
    """

    number: int
    sample_id: str
    row_index: int
    sha256: str


class Wanted:
    """The recordings that a tape refers to.

    Args:
        tape: the tape.

    Attributes:
        shards: the shards of samples without recordings.
        here: which recordings are attached, bool [S].
    """

    def __init__(self, tape: Tape) -> None:
        self.shards: list[Shard] = []
        here: list[NDArray[np.bool_]] = []
        keys: list[NDArray[np.uint64]] = []
        for shard, attached in references(tape):
            self.shards.append(shard)
            here.append(attached)
            told = shard.table("samples").column("audio_sha256").to_pylist()
            keys.append(np.array([key_of(one) for one in told], dtype=np.uint64))
        self._starts = np.cumsum([0, *map(len, here)])
        self.here = np.concatenate([np.empty(0, bool), *here])
        self.earlier = int(self.here.sum())
        flat = np.concatenate([np.empty(0, np.uint64), *keys])
        self._order = np.argsort(flat, kind="stable")
        self._keys = flat[self._order]

    def __len__(self) -> int:
        return len(self.here)

    @property
    def lacking(self) -> int:
        """How many are not attached."""
        return len(self) - int(self.here.sum())

    def shard_of(self, number: int) -> int:
        """Return the number of the shard that a sample is in."""
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def span(self, shard: int) -> slice:
        """Return where a shard's samples stand."""
        return slice(int(self._starts[shard]), int(self._starts[shard + 1]))

    def with_key(self, key: int) -> NDArray[np.int64]:
        """Return the samples whose recording may be the one with this key."""
        value = np.uint64(key)
        first = np.searchsorted(self._keys, value, side="left")
        last = np.searchsorted(self._keys, value, side="right")
        return self._order[first:last]

    def lacking_of(self, shard: int) -> Iterator[Reference]:
        """Yield a shard's samples whose recordings are not attached."""
        start = int(self._starts[shard])
        columns = self.shards[shard].columns("samples")
        names = ("sample_id", "row_index", "audio_sha256")
        for row in np.flatnonzero(~self.here[self.span(shard)]).tolist():
            sample_id, row_index, sha256 = columns.cells(names, row)
            yield Reference(
                number=start + row, sample_id=sample_id, row_index=row_index, sha256=sha256
            )

    def all_lacking(self) -> Iterator[Reference]:
        """Yield the samples whose recordings are not attached."""
        for shard in range(len(self.shards)):
            yield from self.lacking_of(shard)
