"""A sound from its formula, encoded in files of every kind, and how far a decoded one is off."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

SECONDS = 1.5
EDGE = 800
"""50 ms at both ends, where codecs fade in and filters reach beyond the recording."""


def sound(rate_hz: int, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Two tones that every rate and codec here carries, with a slow beat that shows a shift."""
    times_s = np.arange(round(rate_hz * seconds)) / rate_hz
    tones = np.sin(2 * np.pi * 440 * times_s) + 0.5 * np.sin(2 * np.pi * 1_030 * times_s)
    return np.asarray(0.3 * tones * (1 + 0.5 * np.sin(2 * np.pi * 3 * times_s)), np.float32)


def encoded(wave: NDArray[Any], rate_hz: int, form: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate_hz, format=form, subtype=subtype)
    return buffer.getvalue()


def error_of(audio: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the largest difference but for the edges; lengths may differ by a sample."""
    assert audio.dtype == np.float32
    assert abs(len(audio) - len(reference)) <= 1
    inner = slice(EDGE, len(reference) - EDGE)
    return float(np.abs(audio[inner] - reference[inner]).max())


RESAMPLED = 6e-3
"""What the filter, 6 zero crossings wide, leaves of the images of these tones; measured 4e-3."""


def mp3_of_varying_rate(seconds: float = 6.0) -> bytes:
    wave = sound(16_000, seconds)
    wave[len(wave) // 3 :] += np.random.default_rng(0).normal(0, 0.2, 2 * len(wave) // 3)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", 16_000, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(wave)
    return buffer.getvalue()


def without_first_frame(mp3: bytes) -> bytes:
    """Leave out the frame that says how long the recording is."""
    second = next(at for at in range(4, len(mp3)) if mp3[at : at + 2] == mp3[:2])
    return mp3[second:]


def streamed_wav(declared: int = 0xFFFFFFFF) -> bytes:
    wav = bytearray(encoded(sound(16_000), 16_000, "WAV", "PCM_16"))
    at = wav.find(b"data") + 4
    wav[at : at + 4] = declared.to_bytes(4, "little")
    return bytes(wav)
