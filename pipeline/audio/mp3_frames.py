"""How much sound an MP3 holds, counted frame by frame (ISO/IEC 11172-3, 2.4.1.3; 13818-3).

Decoders take the length from a Xing header. Without one libsndfile guesses it from the file's
size and the first frame's bit rate. It stops there if it guessed too little (a recording of varying
bit rate came out a fifth as long), and reads all there is if it guessed too much.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KBITS_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = (44_100, 48_000, 32_000)
_VERSION_1, _VERSION_2_5 = 3, 0
_HALVING = {_VERSION_1: 1, 2: 2, _VERSION_2_5: 4}
_ID3_HEADER_BYTES = 10
_VBRI_FRAMES_AT = 14
"""Where a VBRI header counts frames; a Xing header does so behind its flags, if they say so."""

_SYNC = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][%s]"
    % b"".join(
        b"\\x%02x" % byte for byte in range(256) if 0 < byte >> 4 < 15 and byte >> 2 & 3 < 3
    ),
    re.DOTALL,
)
"""How a frame of layer III of any version, bit rate and rate begins."""


@dataclass(frozen=True, kw_only=True)
class Mp3Length:
    """How much sound an MP3 holds.

    Attributes:
        samples: a channel, of all whole frames.
        told: what its first frame says; ``None`` if that says nothing.
    """

    samples: int
    told: int | None


@dataclass(frozen=True, kw_only=True)
class _Frame:
    num_bytes: int
    num_samples: int


def measure_mp3(data: bytes) -> Mp3Length:
    """Count the samples a channel of all frames; 0 for other layers of MPEG audio.

    A first frame that is a header (Xing, Info, VBRI) holds none.
    """
    first: _Frame | None = None
    sync = _SYNC
    samples, told = 0, None
    found = sync.search(data, _after_tag(data))
    while found and found.start() < len(data) - 3:
        at = found.start()
        frame = _frame(data[at : at + 4])
        behind = at + frame.num_bytes
        is_header = False
        if first is None:
            first, sync = frame, _sync_like(data[at : at + 4])
            frames = _told_frames(data[at:behind])
            is_header = frames is not None
            told = frames * frame.num_samples if frames else None
        if behind <= len(data) and not is_header:
            samples += frame.num_samples
        found = sync.search(data, behind)
    return Mp3Length(samples=samples, told=told)


def _sync_like(head: bytes) -> re.Pattern[bytes]:
    """Return how frames of the same version and rate begin."""
    seconds = b"".join(b"\\x%02x" % byte for byte in (head[1] & 0xFE, head[1] | 1))
    thirds = [byte for byte in range(256) if 0 < byte >> 4 < 15 and not (byte ^ head[2]) >> 2 & 3]
    return re.compile(rb"\xff[%s][%s]" % (seconds, b"".join(b"\\x%02x" % b for b in thirds)))


def _after_tag(data: bytes) -> int:
    """Return where the first frame may be: behind an ID3v2 tag, whose length has 7 bits a byte."""
    if data[:3] != b"ID3" or len(data) < _ID3_HEADER_BYTES:
        return 0
    a, b, c, d = data[6:10]
    return _ID3_HEADER_BYTES + (a << 21 | b << 14 | c << 7 | d)


def _told_frames(frame: bytes) -> int | None:
    """Return how many frames a header tells of, 0 if it does not say; ``None`` for sound."""
    mark = next((at for at in map(frame[:64].find, (b"Xing", b"Info", b"VBRI")) if at > 0), None)
    if mark is None:
        return None
    header = frame[mark:]
    if header.startswith(b"VBRI"):
        return int.from_bytes(header[_VBRI_FRAMES_AT:][:4], "big")
    says = len(header) > 7 and header[7] & 1
    return int.from_bytes(header[8:12], "big") if says else 0


def _frame(head: bytes) -> _Frame:
    """Read the four bytes a frame of layer III begins with."""
    version = head[1] >> 3 & 3
    bit_rate, rate = head[2] >> 4, head[2] >> 2 & 3
    rate_hz = _RATES_HZ[rate] // _HALVING[version]
    is_first = version == _VERSION_1
    kbits = (_KBITS_V1 if is_first else _KBITS_V2)[bit_rate]
    num_samples = 1152 if is_first else 576
    num_bytes = num_samples // 8 * kbits * 1000 // rate_hz + (head[2] >> 1 & 1)
    return _Frame(num_bytes=num_bytes, num_samples=num_samples)
