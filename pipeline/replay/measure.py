"""How far apart two recordings of one thing are: pure functions of arrays.

Shapes: R distributions (positions, or positions and layers), k kept ids, T tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache_schema.types import FloatArray, IntArray, Sampled

_ROWS = 512
"""Distributions compared at a time: k * k comparisons each."""

_LEAST_ID = 1e-12
_LEAST_REST = 1e-6
"""Probabilities below are taken for these: the rest is 1 less a sum of float32, so is noise there.
"""


class Distributions(NamedTuple):
    """Distributions: ids [R, k], log-probabilities [R, k], probability of the rest [R]."""

    ids: IntArray
    logprobs: FloatArray
    tail: FloatArray

    def part(self, rows: Any) -> Distributions:
        """Return those that an index of arrays names."""
        return Distributions(self.ids[rows], self.logprobs[rows], self.tail[rows])

    def equals(self, other: Distributions) -> bool:
        """Whether every number is the same."""
        return (
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.logprobs, other.logprobs)
            and np.array_equal(self.tail, other.tail)
        )


def kl_of(tape: Distributions, again: Distributions) -> NDArray[np.float64]:
    """Return KL(tape, again) of each distribution over the tape's k ids and the rest, nats [R].

    An id that the replay did not keep has at most the probability of the last one it kept, and that
    is what it is given: the result is a lower bound, and near the truth where it is small. Terms
    are ``p ln(p / q) - p + q``, none negative, so that sums that miss 1 by rounding do no harm.
    """
    rows = len(tape.tail)
    found = np.zeros(rows)
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
        found[part] = _kl(tape.part(part), again.part(part))
    return found


def _kl(tape: Distributions, again: Distributions) -> NDArray[np.float64]:
    p = np.exp(tape.logprobs.astype(np.float64))
    other = np.exp(again.logprobs.astype(np.float64))
    equal = tape.ids[:, :, None] == again.ids[:, None, :]
    here = equal.any(axis=2)
    most = np.minimum(other.min(axis=1, initial=1.0), again.tail)[:, None]
    q = np.where(here, np.einsum("rij,rj->ri", equal, other), most)
    rest = again.tail + np.where(equal.any(axis=1), 0.0, other).sum(axis=1)
    rest = rest - np.where(here, 0.0, q).sum(axis=1)
    total = _terms(p, q, _LEAST_ID).sum(axis=1)
    return np.asarray(total + _terms(tape.tail.astype(np.float64), rest, _LEAST_REST))


def _terms(p: NDArray[Any], q: NDArray[Any], least: float) -> NDArray[Any]:
    p, q = np.maximum(p, least), np.maximum(q, least)
    return np.asarray(p * np.log(p / q) - p + q)


def relative_l2(tape: NDArray[Any], again: NDArray[Any]) -> float:
    """Return the norm of the difference over that of the tape's values; 0 where both are 0."""
    difference = float(np.linalg.norm((tape.astype(np.float64) - again).reshape(-1)))
    if difference == 0.0:
        return 0.0
    norm = float(np.linalg.norm(tape.astype(np.float64).reshape(-1)))
    return difference / norm if norm else float("inf")


def drawn_moved(tape: Sampled, again: Sampled, tokens: int) -> int:
    """Return how many of the draws at the first ``tokens`` positions gave another token."""
    moved = 0
    for t in range(tokens):
        one, two = _counts(tape, t), _counts(again, t)
        moved += sum(max(0, count - two.get(token, 0)) for token, count in one.items())
    return moved


def _counts(drawn: Sampled, t: int) -> dict[int, int]:
    part = slice(int(drawn.offsets[t]), int(drawn.offsets[t + 1]))
    return dict(zip(drawn.token_ids[part].tolist(), drawn.counts[part].tolist(), strict=True))


def first_difference(one: IntArray, two: IntArray) -> int | None:
    """Return the first position at which two sequences differ, ``None`` if they are equal."""
    length = min(len(one), len(two))
    differing = np.flatnonzero(one[:length] != two[:length])
    if len(differing):
        return int(differing[0])
    return None if len(one) == len(two) else length
