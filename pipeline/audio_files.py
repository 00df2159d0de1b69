"""Encoded recordings: decoded whole and averaged to mono, or refused; never a part for the whole.

libsndfile reads what is left of a file that was cut off as if that were all of it, so what the
file says of its own length is compared with what came out.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cache_schema.errors import AudioError
from cache_schema.types import FloatArray
from pipeline.mp3_frames import count_mp3_samples

_CHUNK = re.compile(r"^ *(?:data|SSND|riff) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
"""How libsndfile notes the bytes a chunk says it has, and those that are there."""

_STREAMED_BYTES = 0x7FFF_0000
"""From here on a length means "not known yet", as written by programs that wrote into a pipe."""

_SLACK_BYTES = 64
"""Careless writers count a header or a pad byte; no sound is lost in so few."""

_OGG_TAIL_BYTES = 1 << 17
"""A page of Ogg has at most 65,307 bytes."""

_MP3_SLACK = 8 * 1152
"""Samples that encoders add at both ends and say they added, so that they are left out again."""


def decode_file(source: Path | bytes, name: str) -> tuple[FloatArray, int]:
    """Decode a recording.

    Args:
        source: where it is, or its bytes.
        name: what errors call it.

    Returns:
        float32 [num_samples], the mean of its channels, and its rate in Hz. Values beyond 1, which
        files of floats can have, are kept.

    Raises:
        AudioError: it cannot be read, is no audio, is damaged, or is not all there.
    """
    try:
        with soundfile.SoundFile(
            io.BytesIO(source) if isinstance(source, bytes) else source
        ) as file:
            mono = _read(file)
            told = {"frames": file.frames, "form": file.format, "log": file.extra_info}
            rate_hz = int(file.samplerate)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .") or "no form of audio that is known, or cut off"
        raise AudioError(f"cannot decode {name}: {reason}") from error
    except (RuntimeError, OSError, TypeError) as error:  # the last: samples without a header
        raise AudioError(f"cannot decode {name}: {error}") from error
    missing = _missing(source, len(mono), **told)
    if missing:
        raise AudioError(
            f"{name} is cut off or damaged: {missing}; {len(mono) / rate_hz:.2f} s could be read"
        )
    return mono, rate_hz


def _read(file: Any) -> FloatArray:
    """Read in one piece from an explicit start, as ``soundfile.read`` does.

    The last bits of an MP3 depend on that, and with them the hashes of recordings on older tapes.
    """
    if file.seekable():
        file.seek(0)
    try:
        return mean_of_channels(file.read(file.frames, dtype="float32", always_2d=True))
    except (MemoryError, ValueError) as error:
        raise AudioError(
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


def _missing(source: Path | bytes, num_samples: int, *, frames: int, form: str, log: str) -> str:
    """Return what a decoded file lacks of what it says it has; empty if nothing."""
    if num_samples < frames:
        return f"it should have {frames} samples a channel and has {num_samples}"
    for declared, there in (map(int, found) for found in _CHUNK.findall(log)):
        if declared < _STREAMED_BYTES and there + _SLACK_BYTES < declared:
            return f"it should have {declared} bytes of audio and has {there}"
    if form == "OGG" and _ends_within_a_page(_bytes_of(source, _OGG_TAIL_BYTES)):
        return "its last page is not all there"
    if form == "MP3":
        written = count_mp3_samples(_bytes_of(source, None))
        if written > num_samples + _MP3_SLACK:
            return (
                f"it holds {written} samples and its header, or the lack of one, makes decoders "
                f"stop after {num_samples} (encode it again)"
            )
    return ""


def _bytes_of(source: Path | bytes, last: int | None) -> bytes:
    """Return a recording's last bytes, or all of them."""
    if isinstance(source, bytes):
        return source if last is None else source[-last:]
    with source.open("rb") as file:
        if last is not None:
            file.seek(max(0, source.stat().st_size - last))
        return file.read()


def _ends_within_a_page(tail: bytes) -> bool:
    """Whether the last page of an Ogg file (RFC 3533, section 6) says it is longer than it is."""
    start = tail.rfind(b"OggS")
    if start < 0:
        return False
    header = tail[start : start + 27]
    if len(header) < 27 or len(tail) < start + 27 + header[26]:
        return True
    lengths = tail[start + 27 : start + 27 + header[26]]
    return len(tail) < start + 27 + len(lengths) + sum(lengths)
