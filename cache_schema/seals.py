"""Seals of a whole tape: the sha256 of every committed file, in a list that a key may have signed.

A seal is ``seals/<name>.jsonl``: a first line that says what is sealed, a line for every file in
the order of their paths, and a last line with the sha256 of all bytes before it and the Ed25519
signature of ``message``. Manifests only grow, so of them a seal holds the beginning: a tape that
goes on after it was sealed can still be told from one that was changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cache_schema import layout
from cache_schema.codecs.files import make_dirs, sync_dir
from cache_schema.errors import TapeError
from cache_schema.manifest import MAX_COUNT

UNSIGNED = "unsigned"
VERSION = 1
MAX_LINE = 4096
"""Bytes of a line of a seal."""

_NAME = re.compile(r"[0-9a-f]{16}|unsigned", re.ASCII)
_HEX = re.compile(r"[0-9a-f]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """One file of a sealed tape.

    Attributes:
        path: relative to the tape.
        bytes: its size; of a manifest the size it had.
        sha256: of so many bytes of it.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What a seal says beside its list.

    Attributes:
        tape: fingerprint of the tape, one hash over who made every group.
        created: when it was sealed, as its maker says.
        files: how many files are listed.
        bytes: their size together.
        public_key: of whoever signed it, 64 digits; empty if nobody did.
        sha256: of every byte before the last line; what is signed.
        signature: of ``message``, 128 digits; empty if there is none.
    """

    tape: str
    created: str
    files: int
    bytes: int
    public_key: str
    sha256: str = ""
    signature: str = ""


def key_id(public_key: str) -> str:
    """Return the name of a key: the first 16 digits of its sha256."""
    return hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:16]


def seal_file(public_key: str) -> str:
    """Return where the seal by a key is, or the unsigned one."""
    return f"{layout.SEALS_DIR}/{key_id(public_key) if public_key else UNSIGNED}.jsonl"


def message(sha256: str) -> bytes:
    """Return what is signed: it says what it is for, so that no other signature can be taken."""
    return f"teachertape seal {VERSION} sha256:{sha256}".encode()


def is_manifest(path: str) -> bool:
    """Whether a file only grows, so that its beginning is sealed."""
    return path.startswith(f"{layout.MANIFEST_DIR}/")


class SealWriter:
    """A seal being written, a line at a time; it is there when ``sign`` has returned.

    Args:
        root: the tape.
        seal: what it says; counts must be those of the files that follow.
    """

    def __init__(self, root: Path, seal: Seal) -> None:
        self._final = root / seal_file(seal.public_key)
        make_dirs(self._final.parent)
        self._beside = self._final.with_name(f".{self._final.name}.tmp")
        self._file: IO[bytes] = self._beside.open("wb")
        self._digest = hashlib.sha256()
        values = {name: getattr(seal, name) for name in ("tape", "created", "files", "bytes")}
        self._put({"type": "seal", "version": VERSION, **values, "public_key": seal.public_key})

    def _put(self, values: dict[str, Any]) -> None:
        line = _line(values)
        self._digest.update(line)
        self._file.write(line)

    def add(self, files: Iterable[SealedFile]) -> None:
        """Add files, in the order of their paths."""
        for file in files:
            self._put({"path": file.path, "bytes": file.bytes, "sha256": file.sha256})

    @property
    def sha256(self) -> str:
        """Of what was written: what is to be signed."""
        return self._digest.hexdigest()

    def sign(self, signature: str) -> None:
        """Write the last line and put the seal in its place, durably."""
        last = {"type": "signature", "sha256": self.sha256, "ed25519": signature}
        self._file.write(_line(last))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._beside.replace(self._final)
        sync_dir(self._final.parent)

    def abort(self) -> None:
        """Leave nothing."""
        self._file.close()
        self._beside.unlink(missing_ok=True)


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=True).encode() + b"\n"


def read_seal(path: Path) -> Seal:
    """Read what a seal says and hash its list; whether it is signed is not looked at.

    Raises:
        TapeError: it is no seal, of another version, damaged, or its list is not in order.
    """
    if path.is_symlink():
        raise TapeError(f"{path} is a link; a tape holds plain files only")
    if not _NAME.fullmatch(path.stem):
        raise TapeError(f"{path}: no seal has this name")
    digest = hashlib.sha256()
    files = total = 0
    previous = ""
    head: dict[str, Any] = {}
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, path)):
            values = _values(line, f"{path}, line {number + 1}")
            if number == 0:
                head = _head(values, str(path))
            elif values.get("type") == "signature":
                _refuse_more(file, path)
                break
            else:
                sealed = _sealed(values, f"{path}, line {number + 1}")
                if sealed.path <= previous:
                    raise TapeError(f"{path}, line {number + 1}: {sealed.path!r} is out of order")
                files, total, previous = files + 1, total + sealed.bytes, sealed.path
            digest.update(line)
        else:
            raise TapeError(f"{path}: the seal has no end")
    if (files, total) != (head["files"], head["bytes"]):
        raise TapeError(
            f"{path}: {files} files of {total} bytes are listed, it says {head['files']} of "
            f"{head['bytes']}"
        )
    if values.get("sha256") != digest.hexdigest():
        raise TapeError(f"{path}: the list was changed: its sha256 is not the one in the last line")
    signature = _hex(values.get("ed25519"), (0, 128), f"{path}: signature")
    return Seal(**head, sha256=digest.hexdigest(), signature=signature)


def sealed_files(path: Path) -> Iterator[SealedFile]:
    """Yield the list of a seal that ``read_seal`` has read."""
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, path)):
            values = _values(line, str(path))
            if number and values.get("type") == "signature":
                return
            if number:
                yield _sealed(values, str(path))


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE or not line.endswith(b"\n"):
            raise TapeError(f"{path}: a line is cut, or longer than {MAX_LINE} bytes")
        yield line


def _refuse_more(file: IO[bytes], path: Path) -> None:
    if file.read(1):
        raise TapeError(f"{path}: something follows the last line")


def _values(line: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TapeError(f"{where}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise TapeError(f"{where}: not a JSON object")
    return values


def _head(values: dict[str, Any], where: str) -> dict[str, Any]:
    if values.get("type") != "seal" or values.get("version") != VERSION:
        raise TapeError(f"{where}: not a seal of version {VERSION}")
    return {
        "tape": _hex(values.get("tape"), (64,), f"{where}: tape"),
        "created": str(values.get("created", ""))[:64],
        "files": _count(values.get("files"), where),
        "bytes": _count(values.get("bytes"), where),
        "public_key": _hex(values.get("public_key"), (0, 64), f"{where}: public_key"),
    }


def _sealed(values: dict[str, Any], where: str) -> SealedFile:
    path = values.get("path")
    if not isinstance(path, str) or not layout.SEALED_PATH.fullmatch(path) or ".." in path:
        raise TapeError(f"{where}: {path!r} is no file of a tape")
    return SealedFile(
        path=path,
        bytes=_count(values.get("bytes"), where),
        sha256=_hex(values.get("sha256"), (64,), where),
    )


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise TapeError(f"{where}: {value!r} is not a count")
    return value


def _hex(value: Any, lengths: tuple[int, ...], where: str) -> str:
    if not isinstance(value, str) or len(value) not in lengths or not _HEX.fullmatch(value):
        raise TapeError(f"{where}: expected {' or '.join(map(str, lengths))} hexadecimal digits")
    return value
