"""A tape's files, local or behind a URL: listed, fetched and checked on first touch."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cache_schema.codecs.sealed_json import MAX_BYTES
from cache_schema.errors import TapeError
from cache_schema.remote.cache import FileCache
from cache_schema.remote.files import Remote, difference, is_url

T = TypeVar("T")

MAX_OPENED = 256
"""Files kept open at one time; a process may usually open 1,024."""

_FILE = "file://"
_TRIES = 4
"""How often a file that the cache removed under a reader is fetched again."""

NUM_LOCKS = 64
"""Files that can be fetched and checked at the same time; names that share a lock wait."""


class TapeFiles:
    """Read access to the files below a path or URL. Links that lead out of a tape are refused.

    Args:
        location: local path or fsspec URL. Files of a remote tape are copied into a folder of
            bounded size that processes and runs share (``cache_schema.remote.cache``) when first
            read; what fails is tried again (``cache_schema.remote.files``). A pickled object is
            opened again where it arrives.

    Raises:
        UsageError: the URL is of no known kind, or what reads it is not installed.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._checked: dict[str, Path] = {}
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._new_locks()
        _all.add(self)
        self._local = Path(location.removeprefix(_FILE)).resolve()
        self._remote: Remote | None = None
        if is_url(location) and not location.startswith(_FILE):
            self._remote = Remote(location)
            self._cache = FileCache(location)

    @property
    def is_local(self) -> bool:
        """Whether the tape is a folder of this machine."""
        return self._remote is None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the location."""
        return TapeFiles, (self.location,)

    def _new_locks(self) -> None:
        self._opening = threading.Lock()
        self._fetching = [threading.Lock() for _ in range(NUM_LOCKS)]

    def exists(self, name: str) -> bool:
        """Whether the tape has this file."""
        return (self._local / name).exists() if self._remote is None else self._remote.exists(name)

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if self._remote is None:
            return (self._local / name).stat().st_size
        return self._remote.size(name)

    def names(self, folder: str, suffix: str) -> Iterator[str]:
        """Names of the files in a folder that end in ``suffix``, sorted."""
        if self._remote is not None:
            found = self._remote.names(folder)
        else:
            path = self._local / folder
            found = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        for name in found:
            if name.endswith(suffix) and not name.startswith("."):
                yield f"{folder}/{name}"

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            TapeError: it is missing, larger than any such file, or a link out of the tape.
        """
        if self._remote is None:
            path = self._inside(name)
            if path.stat().st_size > MAX_BYTES:
                raise TapeError(f"{self.location}: {name} is larger than {MAX_BYTES} bytes")
            return path.read_bytes()
        content = self._read_remote(self._remote, name, MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise TapeError(f"{self.location}: {name} is larger than {MAX_BYTES} bytes")
        return content

    def content(self, name: str) -> bytes:
        """Return the content of a file that grows: never mapped, for its writer may cut its end.

        Reading ends within a line that is longer than any may be: it will be refused.
        """
        if self._remote is not None:
            return self._read_remote(self._remote, name, None)
        blocks, open_line = [], 0
        with self._inside(name).open("rb") as file:
            while open_line <= MAX_BYTES and (block := file.read(1 << 20)):
                blocks.append(block)
                whole = block.rfind(b"\n") + 1
                open_line = len(block) - whole if whole else open_line + len(block)
        return b"".join(blocks)

    def _read_remote(self, remote: Remote, name: str, limit: int | None) -> bytes:
        try:
            return remote.read(name, limit)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise TapeError(f"{self.location}: {name} is missing") from error

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
        made = self._open_anew(open_file)
        with self._opening:
            opened: T = self._opened.setdefault(name, made)
            self._opened.move_to_end(name)
            if len(self._opened) > MAX_OPENED:
                self._opened.popitem(last=False)
        return opened

    def _open_anew(self, open_file: Callable[[], T]) -> T:
        """Open a file; again if the cache made room for others before it was open."""
        for _ in range(_TRIES):
            try:
                return open_file()
            except TapeError as error:
                if self.is_local or not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return open_file()

    def local(self, name: str, record: Mapping[str, Any]) -> Path:
        """Return a local path of a file, checked against its record on first touch.

        Raises:
            TapeError: the file is missing, a link out of the tape, or its size or checksum is not
                what was committed.
            TransferError: it could not be fetched.
        """
        path = self._checked.get(name)
        if path is not None and (self.is_local or path.exists()):
            return path
        with self._fetching[hash(name) % NUM_LOCKS]:
            path = self._checked.get(name)
            if path is None or not (self.is_local or path.exists()):
                path = self._checked[name] = self._fetch(name, record)
        return path

    def _fetch(self, name: str, record: Mapping[str, Any]) -> Path:
        """Check a file; a remote one is taken from the cache, or put there first."""
        remote = self._remote
        if remote is not None:
            return self._cache.take(record, lambda path: remote.get(name, record, path))
        path = self._inside(name)
        if wrong := difference(path, record):
            raise TapeError(f"{self.location}: {name} {wrong}")
        return path

    def copy(self, name: str, record: Mapping[str, Any], path: Path) -> None:
        """Copy a file to a path of your own, compared with its record; not through the cache.

        Raises:
            TapeError: as for ``local``.
        """
        if self._remote is not None:
            self._remote.get(name, record, path)
            return
        shutil.copyfile(self._inside(name), path)
        if wrong := difference(path, record):
            raise TapeError(f"{self.location}: {name} {wrong}")

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
        if files._remote is not None:
            files._remote.renew_lock()


os.register_at_fork(after_in_child=_renew_locks)
