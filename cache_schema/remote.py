"""Files behind a URL: every call is tried again where the line or the server fails, then named.

A server that stalls, resets, answers 5xx, cuts an answer short or sends other bytes is asked
again, ``TRIES`` times with growing pauses. What is missing or forbidden is told at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from cache_schema.codecs.files import CHECKSUM, NO_ROOM, checksum
from cache_schema.codecs.sealed_json import is_sealed
from cache_schema.errors import OutputError, TapeError, TransferError, UsageError

T = TypeVar("T")

TRIES = 5
PAUSE_S = 0.5
"""Before the second try; each pause is twice the one before."""

STALL_VARIABLE = "TEACHERTAPE_STALL_S"
STALL_S = 60.0
"""A connection over which nothing came for so long is given up and made anew."""

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


class WrongBytesError(Exception):
    """What arrived is not what was committed."""


def stall_s() -> float:
    """Return the seconds without a byte after which a connection is given up.

    Raises:
        UsageError: the variable is no positive number.
    """
    text = os.environ.get(STALL_VARIABLE, str(STALL_S))
    try:
        if (seconds := float(text)) > 0:
            return seconds
    except ValueError:
        pass
    raise UsageError(f"{STALL_VARIABLE}={text!r}: expected a number of seconds above 0")


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
        options = _options(self.location.partition("://")[0])
        try:
            fs, root = fsspec.core.url_to_fs(self.location, **options)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"{self.location}: {error}; s3, gcs and ssh need: pip install 'teachertape[share]'"
            ) from error
        except Exception as error:
            raise TransferError(f"{self.location}: no connection: {_told(error)}") from error
        self._pid = os.getpid()
        return fs, str(root).rstrip("/")

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
            return self.fs.info(self.path(name))

        found: Mapping[str, Any] = self.tried(name, ask)
        if found.get("type") == "directory":
            raise FileNotFoundError(f"{self.location}/{name}")
        return found

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
        last = b""

        def ask() -> bytes:
            nonlocal last
            last = bytes(self.fs.cat_file(self.path(name), **({"end": limit} if limit else {})))
            if not _fits_seals(name, last):
                raise WrongBytesError
            return last

        try:
            return self.tried(name, ask)
        except WrongBytesError:
            return last

    def get(self, name: str, record: Mapping[str, Any], path: Path) -> None:
        """Copy a file here, compared with its record; ``path`` is overwritten.

        Raises:
            TapeError: the file is missing, or is not what was committed, each time.
            TransferError: it could not be read.
        """

        def fetch() -> None:
            self.fs.get_file(self.path(name), str(path))
            if not path.is_file():
                raise FileNotFoundError(name)
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
                        f"{self.location}/{name}: access is refused ({_told(error)}); are the "
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
                f"{self.location}/{name}: {_told(error)}{times}; run the same again to continue"
            ) from error


def difference(path: Path, record: Mapping[str, Any]) -> str:
    """Say in which way a file differs from its record; empty if it does not."""
    size = path.stat().st_size
    if size != record["bytes"]:
        return f"has {size} bytes, {record['bytes']} were committed"
    return "is damaged (its checksum differs)" if checksum(path) != record[CHECKSUM] else ""


def _fits_seals(name: str, content: bytes) -> bool:
    """Whether every line of a manifest, or a sealed file, fits its seal; others are not asked."""
    if name.startswith("seals/"):
        return True
    if name.endswith(".jsonl"):
        return all(map(is_sealed, content.splitlines(keepends=True)))
    return not name.endswith(".json") or is_sealed(content)


def _told(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _options(protocol: str) -> dict[str, Any]:
    """Return what makes a client of a protocol notice a server that went silent."""
    seconds = stall_s()
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        return {"client_kwargs": {"timeout": timeout}}
    if protocol in ("s3", "s3a"):
        return {
            "config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds},
            "use_listings_cache": False,
        }
    if protocol in ("ssh", "sftp"):  # known_hosts: (): a host's key is compared with ours
        return {
            "connect_timeout": seconds,
            "keepalive_interval": max(1.0, seconds / 3),
            "known_hosts": (),
        }
    return {}
