"""The portions a worker takes, one after the other, until no row of the group is left.

The tape says what is left; the leases only say who is at it. So a worker looks at the tape again
whenever a portion may have been worked on after it looked, and the step ends when the tape has
everything: whoever waits for the last portions of others takes over those that stay unfinished.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache_schema import Tape
from cache_schema.commands.console import say
from cache_schema.errors import TapeError
from pipeline.cluster.lease import Lease
from pipeline.cluster.leases import Leases, Top

NEVER = Top(generation=-1, done=False)
MAX_TAKEN = 3
"""Times one worker goes through the same portion before it says that nothing comes of it."""

STALE = 200
"""Portions in a row that others have finished since the tape was looked at: look again."""

_SHORTEST_S, _LONGEST_S = 0.1, 5.0
"""Pauses between two looks at what others hold."""


class Left(Protocol):
    """Rows that are still to be recorded."""

    @property
    def row_indices(self) -> NDArray[np.int64]:
        """Their numbers in the dataset, int64 [n]."""

    def __len__(self) -> int: ...

    def where(self: L, mask: NDArray[np.bool_]) -> L:
        """Return those that a mask, bool [n], holds."""


L = TypeVar("L", bound=Left)
Look = Callable[[], tuple[Tape, L]]
"""Opens the tape as it is now; gives it and what is left of the group."""


@dataclass(frozen=True, kw_only=True)
class Portion(Generic[L]):
    """Rows that are this worker's to record now.

    Attributes:
        lease: held until they are recorded.
        tape: as it was when they were found to be left.
        left: the rows.
        number: of the portion.
        of: portions that were left then, this one included.
    """

    lease: Lease
    tape: Tape
    left: L
    number: int
    of: int


class Portions(Generic[L]):
    """Takes portions; iterate once.

    Args:
        leases: of the group.
        title: begins what is said.
        look: see ``Look``.
    """

    def __init__(self, leases: Leases, title: str, look: Look[L]) -> None:
        self._leases, self._title, self._look = leases, title, look
        self._taken: Counter[int] = Counter()
        self._start = random.random()  # workers begin at different portions

    def __iter__(self) -> Iterator[Portion[L]]:
        """Yield portions until nothing is left, waiting for those that others hold.

        Raises:
            TapeError: a portion stays as it is although it was gone through several times.
        """
        pause_s = 0.0
        while True:
            life = self._leases.open()
            tops = self._leases.tops()  # before the look: what is done by now, it shows
            tape, left = self._look()
            if not len(left):
                return
            taken = 0
            for portion in self._sweep(life, tops, tape, left):
                taken += 1
                yield portion
            if taken:
                pause_s = 0.0
                continue
            if not pause_s:
                say(f"{self._title}: {len(left)} samples are left, at other workers; waiting")
            pause_s = min(max(2 * pause_s, _SHORTEST_S), _LONGEST_S)
            time.sleep(pause_s)

    def _sweep(self, life: str, tops: dict[int, Top], tape: Tape, left: L) -> Iterator[Portion[L]]:
        """Go over the portions that were left once, beginning anywhere."""
        of_row = left.row_indices // self._leases.rows
        numbers = np.unique(of_row)
        numbers = np.roll(numbers, -int(self._start * len(numbers)))
        finished = 0
        for number in numbers.tolist():
            lease, sure = self._take(number, tops.get(number, NEVER))
            finished = finished + 1 if lease is None else 0
            if lease is None:
                if finished >= STALE:
                    return
                continue
            now, rows = tape, left.where(of_row == number)
            if not sure or self._leases.open() != life:
                now, every = self._look()
                rows = every.where(every.row_indices // self._leases.rows == number)
            if not len(rows):
                lease.finish()
                continue
            self._count(number, rows)
            yield Portion(lease=lease, tape=now, left=rows, number=number, of=len(numbers))

    def _take(self, number: int, before: Top) -> tuple[Lease | None, bool]:
        """Take a portion if nobody is at it.

        Args:
            number: the portion.
            before: what was known of it before the tape was looked at.

        Returns:
            The lease, and whether nobody can have worked on it since.
        """
        top = self._leases.top(number, before)
        if top == NEVER:
            return self._leases.claim(number, 0), True
        if top.done:
            if top != before:
                return None, False  # finished since
        elif why := self._leases.is_dead(number, top.generation):
            say(f"{self._title}: portion {number} is taken over: its worker {why}")
        else:
            return None, False
        return self._leases.claim(number, top.generation + 1), False

    def _count(self, number: int, rows: L) -> None:
        self._taken[number] += 1
        if self._taken[number] > MAX_TAKEN:
            shown = ", ".join(map(str, rows.row_indices[:5].tolist()))
            raise TapeError(
                f"{self._title}: rows {shown} were gone through {MAX_TAKEN} times and are neither "
                "recorded nor quarantined; is the tape's folder shared by another name or cached?"
            )
