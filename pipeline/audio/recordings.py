"""Recordings: any container soundfile reads, bytes, paths or arrays -> float32 mono at 16 kHz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import AudioError
from cache_schema.types import FloatArray
from pipeline.audio.encoded import decode_file, mean_of_channels
from pipeline.audio.resample import resample

MAX_CHANNELS = 64
"""Of an array, whose axes do not say which is which."""

_SCALES: dict[Any, tuple[float, float]] = {
    np.dtype(np.uint8): (128.0, 128.0),
    np.dtype(np.int16): (0.0, 2.0**15),
    np.dtype(np.int32): (0.0, 2.0**31),
}
"""Integers of sound, as WAV has them -> what is silence, and what is one."""


class NoAudioError(AudioError):
    """There is no recording: the cell is empty."""


def load_audio(value: Any, folder: Path | None, whole: bool = True) -> FloatArray:
    """Decode one recording.

    Several channels are averaged. Values beyond 1 are kept as they are. A recording that never
    changes is silent, whatever its value: A-law has no zero, and a muted line may have an offset.

    Args:
        value: a path (relative to ``folder``), encoded bytes, or a mapping with ``bytes``,
            ``path``, or ``array`` and ``sampling_rate`` (the form of ``datasets``). An array has
            floats, or ``int16``, ``int32`` or ``uint8`` (silence at 128); one of two axes has the
            channels on the shorter.
        folder: where relative paths start.
        whole: refuse what is cut off or silent; ``False`` for a recording that was taken before,
            whose hash the caller compares.

    Returns:
        float32 [num_samples], mono, 16 kHz.

    Raises:
        AudioError: missing, unreadable, cut off, empty, silent or non-finite audio.
        NoAudioError: there is none.
    """
    mono, rate_hz = _read(value, folder, whole)
    if mono.size == 0:
        raise AudioError("audio is empty (0 samples)")
    if not np.isfinite(mono).all():
        raise AudioError("audio holds NaN or infinite values")
    if whole and mono.min() == mono.max():
        raise AudioError(f"audio is silent ({mono.size / rate_hz:.2f} s, always {mono[0]:g})")
    audio = resample(np.ascontiguousarray(mono, dtype=np.float32), rate_hz)
    if not np.isfinite(audio).all():
        raise AudioError("audio holds values too large for numbers of 32 bits")
    return audio


def is_absent(value: Any) -> bool:
    """Whether a cell holds no recording: null, no text, or a mapping of nothing else but a rate."""
    if isinstance(value, Mapping):
        return all(is_absent(inner) for key, inner in value.items() if key != "sampling_rate")
    return value is None or (isinstance(value, str) and not value.strip())


def _read(value: Any, folder: Path | None, whole: bool) -> tuple[FloatArray, int]:
    if is_absent(value):
        raise NoAudioError("there is no recording")
    if isinstance(value, Mapping):
        return _from_mapping(value, folder, whole)
    if isinstance(value, bytes | bytearray | memoryview):
        if not len(value):
            raise AudioError("audio is empty (0 bytes)")
        return decode_file(bytes(value), "bytes", whole)
    if isinstance(value, str | os.PathLike):
        return _from_path(os.fspath(value), folder, whole)
    raise AudioError(f"expected a path, bytes or an array with its rate, got {value!r:.80}")


def _from_mapping(
    value: Mapping[str, Any], folder: Path | None, whole: bool
) -> tuple[FloatArray, int]:
    if value.get("array") is not None:
        return _from_array(value["array"]), _rate_of(value.get("sampling_rate"))
    if value.get("bytes") is not None:
        if not value["bytes"]:
            raise AudioError("audio is empty (0 bytes)")
        return decode_file(bytes(value["bytes"]), str(value.get("path") or "bytes"), whole)
    if value.get("path") is None:
        keys = ", ".join(map(str, value))
        raise AudioError(f"expected bytes, a path, or an array with its sampling_rate, got {keys}")
    return _read(value["path"], folder, whole)


def _from_path(given: Any, folder: Path | None, whole: bool) -> tuple[FloatArray, int]:
    text = os.fsdecode(given)
    if "://" in text:
        raise AudioError(f"{text:.200}: recordings are read from files here; download it first")
    path = Path(text) if folder is None else folder / text
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:  # no permission, or a text longer than any name
        raise AudioError(f"{text:.200}: {error.strerror}") from error
    if not is_file:
        raise AudioError(f"{path} is a directory" if is_folder else f"no such file: {path}")
    if not path.stat().st_size:
        raise AudioError(f"{path} is empty (0 bytes)")
    return decode_file(path, str(path), whole)


def _rate_of(given: Any) -> int:
    if not given:
        raise AudioError("an array of audio needs its sampling_rate beside it")
    try:
        rate_hz = int(given)
    except (TypeError, ValueError, OverflowError):
        rate_hz = 0
    if isinstance(given, str) or rate_hz != given:
        raise AudioError(f"sampling_rate: expected a whole number of Hz, got {given!r:.80}")
    return rate_hz


def _from_array(given: Any) -> FloatArray:
    try:
        array: NDArray[Any] = np.asarray(given)
    except ValueError as error:
        raise AudioError("an array of audio has channels of different lengths") from error
    if array.ndim not in (1, 2):
        raise AudioError(f"an array of shape {array.shape}: expected samples, or channels of them")
    scale = _SCALES.get(array.dtype)
    if scale is not None:
        zero, one = scale
        waveform = ((array - zero) / one).astype(np.float32)
    elif np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # infinite, which is looked for
            waveform = array.astype(np.float32)
    else:
        raise AudioError(
            f"an array of {array.dtype} has no known scale; give floats in -1..1, int16, int32 or "
            "uint8"
        )
    if waveform.ndim == 1 or not waveform.size:
        return waveform.reshape(-1)
    return mean_of_channels(_channels_last(waveform))


def _channels_last(waveform: FloatArray) -> FloatArray:
    """Return [num_samples, channels]: there are fewer channels than samples."""
    first, last = waveform.shape
    if first == last or min(first, last) > MAX_CHANNELS:
        raise AudioError(
            f"an array of shape {waveform.shape}: which axis has the channels (at most "
            f"{MAX_CHANNELS}, and fewer than samples) cannot be told; give one channel"
        )
    return waveform.T if first < last else waveform
