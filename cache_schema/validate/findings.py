"""What checking a tape found: every problem with its place and kind, few of them in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cache_schema.errors import TapeError

S = TypeVar("S")
T = TypeVar("T")

MAX_DETAILED = 1000
"""Problems told one by one; the rest are counted."""

NUM_THREADS = 4

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Title and total in bytes -> a context that gives what counts finished bytes."""


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong, or only worth knowing.

    Attributes:
        location: the file or folder, relative to the tape, and what in it.
        kind: a few words that stay the same; see ``cache_schema.validate.tape``.
        message: what was expected and what is there.
    """

    location: str
    kind: str
    message: str


@dataclass
class Findings:
    """Problems and notes in the order of checking, which is the same every time.

    Attributes:
        problems: the first ``MAX_DETAILED``.
        notes: what is no problem but worth knowing, as many.
        kinds: kind -> how many problems, all of them.
        broken: files that are missing or damaged, so that nothing is checked in them again.
        files: files whose checksum was compared.
        bytes: their size.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    broken: set[str] = field(default_factory=set)
    files: int = 0
    bytes: int = 0

    @property
    def count(self) -> int:
        """How many problems there are, those not told in full included."""
        return self.kinds.total()

    def add(self, location: str, kind: str, message: str) -> None:
        """Add a problem."""
        self.kinds[kind] += 1
        if len(self.problems) < MAX_DETAILED:
            self.problems.append(Problem(location=location, kind=kind, message=message))

    def note(self, location: str, kind: str, message: str) -> None:
        """Add something that is no problem."""
        if len(self.notes) < MAX_DETAILED:
            self.notes.append(Problem(location=location, kind=kind, message=message))

    def merge(self, other: Findings) -> None:
        """Add what another check found."""
        room = MAX_DETAILED - len(self.problems)
        self.problems += other.problems[:room]
        self.notes += other.notes[: MAX_DETAILED - len(self.notes)]
        self.kinds.update(other.kinds)
        self.broken |= other.broken
        self.files += other.files
        self.bytes += other.bytes

    @contextmanager
    def checking(self, location: str, kind: str) -> Iterator[None]:
        """Turn an error about the tape, or of reading it, into a problem; go on after it."""
        try:
            yield
        except TapeError as error:
            self.add(location, kind, str(error))
        except OSError as error:
            self.add(location, "unreadable", str(error))


def in_threads(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield ``work(item)`` in the items' order, done by several threads, few held at a time."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting: list[Future[Any]] = []
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 4 * NUM_THREADS:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
