"""bfloat16 in NumPy, which has no such type: its bits live in uint16 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.types import FloatArray

STORED_DTYPES: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype("<u2"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}
"""Logical type of stored states -> the NumPy type of their bytes."""


def to_float32(words: NDArray[np.uint16]) -> FloatArray:
    """Widen bfloat16 bits to float32; exact."""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def from_float32(values: FloatArray) -> NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16, ties to even; relative error <= 2^-8, NaN kept."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    words = rounded.astype(np.uint16)
    words[np.isnan(values)] = 0x7FC0
    return words


def encode(values: NDArray[Any], logical: str) -> NDArray[Any]:
    """Bring states (float32, float16, or bfloat16 bits as uint16) to the type ``logical``."""
    stored = STORED_DTYPES[logical]
    if values.dtype == stored:
        return np.ascontiguousarray(values)
    wide = to_float32(values) if values.dtype == np.uint16 else values.astype(np.float32)
    with np.errstate(over="ignore"):
        return from_float32(wide) if logical == "bfloat16" else wide.astype(stored)


def is_finite(values: NDArray[Any]) -> bool:
    """Whether every value is finite; bits of bfloat16 given as uint16 included."""
    if values.dtype == np.uint16:
        return bool((values & np.uint16(0x7FFF)).max(initial=0) < 0x7F80)
    return bool(np.isfinite(values).all())


def decode(values: NDArray[Any]) -> FloatArray:
    """Widen stored states of any type to float32; exact."""
    if values.dtype == np.uint16:
        return to_float32(values)
    return values.astype(np.float32)
