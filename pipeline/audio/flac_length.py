"""How long a FLAC is whose header does not say so, told by its last frame (RFC 9639, section 9).

Programs that write into a pipe leave the count of samples at 0, and libsndfile reads no such file.
"""

from __future__ import annotations

import functools
import re
from itertools import islice

COUNT_AT = 21
"""Where the 36 bits of the first block that count samples begin, in the lower half of a byte."""

_COUNT_BITS = 36
_LONGEST_BLOCK_AT = 10
_TAG, _TAG_BYTES = b"TAG", 128
"""ID3v1, which some programs put behind anything."""

_FRAME = re.compile(rb"\xff[\xf8\xf9]")
_VARIABLE = 1
_HEADER_BYTES = 16
_MAX_FRAME_BYTES = 1 << 20
"""65,535 samples of 8 channels are longer, and no encoder writes such frames."""

_MAX_TRIES = 64
"""Bytes that look like the beginning of a frame and are none: one in 30 million."""


def with_its_length(data: bytes) -> bytes:
    """Return a FLAC with the count of its samples in its header.

    Raises:
        ValueError: it is no FLAC, or does not end with a whole frame.
    """
    if not data.startswith(b"fLaC"):
        raise ValueError("its header does not say how long it is")
    has_tag = data[-_TAG_BYTES:].startswith(_TAG)
    end = len(data) - _TAG_BYTES * has_tag
    start = max(COUNT_AT + 5, end - _MAX_FRAME_BYTES)
    longest = int.from_bytes(data[_LONGEST_BLOCK_AT:][:2], "big")
    begun = [found.start() for found in _FRAME.finditer(data, start, end)]
    counts = (
        (at, _samples_to_end_of(data[at : at + _HEADER_BYTES], longest)) for at in begun[::-1]
    )
    for at, count in islice(((at, count) for at, count in counts if count), _MAX_TRIES):
        if _remainder(data[at:end], 16, 0x8005) == 0:
            first = data[COUNT_AT] >> 4 << _COUNT_BITS
            return data[:COUNT_AT] + (first | count).to_bytes(5, "big") + data[COUNT_AT + 5 :]
    raise ValueError(
        "its header does not say how long it is, and it does not end with a whole frame: it is "
        "cut off or damaged"
    )


def _samples_to_end_of(header: bytes, longest: int) -> int:
    """Return the number of the sample behind a frame; 0 if these bytes begin none."""
    if len(header) < _HEADER_BYTES:
        return 0
    block, rate = header[2] >> 4, header[2] & 15
    number, behind = _coded_number(header)
    extra = {6: 1, 7: 2}.get(block, 0)
    length = behind + extra + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not block or rate == 15 or not behind or _remainder(header[: length + 1], 8, 0x07):
        return 0
    if extra:
        size = int.from_bytes(header[behind : behind + extra], "big") + 1
    else:
        size = 192 if block == 1 else 576 << block - 2 if block < 6 else 256 << block - 8
    return (number if header[1] & _VARIABLE else number * longest) + size


def _coded_number(header: bytes) -> tuple[int, int]:
    """Return a frame's number, or that of its first sample, and where it ends; 0 if it is none."""
    ones = 8 - (header[4] ^ 0xFF).bit_length()
    if ones == 0:
        return header[4], 5
    rest = header[5 : 4 + ones]
    if ones in (1, 8) or any(byte >> 6 != 0b10 for byte in rest):
        return 0, 0
    number = header[4] & (0x7F >> ones)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, 4 + ones


def _remainder(data: bytes, bits: int, polynomial: int) -> int:
    """Return the cyclic redundancy check of bytes that end with their own: 0 if it is right."""
    table, mask = _table(bits, polynomial), (1 << bits) - 1
    rest = 0
    for byte in data:
        rest = (rest << 8 & mask) ^ table[rest >> bits - 8 ^ byte]
    return rest


@functools.cache
def _table(bits: int, polynomial: int) -> list[int]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    table = []
    for byte in range(256):
        rest = byte << bits - 8
        for _ in range(8):
            rest = (rest << 1 ^ polynomial if rest & top else rest << 1) & mask
        table.append(rest)
    return table
