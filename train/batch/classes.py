"""What classifiers and encoders say of recordings, stacked over the rows of a micro-batch.

Shapes: B rows, F recorded frames of all rows in order, K frames of the student's audio tower that
are compared, C classes, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from cache_schema import TapeRow
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Embedding, FloatArray, FrameLogits, UtteranceLogits
from train.alignment.meeting import Meeting, meet_frames


@dataclass(frozen=True, kw_only=True)
class FrameTargets:
    """Class logits of frames.

    Attributes:
        logits_FC: raw, float32.
        meeting: which frames of the student's audio tower they are compared with; its positions are
            numbers of a row's frames.
        kept_K: int64, numbers of the same frames among those of all rows.
    """

    logits_FC: Tensor  # noqa: N815
    meeting: Meeting
    kept_K: Tensor  # noqa: N815

    def to(self, device: torch.device) -> FrameTargets:
        """Return them on ``device``."""
        return FrameTargets(
            logits_FC=self.logits_FC.to(device, non_blocking=True),
            meeting=self.meeting.to(device),
            kept_K=self.kept_K.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class RecordingTargets:
    """What is known of the recordings of a micro-batch, by the signal's name.

    Attributes:
        wholes: float32 [B, C] raw logits, or [B, E] embeddings.
        frames: of frames.
    """

    wholes: Mapping[str, Tensor]
    frames: Mapping[str, FrameTargets]

    def to(self, device: torch.device) -> RecordingTargets:
        """Return them on ``device``."""
        return RecordingTargets(
            wholes={name: w.to(device, non_blocking=True) for name, w in self.wholes.items()},
            frames={name: each.to(device) for name, each in self.frames.items()},
        )


def stack_recordings(
    rows: Sequence[TapeRow], signals: Sequence[str], tower_times_s: Sequence[FloatArray]
) -> RecordingTargets:
    """Stack signals of recordings.

    Args:
        rows: the rows' samples.
        signals: names, as ``emotion/utterance_logits``.
        tower_times_s: for each row start and end of each frame of the student's audio tower.

    Raises:
        MissingSignalError: a row lacks a signal.
        TapeError: what is recorded is damaged, or its frames are of another recording's length.
    """
    wholes: dict[str, Tensor] = {}
    frames: dict[str, FrameTargets] = {}
    for name in signals:
        found = [row.signal(name, AUDIO_ROW) for row in rows]
        if name.endswith("/frame_logits"):
            names = [f"{name} of sample {row.sample_id!r}" for row in rows]
            frames[name] = _stack_frames(names, cast("list[FrameLogits]", found), tower_times_s)
        else:
            vectors = cast("list[UtteranceLogits | Embedding]", found)
            wholes[name] = torch.from_numpy(np.stack([_vector(each) for each in vectors]))
    return RecordingTargets(wholes=wholes, frames=frames)


def _stack_frames(
    names: Sequence[str], found: Sequence[FrameLogits], tower_times_s: Sequence[FloatArray]
) -> FrameTargets:
    meeting = meet_frames(names, [each.times_s for each in found], tower_times_s)
    first = np.cumsum([0, *map(len, tower_times_s)])[:-1].tolist()
    rows = zip(first, meeting.positions, strict=True)
    return FrameTargets(
        logits_FC=torch.from_numpy(np.concatenate([each.logits for each in found])),
        meeting=meeting,
        kept_K=torch.cat([start + positions for start, positions in rows]),
    )


def _vector(signal: UtteranceLogits | Embedding) -> FloatArray:
    return signal.logits if isinstance(signal, UtteranceLogits) else signal.values
