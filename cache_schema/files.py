"""A tape's files, local or behind fsspec: listed, fetched and checked on first touch."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cache_schema.codecs.files import CHECKSUM, checksum
from cache_schema.errors import TapeError

T = TypeVar("T")

MAX_OPENED = 256
"""Files kept mapped at one time; a process may usually open 1,024."""


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
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._opening = threading.Lock()
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

    def opened(self, name: str, open_file: Callable[[], T]) -> T:
        """Return what ``open_file`` makes of a file, kept open among the last ``MAX_OPENED``.

        A mapped file holds a descriptor, and a tape has more files than a process may open. What
        falls out of the list stays valid for whoever still holds it.
        """
        with self._opening:
            if name not in self._opened:
                self._opened[name] = open_file()
            self._opened.move_to_end(name)
            if len(self._opened) > MAX_OPENED:
                self._opened.popitem(last=False)
            opened: T = self._opened[name]
            return opened

    def local(self, name: str, record: Mapping[str, Any]) -> Path:
        """Return a local path of a shard's file, checked against its record on first touch.

        Raises:
            TapeError: the file is missing, or its size or checksum is not what was committed.
        """
        path = self._local / name
        if name in self._checked:
            return path
        if not isinstance(self._fs, LocalFileSystem):
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
