"""Recordings on their way into a model: checked, at its rate; and the seconds of what it makes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from cache_schema.errors import AudioError
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray


def prepare_waveforms(
    audios: Sequence[FloatArray],
    *,
    model: str,
    sample_rate_hz: int,
    max_audio_s: float,
    min_audio_s: float,
) -> list[FloatArray]:
    """Return recordings as a front end takes them.

    Args:
        audios: float32 [num_samples] each, mono, 16 kHz.
        model: whose front end, for messages.
        sample_rate_hz: what it takes.
        max_audio_s: longest it hears.
        min_audio_s: below it hears nothing.

    Returns:
        float32 [num_samples] each, at ``sample_rate_hz``.

    Raises:
        AudioError: a recording is empty, not mono, not finite, too long or too short.
    """
    return [_prepare(audio, model, sample_rate_hz, max_audio_s, min_audio_s) for audio in audios]


def _prepare(
    audio: FloatArray, model: str, sample_rate_hz: int, max_audio_s: float, min_audio_s: float
) -> FloatArray:
    if audio.ndim != 1 or audio.size == 0:
        raise AudioError(f"expected mono samples, got an array of shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise AudioError("the recording holds NaN or infinite samples")
    duration_s = audio.size / SAMPLE_RATE_HZ
    if duration_s > max_audio_s:
        raise AudioError(
            f"{_digits(duration_s)} s of audio, and {model} hears {_digits(max_audio_s)} s; cut "
            "the recording first"
        )
    if duration_s < min_audio_s:
        raise AudioError(f"{audio.size} samples of audio are too short to be heard")
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return np.ascontiguousarray(audio, dtype=np.float32)
    import torchaudio  # only models at another rate need it

    samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    resampled = torchaudio.functional.resample(samples, SAMPLE_RATE_HZ, sample_rate_hz)
    return np.asarray(resampled.numpy(), dtype=np.float32)


def _digits(seconds: float) -> str:
    """Return seconds with as many digits as tell one sample more."""
    return f"{seconds:.4f}".rstrip("0").rstrip(".")


def audio_position_times_s(duration_s: float, num_positions: int) -> FloatArray:
    """Return float32 [A, 2]: position a covers ``[a, a + 1] * duration_s / A`` seconds.

    ``duration_s`` is that of the valid features (frames x hop), no more than the recording's; the
    last position ends there.
    """
    edges = np.linspace(0.0, duration_s, num_positions + 1, dtype=np.float32)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def window_edges(num_samples: int, window_s: float) -> list[int]:
    """Return where windows of equal length begin and end: as few as are no longer than asked."""
    if math.isinf(window_s):
        return [0, num_samples]
    count = max(1, math.ceil(num_samples / math.floor(window_s * SAMPLE_RATE_HZ)))
    return [num_samples * index // count for index in range(count + 1)]
