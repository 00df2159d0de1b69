"""Files behind a URL: every call is tried again where the line or the server fails, then named.

A server that stalls, resets, answers 5xx, cuts an answer short or sends other bytes is asked
again, ``TRIES`` times with growing pauses. What is missing or forbidden is told at once.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM, NO_ROOM, checksum
from cache_schema.codecs.sealed_json import is_sealed
from cache_schema.errors import OutputError, TapeError, TransferError
from cache_schema.remote.clients import AtMost, TooLongError, connect, told

T = TypeVar("T")

TRIES = 5
PAUSE_S = 0.5
"""Before the second try; each pause is twice the one before."""

_PERMANENT = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,
    ImportError,
    TypeError,
    AttributeError,
    TapeError,
)
"""Errors that another try does not mend."""

_MAYBE_LATER = (408, 425, 429)
"""Of the HTTP statuses that blame the client, those that time mends."""


MAX_CONTENT = 4 << 30
"""Bytes of a file that no record says the size of; a manifest of a million shards has fewer."""


class WrongBytesError(Exception):
    """What arrived is not what was committed."""


def is_url(location: str) -> bool:
    """Whether a location is a URL; fsspec also chains them with ``::``."""
    return "://" in location or "::" in location


class Remote:
    """Access to the files below a URL, for several threads, before and after a fork.

    Args:
        location: an fsspec URL.

    Raises:
        UsageError: the URL is of no known kind, or what speaks its protocol is not installed.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._pid = -1
        self._connecting = threading.Lock()
        self._fs, self.root = self._connect()

    def _connect(self) -> tuple[Any, str]:
        fs, root = connect(self.location)
        self._pid = os.getpid()
        return fs, root

    @property
    def fs(self) -> Any:
        """The file system; a forked child gets one of its own, for connections are not shared."""
        if self._pid != os.getpid():
            with self._connecting:
                if self._pid != os.getpid():
                    self._fs, self.root = self._connect()
        return self._fs

    def renew_lock(self) -> None:
        """Give a forked child a lock that nobody holds."""
        self._connecting = threading.Lock()

    def path(self, name: str) -> str:
        """Return the path of a file as the file system takes it."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            TransferError: the server does not say.
        """
        try:
            self.info(name)
        except FileNotFoundError:
            return False
        return True

    def info(self, name: str) -> Mapping[str, Any]:
        """Return what the store says of a file.

        Raises:
            FileNotFoundError: there is none.
            TransferError: as for ``exists``.
        """

        def ask() -> Any:
            self.fs.invalidate_cache()
            try:
                return self.fs.info(self.path(name))
            except FileNotFoundError as error:  # so fsspec calls any failure over HTTP
                if isinstance(why := error.__cause__, Exception) and not _is_absence(why):
                    raise why from error
                raise

        found: Mapping[str, Any] = self.tried(name, ask)
        if found.get("type") == "directory":
            raise FileNotFoundError(f"{self.location}/{name}")
        return found

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is none.
            TransferError: the server does not say.
        """
        size = self.info(name).get("size")
        if not isinstance(size, int):
            raise TransferError(f"{self.location}/{name}: its server does not say its size")
        return size

    def names(self, folder: str) -> list[str]:
        """Return the names of the files and folders in a folder, sorted; none if it is missing.

        Raises:
            TransferError: the server does not say, or lists no folders.
        """

        def ask() -> list[str]:
            self.fs.invalidate_cache()
            found = self.fs.ls(self.path(folder), detail=False)
            names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found}
            if not names and self.is_http:  # a page without links: an error page, or no listing
                raise ConnectionError("it lists no files; its server must list folders as links")
            return sorted(names)

        try:
            return self.tried(folder, ask)
        except (FileNotFoundError, NotADirectoryError):
            return []

    @property
    def is_http(self) -> bool:
        """Whether folders are pages, and nothing can be written."""
        return self.location.startswith(("http://", "https://"))

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Return the content of a small file, at most its first ``limit`` bytes.

        A sealed file, or a manifest, that does not fit its seals is asked for again; if it never
        does, it is returned as it is: whoever reads it says what is wrong with it.

        Raises:
            FileNotFoundError: there is none.
            TransferError: it could not be read.
        """
        last, most = b"", limit or MAX_CONTENT

        def ask(path: Path) -> bytes:
            nonlocal last
            with contextlib.suppress(TooLongError):
                self._fetch(name, path, most)
            with path.open("rb") as file:
                last = file.read(most)
            if len(last) < most and not _fits_seals(name, last):
                raise WrongBytesError
            return last

        with tempfile.TemporaryDirectory(prefix="teachertape-") as folder:
            try:
                return self.tried(name, lambda: ask(Path(folder) / "file"))
            except WrongBytesError:
                return last

    def _fetch(self, name: str, path: Path, most: int) -> None:
        """Copy a file here; what a server sends without end is not taken.

        Raises:
            FileNotFoundError: there is none.
            TooLongError: it has more than ``most`` bytes; about as many are here.
        """
        path.unlink(missing_ok=True)
        self.fs.get_file(self.path(name), str(path), callback=AtMost(most))
        if not path.is_file():
            raise FileNotFoundError(name)

    def get(self, name: str, record: Mapping[str, Any], path: Path) -> None:
        """Copy a file here, compared with its record; ``path`` is overwritten.

        Raises:
            TapeError: the file is missing, or is not what was committed, each time.
            TransferError: it could not be read.
        """

        def fetch() -> None:
            try:
                self._fetch(name, path, record["bytes"])
            except TooLongError as error:
                raise WrongBytesError(
                    f"has more than the {record['bytes']} committed bytes"
                ) from error
            if wrong := difference(path, record):
                raise WrongBytesError(wrong)

        try:
            self.tried(name, fetch)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise TapeError(f"{self.location}: {name} is missing") from error
        except WrongBytesError as error:
            raise TapeError(f"{self.location}: {name} {error}, each of {TRIES} times") from error

    def tried(self, name: str, act: Callable[[], T]) -> T:
        """Return what ``act`` does, tried again where that may help.

        Raises:
            TransferError: no try succeeded, or access is refused.
            OutputError: the disk here is full.
        """
        for number in range(TRIES):
            try:
                return act()
            except _PERMANENT as error:
                if isinstance(error, PermissionError):
                    raise TransferError(
                        f"{self.location}/{name}: access is refused ({told(error)}); are the "
                        "credentials right?"
                    ) from error
                raise
            except WrongBytesError:
                if number == TRIES - 1:
                    raise
            except Exception as error:  # noqa: BLE001 - every client has errors of its own
                self._refuse_hopeless(name, error, number)
            time.sleep(PAUSE_S * 2**number)
        raise AssertionError

    def _refuse_hopeless(self, name: str, error: Exception, number: int) -> None:
        status = getattr(error, "status", None) or getattr(
            getattr(error, "response", None), "status_code", None
        )
        hopeless = isinstance(status, int) and 400 <= status < 500 and status not in _MAYBE_LATER
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise OutputError(
                f"no room here for {name} of {self.location} ({error.strerror}); make room, or "
                "keep less (TEACHERTAPE_CACHE_GB)"
            ) from error
        if hopeless or number == TRIES - 1:
            times = "" if hopeless else f" (tried {TRIES} times)"
            raise TransferError(
                f"{self.location}/{name}: {told(error)}{times}; run the same again to continue"
            ) from error


def _is_absence(error: Exception) -> bool:
    """Whether a server said that there is no such file."""
    return getattr(error, "status", None) in (404, 410)


def difference(path: Path, record: Mapping[str, Any]) -> str:
    """Say in which way a file differs from its record; empty if it does not."""
    size = path.stat().st_size
    if size != record["bytes"]:
        return f"has {size} bytes, {record['bytes']} were committed"
    return "is damaged (its checksum differs)" if checksum(path) != record[CHECKSUM] else ""


def _fits_seals(name: str, content: bytes) -> bool:
    """Whether every line of a manifest, or a sealed file, fits its seal; others are not asked."""
    if name.startswith(f"{layout.SEALS_DIR}/"):
        return True
    if name.endswith(".jsonl"):
        return all(map(is_sealed, content.splitlines(keepends=True)))
    return not name.endswith(".json") or is_sealed(content)
