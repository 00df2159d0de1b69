"""Sections of a packed row: byte planes, each stored raw or as one Zstandard frame.

A section is a u32 count of stored bytes and those bytes. A reader knows its real size: it is stored
as it is if the count equals that size, compressed if the count is less.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema.errors import TapeError

_LENGTH = struct.Struct("<I")
_ZSTD = pa.Codec("zstd", compression_level=13)


def pack(plane: NDArray[Any]) -> bytes:
    """Return a section: u32 count of stored bytes, then the bytes, compressed if that pays."""
    raw = plane.astype(np.uint8).tobytes()
    small = _ZSTD.compress(raw, asbytes=True) if raw else raw
    stored = small if len(small) < len(raw) - (len(raw) >> 5) else raw
    return _LENGTH.pack(len(stored)) + stored


class Sections:
    """The sections of an untrusted blob, one after another."""

    def __init__(self, blob: bytes | memoryview, offset: int) -> None:
        self._blob = memoryview(blob)
        self._at = offset

    def take(self, size: int, name: str) -> NDArray[np.uint8]:
        """Return the next section, uint8 [size], or raise ``TapeError``; allocates no more."""
        begin = self._at + _LENGTH.size
        if begin > len(self._blob):
            raise TapeError(f"blob is cut off before {name}; copy the shard again")
        (stored,) = _LENGTH.unpack_from(self._blob, self._at)
        self._at = begin + stored
        if stored > size or self._at > len(self._blob):
            raise TapeError(f"{name}: {stored} bytes stored, at most {size} expected; damaged blob")
        data = self._blob[begin : self._at]
        if stored == size:
            return np.frombuffer(data, dtype=np.uint8)
        try:
            plain = _ZSTD.decompress(data, decompressed_size=size)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise TapeError(f"{name}: does not decompress to {size} bytes; damaged blob") from error
        return np.frombuffer(plain, dtype=np.uint8)

    def end(self) -> None:
        """Raise ``TapeError`` unless every byte was read."""
        if self._at != len(self._blob):
            raise TapeError(f"blob of {len(self._blob)} bytes, {self._at} expected; damaged blob")


def join(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint16]:
    """Return uint16 words of their low bytes and their high bytes."""
    low, high = planes
    return np.asarray(low | (high.astype(np.uint16) << 8), dtype=np.uint16)
