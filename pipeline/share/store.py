"""Where tapes are pushed to: files that are there whole or not at all, compared on arrival."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import xxhash

from cache_schema.codecs.files import CHECKSUM
from cache_schema.errors import TransferError, UsageError
from cache_schema.remote.files import Remote, WrongBytesError
from pipeline.share.contents import Contents

_RENAMING = ("file", "local", "ssh", "sftp", "smb", "ftp")
"""Protocols that fill a file under its name; there it is filled under another and renamed."""

_BLOCK = 4 << 20


class Store(Protocol):
    """A place for one tape."""

    location: str

    @property
    def needs_lock(self) -> bool:
        """Whether two pushes at once would not notice each other."""

    def describe(self, contents: Contents) -> None:
        """Say what the tape is, where the place has a page for that."""

    def listing(self) -> dict[str, int]:
        """Return the files that are there -> their bytes."""

    def read(self, name: str) -> bytes:
        """Return a small file.

        Raises:
            FileNotFoundError: there is none.
        """

    def put(self, name: str, path: Path, record: Mapping[str, Any]) -> None:
        """Send a file; it counts after ``flush`` at the latest.

        Raises:
            TransferError: it did not arrive as it is.
        """

    def matches(self, name: str, path: Path, record: Mapping[str, Any]) -> bool:
        """Whether the file that is there is this one, by content."""

    def trusted(self, name: str, path: Path, record: Mapping[str, Any]) -> bool:
        """Whether a file of the same name and size, of a push that was stopped, is this one."""

    def put_bytes(self, name: str, content: bytes) -> None:
        """Send a small file, whole.

        Raises:
            TransferError: it did not arrive as it is.
        """

    def remove(self, name: str) -> None:
        """Remove a file; harmless if there is none."""

    def flush(self, message: str) -> None:
        """Let everything sent so far count."""


class FileStore:
    """A folder behind an fsspec URL, or on this machine.

    Raises:
        UsageError: nothing can be written there.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._remote = Remote(location)
        if self._remote.is_http:
            raise UsageError(f"{location}: nothing can be pushed over http, only read from it")
        protocol = location.partition("://")[0] if "://" in location else "file"
        self._renames = protocol in _RENAMING

    @property
    def needs_lock(self) -> bool:
        """See ``Store``."""
        return True

    def describe(self, contents: Contents) -> None:
        """See ``Store``: there is no such page."""

    def listing(self) -> dict[str, int]:
        """See ``Store``."""

        def ask() -> dict[str, int]:
            fs, root = self._remote.fs, self._remote.root
            fs.invalidate_cache()
            try:
                found = fs.find(root, detail=True)
            except FileNotFoundError:
                return {}
            start = len(str(fs._strip_protocol(root)).strip("/"))
            return {
                str(path).strip("/")[start:].strip("/"): int(info["size"])
                for path, info in found.items()
            }

        return self._remote.tried("", ask)

    def read(self, name: str) -> bytes:
        """See ``Store``."""
        return self._remote.read(name)

    def put(self, name: str, path: Path, record: Mapping[str, Any]) -> None:
        """See ``Store``."""

        def send() -> None:
            fs, final = self._remote.fs, self._remote.path(name)
            target = self._prepared(final)
            fs.put_file(str(path), target)
            if not self._same(target, path, record):
                raise WrongBytesError("arrived damaged")
            if target != final:
                fs.mv(target, final)

        try:
            self._remote.tried(name, send)
        except WrongBytesError as error:
            raise TransferError(f"{self.location}/{name} {error}, each time") from error

    def put_bytes(self, name: str, content: bytes) -> None:
        """See ``Store``."""

        def send() -> None:
            fs, final = self._remote.fs, self._remote.path(name)
            target = self._prepared(final)
            fs.pipe_file(target, content)
            fs.invalidate_cache()
            if bytes(fs.cat_file(target)) != content:
                raise WrongBytesError("arrived damaged")
            if target != final:
                fs.mv(target, final)

        try:
            self._remote.tried(name, send)
        except WrongBytesError as error:
            raise TransferError(f"{self.location}/{name} {error}, each time") from error

    def _prepared(self, final: str) -> str:
        """Return under which name a file is filled, and make the folders it needs."""
        if not self._renames:
            return final
        self._remote.fs.makedirs(final.rpartition("/")[0], exist_ok=True)
        return self._remote.path(f".push-{os.getpid()}-{threading.get_ident()}.tmp")

    def matches(self, name: str, path: Path, record: Mapping[str, Any]) -> bool:
        """See ``Store``."""
        return self._remote.tried(name, lambda: self._same(self._remote.path(name), path, record))

    def trusted(self, name: str, path: Path, record: Mapping[str, Any]) -> bool:
        """See ``Store``: what was renamed into its place was compared before."""
        return self._renames or self.matches(name, path, record)

    def _same(self, target: str, path: Path, record: Mapping[str, Any]) -> bool:
        """Compare a file there with one here: by the store's own checksum, or read back."""
        fs = self._remote.fs
        fs.invalidate_cache()
        info = fs.info(target)
        if info["size"] != record["bytes"]:
            return False
        told = str(info.get("ETag", "")).strip('"')  # S3: MD5 of what was sent in one piece
        if len(told) == 32 and told == _md5(path):
            return True
        digest = xxhash.xxh3_128()
        with fs.open(target, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return bool(digest.hexdigest() == record[CHECKSUM])

    def remove(self, name: str) -> None:
        """See ``Store``."""

        def act() -> None:
            self._remote.fs.rm_file(self._remote.path(name))

        try:
            self._remote.tried(name, act)
        except FileNotFoundError:
            return

    def flush(self, message: str) -> None:
        """See ``Store``: every file counts as soon as it is there."""


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
