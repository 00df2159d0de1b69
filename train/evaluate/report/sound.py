"""Recordings inside the page: FLAC, cut where they would make it too large to send around."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import soundfile

from cache_schema.types import SAMPLE_RATE_HZ, FloatArray

_BASE64 = 4 / 3
_MIN_SAMPLES = 160


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One recording as the page plays it.

    Attributes:
        flac: the file, 16 bits a sample.
        duration_s: of the whole recording.
        shown_s: how much of it is in the file, from the start.
    """

    flac: bytes
    duration_s: float
    shown_s: float

    @property
    def is_cut(self) -> bool:
        """Whether there is more than can be played."""
        return self.shown_s < self.duration_s


def clips_within(recordings: Sequence[FloatArray], page_bytes: int) -> list[Clip]:
    """Return recordings that take no more of a page than they may together.

    Short ones are whole; what they leave of an even share goes to longer ones, which are cut.

    Args:
        recordings: float32 [num_samples] each, mono, 16 kHz.
        page_bytes: what all may take in base64.
    """
    left = int(page_bytes / _BASE64)
    whole = [encode(audio) for audio in recordings]
    clips: dict[int, Clip] = {}
    for place, number in enumerate(sorted(range(len(whole)), key=lambda one: len(whole[one]))):
        share = left // (len(whole) - place)
        clips[number] = _cut(recordings[number], whole[number], share)
        left -= len(clips[number].flac)
    return [clips[number] for number in range(len(whole))]


def _cut(audio: FloatArray, flac: bytes, most: int) -> Clip:
    kept = len(audio)
    while len(flac) > most and kept > _MIN_SAMPLES:
        kept = max(_MIN_SAMPLES, int(kept * most / len(flac) * 0.95))
        flac = encode(audio[:kept])
    return Clip(flac=flac, duration_s=len(audio) / SAMPLE_RATE_HZ, shown_s=kept / SAMPLE_RATE_HZ)


def encode(audio: FloatArray) -> bytes:
    """Return a recording as a FLAC file, 16 bits a sample.

    Args:
        audio: float32 [num_samples], mono, 16 kHz.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
