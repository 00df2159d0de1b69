"""Recordings as bytes, losslessly: 16-bit words where every value is one, float32 otherwise."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def encode_audio(audio: NDArray[np.float32]) -> tuple[bytes, str]:
    """Encode audio losslessly: 16-bit words where every value is one, float32 otherwise."""
    with np.errstate(over="ignore"):  # infinite, so no word: it is kept as float32
        scaled = audio * np.float32(32768.0)
    if np.abs(scaled).max(initial=0.0) <= 32768.0 and scaled.max(initial=0.0) < 32768.0:
        words = scaled.astype("<i2")
        if np.array_equal(words.astype(np.float32), scaled):
            return words.tobytes(), "int16"
    return audio.astype("<f4").tobytes(), "float32"


def decode_audio(data: bytes, dtype: str) -> NDArray[np.float32]:
    """Decode what ``encode_audio`` wrote.

    Raises:
        ValueError: another type, or bytes that are not whole numbers of it.
    """
    if dtype == "int16":
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768.0)
    if dtype != "float32":
        raise ValueError(f"audio of type {dtype!r}: expected int16 or float32")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def audio_sha256(audio: NDArray[np.float32]) -> str:
    """Hash of the 16 kHz float32 samples: the identity of a recording."""
    return hashlib.sha256(np.ascontiguousarray(audio, dtype="<f4").tobytes()).hexdigest()
