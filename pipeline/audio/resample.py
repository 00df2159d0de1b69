"""Recordings of any rate to 16 kHz, by windowed-sinc interpolation (Smith's; 6 zero crossings).

One core of a CPU turns 44.1 kHz into 16 kHz thousands of times faster than it is heard (a thousand
hours in about half an hour), so a GPU has nothing to win here. For recordings of a second it is the
kernel that costs, which is why kernels are kept, but for the long ones of odd rates.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import numpy as np

from cache_schema.errors import AudioError
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
"""Rates of sound: below, next to nothing can be heard; a header that says more is damaged."""

KEPT_KERNEL = 1 << 22
"""Weights of the longest kernel that is kept, 16 MiB."""

MAX_KERNEL = 1 << 28
"""Weights of the longest kernel that is made as a whole, 1 GiB, and several times that while it is
made: that of 15,999 Hz fits, that of 44,101 Hz does not."""

_ONE_LONG_KERNEL = threading.Lock()
"""Recordings are read by several threads, and memory holds one such kernel."""

_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99
"""The defaults of torchaudio, on which the hashes of recordings on older tapes depend."""

_BLOCK = 1 << 15
"""Samples computed together where a kernel would be too long."""


def resample(mono: FloatArray, rate_hz: int) -> FloatArray:
    """Return a recording at 16 kHz.

    Args:
        mono: float32 [num_samples].
        rate_hz: its rate.

    Returns:
        float32 [ceil(num_samples * 16000 / rate_hz)]; untouched at 16 kHz. The bits are those of
        ``torchaudio.functional.resample``, but for rates whose kernel is longer than ``MAX_KERNEL``
        (44,101 Hz), which agree to rounding.

    Raises:
        AudioError: no rate that sound is recorded at.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"a rate of {rate_hz} Hz: expected {MIN_RATE_HZ} to {MAX_RATE_HZ}; its header is "
            "damaged, or the rate is wrong"
        )
    if rate_hz == SAMPLE_RATE_HZ:
        return mono
    size = _kernel_size(rate_hz)
    if size > MAX_KERNEL:
        return _resample_directly(mono, rate_hz)
    if size > KEPT_KERNEL:
        with _ONE_LONG_KERNEL:
            return _applied(_make_resampler(rate_hz), mono)
    return _applied(_kept_resampler(rate_hz), mono)


def load_resampler() -> None:
    """Import what resampling takes: else done at the first recording that needs it."""
    _make_resampler(2 * SAMPLE_RATE_HZ)


def _applied(resampler: Any, mono: FloatArray) -> FloatArray:
    import torch

    return np.asarray(resampler(torch.from_numpy(mono)).numpy(), dtype=np.float32)


@functools.lru_cache(maxsize=8)
def _kept_resampler(rate_hz: int) -> Any:
    return _make_resampler(rate_hz)


def _make_resampler(rate_hz: int) -> Any:
    """Return the interpolation with its kernel, computed once; several threads may use it."""
    import torch
    from torchaudio.transforms import Resample

    # The dtype in which `torchaudio.functional.resample` computes its kernels, so the same bits.
    return Resample(
        rate_hz,
        SAMPLE_RATE_HZ,
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLLOFF,
        dtype=torch.float32,
    )


def _kernel_size(rate_hz: int) -> int:
    """Return the weights of a whole kernel: a filter for each phase that the two rates have."""
    common = math.gcd(rate_hz, SAMPLE_RATE_HZ)
    phases, stride = SAMPLE_RATE_HZ // common, rate_hz // common
    return phases * (stride + 2 * math.ceil(_half_width(rate_hz)))


def _half_width(rate_hz: int) -> float:
    """Return how far the filter reaches to each side, in samples of the recording."""
    return _ZERO_CROSSINGS * rate_hz / (min(rate_hz, SAMPLE_RATE_HZ) * _ROLLOFF)


def _resample_directly(mono: FloatArray, rate_hz: int) -> FloatArray:
    """Compute each sample's own weights, for rates that have thousands of phases with 16 kHz.

    The whole kernel of 44,101 Hz would have 700 million weights. Same filter, to rounding.
    """
    cutoff = _ROLLOFF * min(rate_hz, SAMPLE_RATE_HZ) / rate_hz  # of the recording's own band
    half = _half_width(rate_hz)
    reach = math.ceil(half) + 1
    padded = np.pad(mono, reach)
    count = math.ceil(len(mono) * SAMPLE_RATE_HZ / rate_hz)
    steps = np.arange(-reach + 1, reach + 1)
    blocks: list[FloatArray] = []
    for start in range(0, count, _BLOCK):
        numbers = np.arange(start, min(count, start + _BLOCK), dtype=np.int64)
        whole, part = np.divmod(numbers * rate_hz, SAMPLE_RATE_HZ)
        distance = steps - (part / SAMPLE_RATE_HZ)[:, None]
        window = np.cos(np.pi * np.clip(distance / half, -1, 1) / 2) ** 2
        weights = cutoff * np.sinc(cutoff * distance) * window
        blocks.append(np.einsum("nk,nk->n", weights, padded[whole[:, None] + steps + reach]))
    return np.asarray(np.concatenate(blocks), dtype=np.float32)
