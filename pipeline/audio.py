"""Recordings: any container soundfile reads, bytes, paths or arrays -> float32 mono at 16 kHz."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from cache_schema.errors import AudioError
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray


def load_audio(value: Any, folder: Path | None) -> FloatArray:
    """Decode one recording.

    Args:
        value: a path (relative to ``folder``), encoded bytes, or a mapping with ``bytes``,
            ``path``, or ``array`` and ``sampling_rate`` (the form of ``datasets``).
        folder: where relative paths start.

    Returns:
        float32 [num_samples], mono, 16 kHz.

    Raises:
        AudioError: missing, unreadable, empty, silent or non-finite audio.
    """
    waveform, rate_hz = _read(value, folder)
    if not np.isfinite(waveform).all():
        raise AudioError("audio holds NaN or infinite values")
    mono = waveform.mean(axis=1, dtype=np.float32) if waveform.ndim == 2 else waveform
    if mono.size == 0:
        raise AudioError("audio is empty (0 samples)")
    if not mono.any():
        raise AudioError(f"audio is silent ({mono.size / rate_hz:.2f} s of zeros)")
    return _resample(np.ascontiguousarray(mono, dtype=np.float32), rate_hz)


def _read(value: Any, folder: Path | None) -> tuple[NDArray[np.float32], int]:
    if isinstance(value, Mapping):
        if value.get("array") is not None:
            if not value.get("sampling_rate"):
                raise AudioError("an array of audio needs its sampling_rate beside it")
            return _from_array(np.asarray(value["array"])), int(value["sampling_rate"])
        if value.get("bytes") is not None:
            return _from_file(io.BytesIO(value["bytes"]), str(value.get("path") or "bytes"))
        value = value.get("path")
    if isinstance(value, bytes):
        return _from_file(io.BytesIO(value), "bytes")
    if not isinstance(value, str) or not value:
        raise AudioError(f"expected a path, bytes or an array with its rate, got {value!r:.80}")
    path = Path(value) if folder is None else folder / value
    if not path.is_file():
        raise AudioError(f"no such file: {path}")
    return _from_file(path, str(path))


def _from_file(source: Any, name: str) -> tuple[NDArray[np.float32], int]:
    try:
        waveform, rate_hz = soundfile.read(source, dtype="float32", always_2d=False)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError(f"cannot decode {name}: {error}") from error
    return waveform, rate_hz


def _from_array(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype in (np.int16, np.int32):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"an array of {array.dtype} has no known scale; give floats in -1..1")
    waveform = array.astype(np.float32)
    return waveform.T if waveform.ndim == 2 and waveform.shape[0] < waveform.shape[1] else waveform


def _resample(mono: FloatArray, rate_hz: int) -> FloatArray:
    if rate_hz == SAMPLE_RATE_HZ:
        return mono
    import torch
    from torchaudio.functional import resample

    resampled = resample(torch.from_numpy(mono), rate_hz, SAMPLE_RATE_HZ)
    return np.asarray(resampled.numpy(), dtype=np.float32)
