"""int8 states: channels standardised, then one scale a position.

    value[t, c] ~ mean[c] + std[c] * scale[t] * q[t, c],    q in [-127, 127]

Mean and standard deviation are those of a shard's first positions; the scale of a position makes
its largest standardised value 127. Without standardising, a few channels 50-100 times as large as
the others take the whole range: relative error 0.30 of the standardised values, against 0.010 with
it (an error of the raw values hides that, which is why the standardised one is reported).

All arithmetic is float32, in blocks that stay in the cache. Decoded values are rounded to the
nearest number of the logical type and never leave its finite range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs import bfloat16
from cache_schema.errors import TapeError
from cache_schema.types import FloatArray

FORMULA = "value[t, c] = mean[c] + std[c] * scale[t] * q[t, c]"
LARGEST = 127
LARGEST_FINITE = {
    "bfloat16": float.fromhex("0x1.fep127"),
    "float16": 65504.0,
    "float32": float.fromhex("0x1.fffffep127"),
}
_BLOCK_ELEMENTS = 1 << 16
_TINY = 1e-30  # below it, reciprocals leave float32


def block_rows(width: int) -> int:
    """How many positions are worked on at a time."""
    return max(1, _BLOCK_ELEMENTS // width)


def fit_channels(rows: NDArray[Any]) -> FloatArray:
    """Return mean and standard deviation of each channel, float32 [2, width], from rows [n, width].

    A channel that does not vary keeps its value as the mean, exactly, and the median deviation of
    the others (1 if there is none), so that it is coded sensibly should it vary later.
    """
    num_rows, width = rows.shape
    channels = np.zeros((2, width), dtype=np.float32)
    channels[1] = 1
    if not num_rows:
        return channels
    origin = bfloat16.decode(rows[:1])[0].astype(np.float64)
    sums = np.zeros((2, width))
    step = block_rows(width)
    for start in range(0, num_rows, step):
        shifted = bfloat16.decode(rows[start : start + step]) - origin
        sums[0] += shifted.sum(axis=0)
        sums[1] += np.square(shifted, out=shifted).sum(axis=0)
    drift = sums[0] / num_rows
    std = np.sqrt(np.maximum(sums[1] / num_rows - drift**2, 0))
    varies = std > _TINY
    channels[0] = origin + drift
    channels[1] = np.where(varies, std, np.median(std[varies]) if varies.any() else 1)
    return channels


def quantise(values: FloatArray, channels: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Quantise positions [n, width], finite; return q int8 [n, width] and scale float32 [n].

    Raises:
        TapeError: a value is too far from its channel's mean for float32.
    """
    with np.errstate(over="ignore"):
        standard = (values - channels[0]) * (1 / channels[1])
    peak = np.maximum(standard.max(axis=1), -standard.min(axis=1))
    if not np.isfinite(peak).all():
        raise TapeError("a state is too far from its channel's mean for lossy2x; record it as hot")
    peak[peak < _TINY] = 0
    inverse = np.divide(LARGEST, peak, out=np.zeros_like(peak), where=peak > 0)
    standard *= inverse[:, None]
    return np.rint(standard, out=standard).astype(np.int8), peak / np.float32(LARGEST)


class Decoder:
    """Decode blocks of q and scale into a logical type, with buffers of its own.

    Args:
        channels: mean and standard deviation, finite float32 [2, width].
        logical_dtype: type of the decoded states.
    """

    def __init__(self, channels: FloatArray, logical_dtype: str) -> None:
        self.rows = block_rows(channels.shape[1])
        self._mean, self._std = channels
        self._logical = logical_dtype
        self._values = np.empty((self.rows, channels.shape[1]), dtype=np.float32)
        wide = channels.astype(np.float64)
        self._reach = np.abs(wide[0]).max(initial=0), 128 * np.abs(wide[1]).max(initial=0)

    def decode(self, q: NDArray[np.int8], scale: FloatArray, out: NDArray[Any]) -> None:
        """Fill ``out`` [n, width], n at most ``rows``, of the stored type, from q and scale [n]."""
        count = len(scale)
        values = out if self._logical == "float32" else self._values[:count]
        with np.errstate(over="ignore"):
            values[...] = q
            values *= scale[:, None]
            values *= self._std
            values += self._mean
        finite = LARGEST_FINITE[self._logical]
        if self._reach[0] + self._reach[1] * float(scale.max(initial=0)) > 0.99 * finite:
            np.clip(values, -finite, finite, out=values)
        if self._logical == "float16":
            out[...] = values
        elif self._logical == "bfloat16":
            bits = values.view(np.uint32)
            bits += np.uint32(0x8000)  # to the nearest, ties away from zero: one pass, not four
            out[...] = values.view(np.uint16)[:, 1::2]


class ErrorSums:
    """What coding cost, gathered block by block."""

    def __init__(self, channels: FloatArray) -> None:
        self._mean = channels[0]
        self._inverse = 1 / channels[1]
        self._positions = 0
        self._wrong = self._right = self._cosines = 0.0
        self._lowest = 1.0

    def add(self, source: FloatArray, decoded: FloatArray) -> None:
        """Compare positions [n, width] as they were and as a reader will see them."""
        dots, source_2, decoded_2, wrong, right = self._squares(source, decoded).astype(np.float64)
        norms = np.sqrt(source_2) * np.sqrt(decoded_2)
        both_zero = (source_2 == 0) & (decoded_2 == 0)
        cosines = np.divide(dots, norms, out=both_zero.astype(np.float64), where=norms > 0)
        np.clip(cosines, -1, 1, out=cosines)
        self._positions += len(cosines)
        self._cosines += float(cosines.sum())
        self._lowest = min(self._lowest, float(cosines.min(initial=1)))
        self._wrong += float(wrong.sum())
        self._right += float(right.sum())

    def _squares(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return [5, n]: a.b, a.a, b.b, then |b - a|^2 and |a - mean|^2 standardised.

        In float32, 1e-6 exact; in float64, at a third of the speed, where squares leave its range.
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            wrong, right = (b - a) * self._inverse, (a - self._mean) * self._inverse
            pairs = ((a, b), (a, a), (b, b), (wrong, wrong), (right, right))
            sums = np.stack([np.vecdot(x, y) for x, y in pairs])
        in_range = np.isfinite(sums).all() and (sums[[1, 2, 4]] > _TINY).all()
        if in_range or a.dtype == np.float64:
            return sums
        return self._squares(a.astype(np.float64), b.astype(np.float64))

    def report(self) -> dict[str, float]:
        """Return the finite figures for the manifest, six digits each.

        ``standardised_relative_error`` is |decoded - source| / |source - mean|, both divided by the
        channels' deviations, over all positions; ``cosine_mean`` and ``cosine_min`` are of decoded
        and source positions, raw. Without positions they are 0, 1 and 1. The cosine of two zero
        vectors is 1, of one of them 0.
        """
        error = math.sqrt(self._wrong / self._right) if self._right else 0.0
        mean = self._cosines / self._positions if self._positions else 1.0
        figures = {
            "standardised_relative_error": error,
            "cosine_mean": min(mean, 1.0),
            "cosine_min": self._lowest,
        }
        return {name: float(f"{figure:.6g}") for name, figure in figures.items()}
