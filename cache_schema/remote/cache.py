"""A folder of bounded size that keeps files of remote tapes: shared by processes, and by runs.

```
FOLDER/
  files/<tape>/<xxh3_128>-<bytes>    one file; the name is its record, so it cannot go stale
  parts/<xxh3_128>-<bytes>.<token>   on its way; put in its place when its checksum fits
  locks/<00 .. ff>                   held while a file is fetched, so that one process does it
  lock                               held while room is taken; says how many bytes are, at most
```
Files of one tape are not taken for another's: XXH3 finds damage, and is no proof against someone
who makes a second file for a checksum. What was used longest ago is removed first. A file that a
process has open stays readable for it when it is removed, and its room is free when it is closed.
What is on its way counts with its whole size, and is never removed. Where the file system has no
locks, two processes may fetch the same file, and the bound holds for each of them alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache_schema.codecs.files import CHECKSUM, NO_LOCKS
from cache_schema.errors import OutputError, TapeError, UsageError
from cache_schema.remote.files import difference

FOLDER_VARIABLE = "TEACHERTAPE_CACHE"
LIMIT_VARIABLE = "TEACHERTAPE_CACHE_GB"
LIMIT_GB = 50.0
LEFTOVER_S = 3600.0
"""A part that nothing was written to for so long is of a killed process."""

LOCK_WAIT_S = 600.0
"""Who fetches a file for so long has stalled; fetching it twice is harmless."""

_HASH = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"[0-9a-f]{32}-(\d+)\.\w+", re.ASCII)
_PAUSE_S = 0.02
_DIGITS = 20
"""Of the bytes that are taken, as the lock's file says them."""


def cache_folder() -> Path:
    """Return the folder: ``TEACHERTAPE_CACHE``, or ``teachertape`` in the user's cache folder."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "teachertape").resolve()


def cache_limit() -> int:
    """Return the most bytes the folder may hold.

    Raises:
        UsageError: the variable is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(LIMIT_GB))
    try:
        if (limit := int(float(text) * 1e9)) > 0:
            return limit
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{LIMIT_VARIABLE}={text!r}: expected gigabytes, a number above 0")


class FileCache:
    """The files of one tape in the folder.

    Args:
        location: of the tape.
        folder: where; by default as the environment says.
        limit: most bytes the folder may hold, files of all tapes together; likewise.
    """

    def __init__(self, location: str, folder: Path | None = None, limit: int | None = None) -> None:
        self._folder = folder or cache_folder()
        self._limit = limit or cache_limit()
        self._tape = hashlib.sha256(location.encode()).hexdigest()[:16]

    def path(self, record: Mapping[str, Any]) -> Path:
        """Return where a file lies, or would.

        Raises:
            TapeError: its record is none.
        """
        if not _HASH.fullmatch(record[CHECKSUM]):
            raise TapeError(f"{record[CHECKSUM]!r} is no {CHECKSUM}")
        return self._folder / "files" / self._tape / f"{record[CHECKSUM]}-{int(record['bytes'])}"

    def take(self, record: Mapping[str, Any], fetch: Callable[[Path], None]) -> Path:
        """Return a file that is what its record says, fetched if it is not here.

        Args:
            record: its size and checksum.
            fetch: writes the file to a path, compared with the record.

        Raises:
            UsageError: the folder may not hold as much.
            OutputError: the folder cannot be written.
        """
        path, size = self.path(record), int(record["bytes"])
        if size > self._limit:
            raise UsageError(
                f"{LIMIT_VARIABLE}: {self._limit / 1e9:g} GB are less than one file of this tape, "
                f"of {size / 1e9:g} GB"
            )
        with self._disk_errors(), self._locked(f"locks/{record[CHECKSUM][:2]}"):
            if self._is_here(path, record):
                return path
            part = self._take_room(path.name, size)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                fetch(part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    def _is_here(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Whether a file is kept, as it was committed; it counts as used now."""
        try:
            if difference(path, record):
                return False
            with contextlib.suppress(PermissionError):  # another user's: it ages, and is read
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self._folder}: files of remote tapes are kept here, which failed ({error}); "
                f"make room, or name a folder that can be written in {FOLDER_VARIABLE}"
            ) from error

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        """Hold a lock, or go on without after a while; threads exclude each other too.

        Yields:
            The descriptor of its file.
        """
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        until_s = time.monotonic() + LOCK_WAIT_S
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while not _lock(descriptor) and time.monotonic() < until_s:
                time.sleep(_PAUSE_S)
            try:
                yield descriptor
            finally:  # a child that was forked meanwhile holds the file too
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _take_room(self, name: str, size: int) -> Path:
        """Make room for a file; return where it is to be written, an empty file.

        The folder is looked through only when what is said to be taken leaves no room: that may be
        too much, as after a process was killed or files were removed, and never too little.
        """
        with self._locked("lock") as descriptor:
            said = os.pread(descriptor, _DIGITS, 0)
            taken = int(said) if said.isdigit() else self._limit
            if taken + size > self._limit:
                taken = self._make_room(size)
            part = self._folder / "parts" / f"{name}.{secrets.token_hex(8)}"
            part.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
            os.pwrite(descriptor, f"{taken + size:0{_DIGITS}d}".encode(), 0)
        return part

    def _make_room(self, needed: int) -> int:
        """Remove what was used longest ago, and a little more; return the bytes that stay.

        What is on its way is counted first: what arrives meanwhile is counted twice, never not.
        """
        total = self._on_their_way()
        found = sorted(self._kept())
        total += sum(size for _, size, _ in found)
        most = self._limit - self._limit // 16 - needed
        for _, size, path in found:
            if total <= most:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _kept(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each file was last used, its bytes and its path."""
        for folder in self._folder.glob("files/*"):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)

    def _on_their_way(self) -> int:
        """Return the bytes of files that are being fetched; remove what killed processes left."""
        total = 0
        for part in self._folder.glob("parts/*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > LEFTOVER_S:
                    part.unlink()
                elif match := _PART.fullmatch(part.name):
                    total += int(match[1])
        return total


def _lock(descriptor: int) -> bool:
    """Take a lock if nobody holds it; where there are no locks everybody gets it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
