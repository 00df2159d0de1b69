"""Arrays of one layer: written, opened and read, and states to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.codecs import bfloat16
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.states_profiles import StatesReader, open_states_reader, open_states_writer

LAYER = "hidden.zarr/L012"
EXACT = ("hot", "archive")
LOGICAL = tuple(STORED_DTYPES)


def record(
    folder: Path, rows: np.ndarray, logical: str, profile: str, step: int = 999
) -> tuple[dict[str, Any], dict[str, float]]:
    writer = open_states_writer(folder, LAYER, rows.shape[1], logical, profile)
    for start in range(0, len(rows), step):
        writer.append(rows[start : start + step])
    assert writer.num_rows == len(rows)
    return writer.close()


def opened(folder: Path, shape: tuple[int, int], logical: str, profile: str) -> StatesReader:
    return open_states_reader(folder.joinpath, LAYER, profile, *shape, logical)


def read(folder: Path, shape: tuple[int, int], logical: str, profile: str) -> np.ndarray:
    reader = opened(folder, shape, logical, profile)
    out = np.empty(shape, STORED_DTYPES[logical])
    reader.read_into(0, out)
    reader.close()
    return out


def synthetic(num_rows: int, width: int, logical: str, seed: int = 0) -> np.ndarray:
    """States as a language model has them: unequal channels, means, a few 50-100 times larger."""
    rng = np.random.default_rng(seed)
    std = np.exp(rng.normal(0, 0.4, width))
    mean = rng.normal(0, 0.3, width) * std
    outliers = rng.choice(width, max(1, width // 256), replace=False)
    std[outliers] *= rng.uniform(10, 20, len(outliers))
    mean[outliers] = rng.choice([-1, 1], len(outliers)) * rng.uniform(50, 100, len(outliers))
    values = mean + std * rng.standard_normal((num_rows, width), dtype=np.float32)
    return bfloat16.encode(values.astype(np.float32), logical)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()
