"""A tape's files, local or behind fsspec: listed, fetched and checked on first touch."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cache_schema.codecs.files import CHECKSUM, checksum
from cache_schema.errors import TapeError


class TapeFiles:
    """Read access to the files below a path or URL.

    Args:
        location: local path or fsspec URL. Files of a remote tape are copied to a private temporary
            folder when first read and removed with this object.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._fs, self._root = fsspec.core.url_to_fs(location)
        self._checked: set[str] = set()
        if isinstance(self._fs, LocalFileSystem):
            self._local = Path(self._root)
        else:
            self._local = Path(tempfile.mkdtemp(prefix="teachertape-"))
            weakref.finalize(self, shutil.rmtree, self._local, ignore_errors=True)

    def exists(self, name: str) -> bool:
        """Whether the tape has this file."""
        return bool(self._fs.exists(f"{self._root}/{name}"))

    def names(self, folder: str, suffix: str) -> Iterator[str]:
        """Names of the files in a folder that end in ``suffix``, sorted."""
        if not self._fs.isdir(f"{self._root}/{folder}"):
            return
        for entry in sorted(self._fs.ls(f"{self._root}/{folder}", detail=False)):
            name = str(entry).rsplit("/", 1)[-1]
            if name.endswith(suffix) and not name.startswith("."):
                yield f"{folder}/{name}"

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        return bytes(self._fs.cat_file(f"{self._root}/{name}"))

    def local(self, name: str, record: Mapping[str, Any]) -> Path:
        """Return a local path of a shard's file, checked against its record on first touch.

        Raises:
            TapeError: the file is missing, or its size or checksum is not what was committed.
        """
        path = self._local / name
        if name in self._checked:
            return path
        if self._fs.protocol and not isinstance(self._fs, LocalFileSystem):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{self._root}/{name}", str(path))
        if not path.is_file():
            raise TapeError(f"{self.location}: {name} is missing")
        if path.stat().st_size != record["bytes"]:
            raise TapeError(
                f"{self.location}: {name} has {path.stat().st_size} bytes, "
                f"{record['bytes']} were committed"
            )
        if checksum(path) != record[CHECKSUM]:
            raise TapeError(f"{self.location}: {name} is damaged (its checksum differs)")
        self._checked.add(name)
        return path
