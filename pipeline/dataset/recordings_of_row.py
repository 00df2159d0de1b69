"""The recording of a row: of a cell that holds one, several, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import AudioError
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray
from pipeline.audio.recordings import NoAudioError, is_absent, load_audio
from pipeline.recipe import DatasetRecipe


class SeveralRecordingsError(AudioError):
    """A cell holds several recordings, and it was not said what becomes of them."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The recording of a row.

    Attributes:
        audio: float32 [num_samples], mono, 16 kHz.
        spans_s: start and end in seconds of each recording it is made of, in order.
    """

    audio: FloatArray
    spans_s: tuple[tuple[float, float], ...]


def joining(recipe: DatasetRecipe) -> dict[str, Any]:
    """Return what a tape says of joining, JSON values: nothing where nothing is joined."""
    if recipe.several == "refuse":
        return {}
    return {"several": recipe.several, "gap_s": float(recipe.gap_s)}


def read_recording(
    cell: Any, folder: Path | None, several: str, gap_s: float, whole: bool = True
) -> Recording:
    """Read the recording of one row.

    Args:
        cell: one recording as ``load_audio`` takes it, or a list of them. A list of one is that
            one, and an empty list is none.
        folder: where relative paths start.
        several: ``refuse`` or ``join``.
        gap_s: silence between two that are joined, in seconds.
        whole: as of ``load_audio``.

    Raises:
        AudioError: a recording cannot be used.
        NoAudioError: there is none.
        SeveralRecordingsError: there are several.
    """
    cells = cell if isinstance(cell, list | tuple) else [cell]
    if any(isinstance(one, int | float) for one in cells):
        raise AudioError("bare numbers: an array of audio needs its sampling_rate")
    if all(map(is_absent, cells)):
        raise NoAudioError("there is no recording")
    if len(cells) == 1:
        return _joined([load_audio(cells[0], folder, whole)], 0)
    if several == "refuse":
        raise SeveralRecordingsError(
            f"{len(cells)} recordings in one row; --set dataset.several=join joins them, "
            "dataset.gap_s seconds of silence between"
        )
    return _joined(_each(cells, folder, whole), round(gap_s * SAMPLE_RATE_HZ))


def _each(cells: Sequence[Any], folder: Path | None, whole: bool) -> list[FloatArray]:
    audios = []
    for number, cell in enumerate(cells, 1):
        try:
            audios.append(load_audio(cell, folder, whole))
        except AudioError as error:  # the row has others, so this one is not merely absent
            raise AudioError(f"recording {number} of {len(cells)}: {error}") from error
    return audios


def _joined(audios: Sequence[FloatArray], gap: int) -> Recording:
    """Join recordings, ``gap`` samples of silence between."""
    silence = np.zeros(gap, dtype=np.float32)
    parts: list[FloatArray] = []
    spans = []
    start = 0
    for audio in audios:
        parts += [silence, audio] if parts else [audio]
        spans.append((start / SAMPLE_RATE_HZ, (start + len(audio)) / SAMPLE_RATE_HZ))
        start += len(audio) + gap
    return Recording(
        audio=parts[0] if len(parts) == 1 else np.concatenate(parts), spans_s=tuple(spans)
    )
