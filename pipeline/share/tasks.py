"""Transfers in threads, few waiting at a time, the first failure told and the rest not begun."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

AHEAD = 4
"""Tasks submitted for each thread."""


def in_order(work: Callable[[S], T], items: Iterable[S], jobs: int) -> Iterator[tuple[S, T]]:
    """Yield (item, ``work(item)``) in the items' order, done by ``jobs`` threads."""
    waiting: deque[tuple[S, Future[T]]] = deque()
    with ThreadPoolExecutor(jobs, thread_name_prefix="transfer") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                while len(waiting) >= AHEAD * jobs:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
