"""A folder of bounded size that keeps files of remote tapes: shared by processes, and by runs.

```
FOLDER/
  files/<tape>/<xxh3_128>-<bytes>    one file; the name is its record, so it cannot go stale
  parts/<key>.<process>.<thread>     on its way; put in its place when its checksum fits
  locks/<00 .. ff>                   held while a file is fetched, so that one process does it
  lock                               held while room is made
```
Files of one tape are not taken for another's: XXH3 finds damage, and is no proof against someone
who makes a second file for a checksum. What was used longest ago is removed first. A file that a
process has open stays readable for it when it is removed, and its room is free when it is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache_schema.codecs.files import CHECKSUM
from cache_schema.errors import TapeError, UsageError
from cache_schema.remote import difference

FOLDER_VARIABLE = "TEACHERTAPE_CACHE"
LIMIT_VARIABLE = "TEACHERTAPE_CACHE_GB"
LIMIT_GB = 50.0
LEFTOVER_S = 3600.0
"""A part that nothing was written to for so long is of a killed process."""

LOCK_WAIT_S = 600.0
"""Who fetches a file for so long has stalled; fetching it twice is harmless."""

_HASH = re.compile(r"[0-9a-f]{32}")
_PAUSE_S = 0.02


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
        self._unseen = self._limit  # bytes added since the folder was last looked through

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
        """
        path = self.path(record)
        with self._fetching(record[CHECKSUM]):
            try:
                if not difference(path, record):
                    os.utime(path)
                    return path
            except FileNotFoundError:
                pass
            self._make_room(int(record["bytes"]))
            part = self._folder / "parts" / f"{path.name}.{os.getpid()}.{threading.get_ident()}"
            for folder in (part.parent, path.parent):
                folder.mkdir(parents=True, exist_ok=True)
            try:
                fetch(part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        self._unseen += int(record["bytes"])
        return path

    @contextlib.contextmanager
    def _fetching(self, digits: str) -> Iterator[None]:
        with self._locked(f"locks/{digits[:2]}", LOCK_WAIT_S):
            yield

    @contextlib.contextmanager
    def _locked(self, name: str, wait_s: float) -> Iterator[None]:
        """Hold a lock, or go on without after a while; threads exclude each other too."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        until_s = time.monotonic() + wait_s
        with path.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until_s:
                        break
                    time.sleep(_PAUSE_S)
            try:
                yield
            finally:  # a child that was forked meanwhile holds the file too
                fcntl.flock(file, fcntl.LOCK_UN)

    def _make_room(self, needed: int) -> None:
        """Remove what was used longest ago, so that a file fits; not looked through each time.

        Several processes add files between two looks, so that room is kept for that.
        """
        if self._unseen + needed <= self._limit // 64:
            return
        with self._locked("lock", LOCK_WAIT_S):
            self._sweep_parts()
            found = sorted(self._kept())
            total = sum(size for _, size, _ in found)
            most = self._limit - self._limit // 16 - needed
            for _, size, path in found:
                if total <= most:
                    break
                path.unlink(missing_ok=True)
                total -= size
        self._unseen = 0

    def _kept(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each file was last used, its bytes and its path."""
        for folder in self._folder.glob("files/*"):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)

    def _sweep_parts(self) -> None:
        """Remove what killed processes left half fetched."""
        for part in self._folder.glob("parts/*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > LEFTOVER_S:
                    part.unlink()
