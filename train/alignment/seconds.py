"""Audio positions of another model, or frames of an encoder, for the student's: by seconds.

Shapes: F teacher positions, A student positions, E overlaps, C covered student positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache_schema.types import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """The teacher's positions that overlap each position of the student.

    Attributes:
        students: int64 [E], a position of the student each, ascending.
        teachers: int64 [E], a position of the teacher that overlaps it.
        weights: float32 [E], the part of their common time; those of a student position sum to 1.
        covered: int64 [C], the student's positions that overlap any, ascending.
    """

    students: IntArray
    teachers: IntArray
    weights: FloatArray
    covered: IntArray


def by_seconds(teacher_times_s: FloatArray, student_times_s: FloatArray) -> Resampling:
    """Return which positions of the teacher stand for each position of the student.

    A student position gets the mean of the teacher's states weighted by the time they have in
    common, so that it hears what the teacher heard then, whatever the two rates are. One that
    overlaps none, such as a position that stands for silence behind the recording, is not covered.

    Args:
        teacher_times_s: float32 [F, 2], start and end of each position, neither ever decreasing.
        student_times_s: float32 [A, 2].
    """
    starts, ends = np.asarray(teacher_times_s, dtype=np.float64).T
    own_starts, own_ends = np.asarray(student_times_s, dtype=np.float64).T
    first = np.searchsorted(ends, own_starts, side="right")
    beyond = np.maximum(np.searchsorted(starts, own_ends, side="left"), first)
    students = np.repeat(np.arange(len(own_starts)), beyond - first)
    teachers = _ranges(first, beyond)
    common_s = np.minimum(ends[teachers], own_ends[students])
    common_s -= np.maximum(starts[teachers], own_starts[students])
    kept = common_s > 0
    students, teachers, common_s = students[kept], teachers[kept], common_s[kept]
    whole_s = np.bincount(students, weights=common_s, minlength=len(own_starts))
    return Resampling(
        students=students,
        teachers=teachers,
        weights=(common_s / whole_s[students]).astype(np.float32),
        covered=np.flatnonzero(whole_s > 0),
    )


def _ranges(first: NDArray[np.int64], beyond: NDArray[np.int64]) -> IntArray:
    """Return first[0] .. beyond[0] - 1, first[1] .. beyond[1] - 1, ... one after the other."""
    counts = beyond - first
    before = np.cumsum(counts) - counts
    found: IntArray = np.arange(counts.sum()) - np.repeat(before - first, counts)
    return found
