"""A tape's files, local or behind fsspec: listed, fetched and checked on first touch."""

from __future__ import annotations

import contextlib
import os
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
from cache_schema.codecs.sealed_json import MAX_BYTES
from cache_schema.errors import TapeError

T = TypeVar("T")

MAX_OPENED = 256
"""Files kept open at one time; a process may usually open 1,024."""

NUM_LOCKS = 64
"""Files that can be fetched and checked at the same time; names that share a lock wait."""


class TapeFiles:
    """Read access to the files below a path or URL. Links that lead out of a tape are refused.

    Args:
        location: local path or fsspec URL. Files of a remote tape are copied to a private temporary
            folder when first read and removed with this object. Forked children share the folder
            and leave it; a pickled object is opened again where it arrives.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._fs, self._root = fsspec.core.url_to_fs(location)
        self._checked: set[str] = set()
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._new_locks()
        _all.add(self)
        self.is_local = isinstance(self._fs, LocalFileSystem)
        if self.is_local:
            self._local = Path(self._root).resolve()
        else:
            self._local = Path(tempfile.mkdtemp(prefix="teachertape-")).resolve()
            weakref.finalize(self, _remove_mine, self._local, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the location."""
        return TapeFiles, (self.location,)

    def _new_locks(self) -> None:
        self._opening = threading.Lock()
        self._fetching = [threading.Lock() for _ in range(NUM_LOCKS)]

    def exists(self, name: str) -> bool:
        """Whether the tape has this file."""
        return bool(self._fs.exists(f"{self._root}/{name}"))

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        return int(self._fs.size(f"{self._root}/{name}"))

    def names(self, folder: str, suffix: str) -> Iterator[str]:
        """Names of the files in a folder that end in ``suffix``, sorted."""
        if not self._fs.isdir(f"{self._root}/{folder}"):
            return
        for entry in sorted(self._fs.ls(f"{self._root}/{folder}", detail=False)):
            name = str(entry).rsplit("/", 1)[-1]
            if name.endswith(suffix) and not name.startswith("."):
                yield f"{folder}/{name}"

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            TapeError: it is missing, larger than any such file, or a link out of the tape.
        """
        if self.is_local:
            path = self._inside(name)
            if path.stat().st_size > MAX_BYTES:
                raise TapeError(f"{self.location}: {name} is larger than {MAX_BYTES} bytes")
            return path.read_bytes()
        with self._remote(name):
            content = bytes(self._fs.cat_file(f"{self._root}/{name}", end=MAX_BYTES + 1))
        if len(content) > MAX_BYTES:
            raise TapeError(f"{self.location}: {name} is larger than {MAX_BYTES} bytes")
        return content

    def content(self, name: str) -> bytes:
        """Return the content of a file that grows: never mapped, for its writer may cut its end.

        Reading ends within a line that is longer than any may be: it will be refused.
        """
        if not self.is_local:
            with self._remote(name):
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        blocks, open_line = [], 0
        with self._inside(name).open("rb") as file:
            while open_line <= MAX_BYTES and (block := file.read(1 << 20)):
                blocks.append(block)
                whole = block.rfind(b"\n") + 1
                open_line = len(block) - whole if whole else open_line + len(block)
        return b"".join(blocks)

    def opened(self, name: str, open_file: Callable[[], T]) -> T:
        """Return what ``open_file`` makes of a file, kept open among the last ``MAX_OPENED``.

        An open file holds a descriptor, and a tape has more files than a process may open. What
        falls out of the list stays valid for whoever still holds it. A file is opened outside the
        lock: checking one must not keep other threads from reading others.
        """
        with self._opening:
            if name in self._opened:
                self._opened.move_to_end(name)
                found: T = self._opened[name]
                return found
        made = open_file()
        with self._opening:
            opened: T = self._opened.setdefault(name, made)
            self._opened.move_to_end(name)
            if len(self._opened) > MAX_OPENED:
                self._opened.popitem(last=False)
        return opened

    def local(self, name: str, record: Mapping[str, Any]) -> Path:
        """Return a local path of a file, checked against its record on first touch.

        Raises:
            TapeError: the file is missing, a link out of the tape, or its size or checksum is not
                what was committed.
        """
        if name in self._checked:
            return self._local / name
        with self._fetching[hash(name) % NUM_LOCKS]:
            if name not in self._checked:
                self._fetch(name, record)
                self._checked.add(name)
        return self._local / name

    def _fetch(self, name: str, record: Mapping[str, Any]) -> None:
        """Check a file; a remote one is copied beside its place first, and put there when sound."""
        path = self._local / name
        if self.is_local or path.exists():  # exists: a process that shares the folder fetched it
            self._check(self._inside(name), name, record)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with self._remote(name):
                self._fs.get_file(f"{self._root}/{name}", str(beside))
            if not beside.is_file():
                raise TapeError(f"{self.location}: {name} is missing")
            self._check(beside, name, record)
            beside.replace(path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()

    def _check(self, path: Path, name: str, record: Mapping[str, Any]) -> None:
        """Compare a file with its record."""
        if path.stat().st_size != record["bytes"]:
            raise TapeError(
                f"{self.location}: {name} has {path.stat().st_size} bytes, "
                f"{record['bytes']} were committed"
            )
        if checksum(path) != record[CHECKSUM]:
            raise TapeError(f"{self.location}: {name} is damaged (its checksum differs)")

    @contextlib.contextmanager
    def _remote(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            raise TapeError(f"{self.location}: {name} is missing") from error

    def _inside(self, name: str) -> Path:
        """Return the path of a regular file that is really inside the tape."""
        path = self._local / name
        if not path.is_file():
            raise TapeError(f"{self.location}: {name} is missing")
        if path.resolve() != path:
            raise TapeError(
                f"{self.location}: {name} is a link; a tape holds plain files only (copy a hub's "
                "snapshot to a folder of its own)"
            )
        return path


_all: weakref.WeakSet[TapeFiles] = weakref.WeakSet()


def _renew_locks() -> None:
    """Give a forked child locks of its own: nobody in it would release those held elsewhere."""
    for files in list(_all):
        files._new_locks()


os.register_at_fork(after_in_child=_renew_locks)


def _remove_mine(folder: Path, pid: int) -> None:
    """Remove a temporary folder, but in the process only that made it."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
