"""Encoded recordings: decoded whole and averaged to mono, or refused; never a part for the whole.

libsndfile reads what is left of a file that was cut off as if that were all of it, so what the
file says of its own length is compared with what came out.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cache_schema.errors import AudioError
from cache_schema.types import FloatArray
from pipeline.audio.flac_length import with_its_length
from pipeline.audio.mp3_frames import measure_mp3
from pipeline.audio.ogg_pages import missing_pages

_CHUNK = re.compile(r"^ *(?:data|SSND|riff) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
"""How libsndfile notes the bytes a chunk says it has, and those that are there."""

_STREAMED_BYTES = 0x7FFE_0000
"""From here on a chunk's length means "not known yet": programs that write into a pipe put
0xFFFFFFFF, 0x80000000, 0x7FFFFFFF there, or somewhat less than the last (0x7FFFF000, 0x7FFEFFFF).
"""

_STREAMED_EXACTLY = (0x4000_0000,)
"""A smaller length that means the same. Any other that is not there is damage."""

_SLACK_BYTES = 64
"""Careless writers count a header or a pad byte; no sound is lost in so few."""

_UNKNOWN_FRAMES = (1 << 63) - 1
"""What libsndfile says of a FLAC that was written into a pipe: its header counts 0 samples."""

_MP3_SLACK = 8 * 1152
"""Samples that encoders add at both ends and say they added, so that they are left out again."""


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    mono: FloatArray
    rate_hz: int
    frames: int  # a channel, as libsndfile tells from the header, or guesses
    form: str
    log: str


def decode_file(source: Path | bytes, name: str, whole: bool = True) -> tuple[FloatArray, int]:
    """Decode a recording.

    Where a header leaves the length open (WAV written into a pipe, MP3 without a Xing or VBRI
    header), a file that was cut off cannot be told from a whole one.

    Args:
        source: where it is, or its bytes.
        name: what errors call it.
        whole: refuse one that is not all there.

    Returns:
        float32 [num_samples], the mean of its channels, and its rate in Hz. Values beyond 1, which
        files of floats can have, are kept.

    Raises:
        AudioError: it cannot be read, is no audio, is damaged, or is not all there.
    """
    try:
        decoded = _decode(source)
        if decoded.frames == _UNKNOWN_FRAMES:
            decoded = _decode(with_its_length(_bytes_of(source)))
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .") or "no form of audio that is known, or cut off"
        raise AudioError(f"cannot decode {name}: {reason}") from error
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        raise AudioError(f"cannot decode {name}: {error}") from error
    seconds = len(decoded.mono) / decoded.rate_hz
    missing = _missing(source, decoded) if whole else ""
    if missing:
        raise AudioError(f"{name} is cut off or damaged: {missing}; {seconds:.2f} s could be read")
    return decoded.mono, decoded.rate_hz


def _decode(source: Path | bytes) -> _Decoded:
    """Decode what there is; nothing of a file whose length nobody knows.

    Raises:
        TypeError: samples without a header.
        ValueError: it does not fit into memory.
    """
    with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        is_known = file.frames != _UNKNOWN_FRAMES
        return _Decoded(
            mono=_read(file) if is_known else np.zeros(0, np.float32),
            rate_hz=int(file.samplerate),
            frames=file.frames,
            form=file.format,
            log=file.extra_info,
        )


def _read(file: Any) -> FloatArray:
    """Read in one piece from an explicit start, as ``soundfile.read`` does.

    The last bits of an MP3 depend on that, and with them the hashes of recordings on older tapes.

    Raises:
        ValueError: it does not fit into memory.
    """
    if file.seekable():
        file.seek(0)
    try:
        return mean_of_channels(file.read(file.frames, dtype="float32", always_2d=True))
    except (MemoryError, ValueError) as error:
        raise ValueError(
            f"its header tells of {file.frames} samples in {file.channels} channels, which do not "
            "fit into memory"
        ) from error


def mean_of_channels(channels: FloatArray) -> FloatArray:
    """Return float32 [num_samples] of [num_samples, channels]."""
    if channels.shape[1] == 1:
        return np.array(channels[:, 0])
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
        mono: FloatArray = channels.mean(axis=1, dtype=np.float32)
    return mono


def _missing(source: Path | bytes, decoded: _Decoded) -> str:
    """Return what a decoded file lacks of what it says it has; empty if nothing."""
    num_samples, frames = len(decoded.mono), decoded.frames
    if decoded.form == "MP3":
        return _missing_of_mp3(_bytes_of(source), num_samples, frames)
    lacking = missing_pages(_bytes_of(source)) if decoded.form == "OGG" else ""
    if lacking:
        return lacking
    if num_samples < frames:
        return f"it should have {frames} samples a channel and has {num_samples}"
    for declared, there in (map(int, found) for found in _CHUNK.findall(decoded.log)):
        is_known = declared < _STREAMED_BYTES and declared not in _STREAMED_EXACTLY
        if is_known and there + _SLACK_BYTES < declared:
            return f"it should have {declared} bytes of audio and has {there}"
    return ""


def _missing_of_mp3(data: bytes, num_samples: int, frames: int) -> str:
    """Return what an MP3 lacks; ``frames`` is a guess unless its first frame says how many."""
    length = measure_mp3(data)
    if length.told is not None:
        if num_samples < min(frames, length.told):
            return f"it should have {frames} samples a channel and has {num_samples}"
        if length.samples + _MP3_SLACK < length.told:
            return f"it should have {length.told} samples a channel and has {length.samples}"
    if length.samples > num_samples + _MP3_SLACK:
        return (
            f"it holds {length.samples} samples and its header, or the lack of one, makes decoders "
            f"stop after {num_samples} (encode it again)"
        )
    return ""


def _bytes_of(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()
