"""What every row is checked for, whoever wrote it: limits, sums, and errors that name the row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import TapeError
from cache_schema.signals import MAX_ENTRIES, MAX_VOCABULARY
from cache_schema.types import FloatArray, IntArray

Row = dict[str, Any]
T = TypeVar("T")

MASS_TOLERANCE = 1e-2
"""How far a token's kept probabilities and its tail may be from 1 together."""


def checked(decode: Callable[..., T]) -> Callable[..., T]:
    """Name the row, given as ``where`` last, in every error of a decoder."""

    @functools.wraps(decode)
    def wrapped(*args: Any) -> T:
        try:
            return decode(*args[:-1])
        except (TapeError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TapeError(f"{args[-1]}: {error}") from error

    return wrapped


def check_entries(count: int) -> None:
    """Refuse a row that unfolds into more than any has.

    Raises:
        ValueError: saying how many.
    """
    if not 0 <= count <= MAX_ENTRIES:
        raise ValueError(f"{count} entries in one trace, at most {MAX_ENTRIES} are read")


def token_ids_of(values: NDArray[Any], name: str) -> IntArray:
    """Return token ids as int64, refusing what no vocabulary has.

    Raises:
        ValueError: an id is out of range.
    """
    # as unsigned numbers the negative ones are the largest: one pass, no temporary
    unsigned = values.view(f"u{values.itemsize}")
    if len(values) and unsigned.max() >= MAX_VOCABULARY:
        raise ValueError(f"{name} outside 0 to {MAX_VOCABULARY - 1}")
    return values.astype(np.int64)


def check_mass(logprobs: FloatArray, tail: FloatArray) -> None:
    """Refuse log-probabilities [n, k] and tails [n] that are no distributions.

    Raises:
        ValueError: numbers differ, a row ascends, or its probabilities do not sum to 1.
    """
    if tail.shape != logprobs.shape[:1]:
        raise ValueError(f"{len(tail)} tails for {len(logprobs)} tokens")
    mass = np.exp(logprobs).sum(axis=1) + tail
    if not (logprobs[:, 1:] <= logprobs[:, :-1]).all():
        raise ValueError("log-probabilities that ascend: the most probable comes first")
    if not (np.abs(mass - 1) <= MASS_TOLERANCE).all() or (tail < 0).any():
        raise ValueError("log-probabilities and tail that are not finite or do not sum to 1")


def check_times(times_s: FloatArray, count: int) -> FloatArray:
    """Return the times of positions as float32 [count, 2]: where each begins and ends, in seconds.

    Raises:
        ValueError: another number of times; one that is negative or not finite; a position that
            ends before it begins, or that begins or ends before the one before it.
    """
    if len(times_s) != 2 * count:
        raise ValueError(f"{len(times_s)} times for {count} positions, expected a start and an end")
    times = times_s.reshape(-1, 2)
    if not count:
        return times
    if not (times.min() >= 0 and times.max() < np.inf):  # a NaN is its array's least
        raise ValueError("times that are negative or not finite")
    if (times[:, 0] > times[:, 1]).any() or (times[1:] < times[:-1]).any():
        raise ValueError("times do not ascend")
    return times
