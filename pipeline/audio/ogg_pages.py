"""Whether an Ogg file is all there, told by its pages (RFC 3533, section 6).

libsndfile reads what there is: a file that ends at the end of any page, one that lacks a page in
the middle and the first of two files that were joined all pass for whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MARK = b"OggS"
_HEADER_BYTES = 27
_FIRST, _LAST = 2, 4
_SOUND = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")
"""How the first page of a stream of sound begins; others (pictures, indexes) are not heard."""


@dataclass(frozen=True, kw_only=True)
class _Page:
    flags: int
    serial: int
    number: int
    is_whole: bool
    is_sound: bool


def missing_pages(data: bytes) -> str:
    """Return what an Ogg file lacks of one whole stream of sound; empty if nothing.

    Each page says its number and the last one that it is the last. A dump of a broadcast, which
    has no last page and does not begin with page 0 of its sound, cannot be told from a file that
    was cut off, and is refused like one.

    Args:
        data: the whole file.
    """
    last: _Page | None = None
    silent: set[int] = set()
    for page in _pages(data):
        if not page.is_whole:
            return "its last page is not all there"
        is_other = last is not None and page.serial != last.serial
        if page.flags & _FIRST and not page.is_sound:
            silent.add(page.serial)
        if page.serial in silent:
            continue
        if last is not None and (is_other or page.flags & _FIRST):
            return "it holds a second stream of sound, and only the first is read; split them"
        if last is not None and page.number != (last.number + 1) % (1 << 32):
            return f"page {page.number} follows page {last.number}"
        last = page
    if last is not None and not last.flags & _LAST:
        return "it has no last page: it was cut off, or is a dump of a broadcast"
    return ""


def _pages(data: bytes) -> Iterator[_Page]:
    """Yield the pages of all streams; what lies between is skipped."""
    at = data.find(_MARK)
    while at >= 0:
        header = data[at : at + _HEADER_BYTES]
        count = header[26] if len(header) == _HEADER_BYTES else 0
        body = at + _HEADER_BYTES + count
        behind = body + sum(data[at + _HEADER_BYTES : body])
        yield _Page(
            flags=header[5] if len(header) > 5 else 0,
            serial=int.from_bytes(header[14:18], "little"),
            number=int.from_bytes(header[18:22], "little"),
            is_whole=len(header) == _HEADER_BYTES and behind <= len(data) and body <= len(data),
            is_sound=data.startswith(_SOUND, body),
        )
        at = data.find(_MARK, max(behind, at + 1))
