"""A micro-batch's positions, and what a teacher recorded for the same seconds or words.

Shapes: F positions of the teacher in all rows, C of the student that have something to compare
with, E overlaps, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cache_schema.errors import TapeError
from cache_schema.hidden import HiddenPlace
from cache_schema.types import FloatArray, IntArray
from train.alignment.seconds import Resampling, by_seconds

SAME_S = 0.005
"""Positions whose times differ by no more are the same: mel frames are 10 ms."""

LEAST_GAP_S, MOST_APART = 0.1, 0.25
"""Front ends leave out an end of a recording; more than both of these is another recording."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Which positions are compared, and what the teacher's states become there.

    Attributes:
        positions: for each row int64, input positions of the student, C in all.
        overlaps: int64 [2, E], the compared position and the teacher's; ``None`` where the
            teacher's positions are the student's, one by one.
        weights: float32 [E].
    """

    positions: list[Tensor]
    overlaps: Tensor | None
    weights: Tensor | None

    @property
    def count(self) -> int:
        """C, the compared positions of all rows."""
        return sum(map(len, self.positions))

    def to(self, device: torch.device) -> Meeting:
        """Return it with the overlaps on ``device``; positions stay where they are."""
        if self.overlaps is None or self.weights is None:
            return self
        return replace(
            self,
            overlaps=self.overlaps.to(device, non_blocking=True),
            weights=self.weights.to(device, non_blocking=True),
        )

    def states(self, recorded_FD: Tensor) -> Tensor:
        """Return the teacher's states [C, D] at the compared positions."""
        if self.overlaps is None or self.weights is None:
            return recorded_FD
        into_E, teachers_E = self.overlaps
        weighted_ED = recorded_FD[teachers_E].float() * self.weights[:, None]
        out_CD = weighted_ED.new_zeros(self.count, recorded_FD.shape[1])
        return out_CD.index_add_(0, into_E, weighted_ED)


def meet(
    names: Sequence[str],
    places: Sequence[HiddenPlace],
    positions: Sequence[Tensor],
    times_s: Sequence[FloatArray],
) -> Meeting:
    """Return where recorded states of audio and the student's audio positions meet.

    Args:
        names: what each row is, for messages.
        places: where its states lie; of kind ``audio`` or ``frame``.
        positions: the student's audio positions in its input.
        times_s: start and end of each.

    Raises:
        TapeError: a row's positions are others than the student's and have no times, or are of a
            recording of another length.
    """
    own = list(zip(names, places, positions, times_s, strict=True))
    if all(_same(place, times) for _, place, _, times in own):
        return Meeting(positions=list(positions), overlaps=None, weights=None)
    found = [_resampling(name, place, times) for name, place, _, times in own]
    return _joined(found, positions, [place.count for place in places])


def meet_frames(
    names: Sequence[str],
    recorded_s: Sequence[FloatArray],
    times_s: Sequence[FloatArray],
) -> Meeting:
    """Return where what was recorded of frames and the student's own frames meet.

    A row without a recorded frame has no position to compare.

    Args:
        names: what each row is, for messages.
        recorded_s: start and end of each recorded frame.
        times_s: of each frame of the student, which ``positions`` number from 0 in every row.

    Raises:
        TapeError: the frames of a row are of a recording of another length.
    """
    rows = list(zip(names, recorded_s, times_s, strict=True))
    found = [_by_checked_seconds(name, "frames", *times) for name, *times in rows]
    positions = [torch.arange(len(own_s)) for own_s in times_s]
    return _joined(found, positions, [len(each) for each in recorded_s])


def _joined(
    found: Sequence[Resampling], positions: Sequence[Tensor], counts: Sequence[int]
) -> Meeting:
    """Put the rows of a meeting one after the other; ``counts`` are the teacher's positions."""
    into, teachers, first, offset = [], [], 0, 0
    for each, count in zip(found, counts, strict=True):
        into.append(first + np.searchsorted(each.covered, each.students))
        teachers.append(offset + each.teachers)
        first, offset = first + len(each.covered), offset + count
    return Meeting(
        positions=[
            row[torch.from_numpy(each.covered)] for row, each in zip(positions, found, strict=True)
        ],
        overlaps=torch.from_numpy(np.stack([np.concatenate(into), np.concatenate(teachers)])),
        weights=torch.from_numpy(np.concatenate([each.weights for each in found])),
    )


def meet_tokens(
    places: Sequence[HiddenPlace],
    positions: Sequence[Tensor],
    pairs: Sequence[tuple[IntArray, IntArray]],
) -> Meeting:
    """Return where recorded states of a trace and the student's positions meet.

    Args:
        places: where each row's states lie.
        positions: for each row, where the student's tokens are predicted.
        pairs: for each row, the teacher's tokens that begin where the student's do, and those.
    """
    offsets = np.cumsum([0, *(place.count for place in places)])[:-1]
    teachers = np.concatenate(
        [offset + theirs for offset, (theirs, _) in zip(offsets, pairs, strict=True)]
    )
    return Meeting(
        positions=[
            row[torch.from_numpy(ours)] for row, (_, ours) in zip(positions, pairs, strict=True)
        ],
        overlaps=torch.from_numpy(np.stack([np.arange(len(teachers)), teachers])),
        weights=torch.ones(len(teachers)),
    )


def _same(place: HiddenPlace, times_s: FloatArray) -> bool:
    if place.kind != "audio" or place.count != len(times_s):
        return False
    return place.times_s is None or bool(np.abs(place.times_s - times_s).max(initial=0) <= SAME_S)


def _resampling(name: str, place: HiddenPlace, times_s: FloatArray) -> Resampling:
    if place.times_s is None:
        raise TapeError(
            f"{name}: {place.count} recorded positions ({place.kind}) without times, and the "
            f"student has {len(times_s)}; record the acoustic teacher again"
        )
    return _by_checked_seconds(name, "states", place.times_s, times_s)


def _by_checked_seconds(
    name: str, what: str, recorded_s: FloatArray, times_s: FloatArray
) -> Resampling:
    """Return ``by_seconds``, after checking that both are about as long."""
    length_s, own_s = (float(each.max(initial=0)) for each in (recorded_s, times_s))
    if len(recorded_s) and abs(length_s - own_s) > max(
        LEAST_GAP_S, MOST_APART * max(length_s, own_s)
    ):
        raise TapeError(
            f"{name}: {what} were recorded for {length_s:.2f} s of audio, and the student hears "
            f"{own_s:.2f} s; verify the tape"
        )
    return by_seconds(recorded_s.reshape(-1, 2), times_s)
