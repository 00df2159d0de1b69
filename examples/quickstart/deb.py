"""Read files out of a Debian package without root and without dpkg.

A ``.deb`` is an ``ar`` archive: the magic line, then members, each a 60-byte header (name 16, time
12, owner 6, group 6, mode 8, size 10, end 2 bytes) and its data, padded to an even length. The
member ``data.tar.*`` is the tree that would be installed.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

AR_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60


class DebError(ValueError):
    """The bytes are not a Debian package that can be read here."""


def ar_members(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (name, data) of every member of an ``ar`` archive.

    Raises:
        DebError: the magic line, a header or a length is wrong.
    """
    if not blob.startswith(AR_MAGIC):
        raise DebError("not an ar archive: the magic line is missing")
    position = len(AR_MAGIC)
    while position < len(blob):
        header = blob[position : position + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES or header[58:] != b"`\n":
            raise DebError(f"broken ar header at byte {position}")
        size_field = header[48:58].strip()
        start = position + _HEADER_BYTES
        if not size_field.isdigit() or start + int(size_field) > len(blob):
            raise DebError(f"ar member at byte {position} runs past the end of the archive")
        size = int(size_field)
        yield header[:16].decode("ascii").strip().rstrip("/"), blob[start : start + size]
        position = start + size + size % 2


def read_deb(package: Path, suffixes: frozenset[str]) -> dict[str, bytes]:
    """Return the contents of those files of a package whose path ends in one of the suffixes.

    Args:
        package: the ``.deb`` file.
        suffixes: path endings such as ``digits/0.wav``, compared on their last two parts.

    Raises:
        DebError: the file is no Debian package.
    """
    for name, data in ar_members(package.read_bytes()):
        if not name.startswith("data.tar"):
            continue
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tree:
                return {
                    "/".join(member.name.split("/")[-2:]): tree.extractfile(member).read()  # type: ignore[union-attr]
                    for member in tree
                    if member.isfile() and "/".join(member.name.split("/")[-2:]) in suffixes
                }
        except tarfile.TarError as error:
            raise DebError(f"{package.name}: {name} cannot be unpacked ({error})") from error
    raise DebError(f"{package.name} holds no data.tar member")
