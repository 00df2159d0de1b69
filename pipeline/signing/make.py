"""``pipeline seal``: hash every committed file of a tape and sign the list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import xxhash
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cache_schema import layout, open_tape, takeover
from cache_schema.codecs.files import CHECKSUM
from cache_schema.errors import TapeError, UsageError
from cache_schema.manifest import Quarantined, ShardRecord, parse_line, whole_lines
from cache_schema.seals import Seal, SealedFile, SealWriter, is_manifest, seal_file
from cache_schema.validate.findings import Counting, in_threads
from pipeline.signing.keys import public_of, sign

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file that is to be sealed.

    Attributes:
        path: relative to the tape.
        bytes: how much of it.
        checksum: what the manifest says of it; empty for files no manifest names.
    """

    path: str
    bytes: int
    checksum: str = ""


def seal_tape(root: Path, key: Ed25519PrivateKey | None, counting: Counting) -> tuple[Path, Seal]:
    """Seal everything that is committed by now; return the seal's file, and what it says.

    Args:
        root: the tape.
        key: whose signature it gets; ``None`` for a list that nobody vouches for.
        counting: draws progress.

    Raises:
        TapeError: a file is missing, a link, or not what was committed: nothing is sealed.
        UsageError: not a local directory.
    """
    if "://" in str(root):
        raise UsageError(f"{root}: only a tape on this machine can be sealed")
    root = root.resolve()
    committed = list(_committed(root))  # before the groups: a group is there before its lines
    tape = open_tape(root)
    lone = [layout.DATASET_FILE, *(layout.group_file(group) for group in tape.groups)]
    committed += [Listed(path=name, bytes=(root / name).stat().st_size) for name in lone]
    listed = sorted(committed, key=lambda one: one.path)
    takeover.refuse_links(root, *{f"{layout.SEALS_DIR}/x", *(one.path for one in listed)})
    public = "" if key is None else public_of(key)
    total = sum(one.bytes for one in listed)
    seal = Seal(
        tape=tape.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=len(listed),
        bytes=total,
        public_key=public,
    )
    writer = SealWriter(root, seal)
    try:
        with counting("sealing", total) as count:
            for file in in_threads(lambda one: _hashed(root, one), listed):
                writer.add([file])
                count(file.bytes)
        signature = "" if key is None else sign(key, writer.sha256)
        sha256 = writer.sha256
        writer.sign(signature)
    except BaseException:
        writer.abort()
        raise
    return root / seal_file(public), replace(seal, sha256=sha256, signature=signature)


def _committed(root: Path) -> Iterator[Listed]:
    """Yield the manifests as they are now and the shards that they name, and no others.

    A writer may commit meanwhile: a line under the seal whose files are not would be trusted.
    """
    for file in sorted((root / layout.MANIFEST_DIR).glob("*.jsonl")):
        if file.name.startswith("."):
            continue
        name = f"{layout.MANIFEST_DIR}/{file.name}"
        takeover.refuse_links(root, name)
        end = 0
        for at, line in whole_lines(file.read_bytes()):
            end = at + len(line)
            record = parse_line(line, f"{name} at byte {at}")
            if not isinstance(record, Quarantined):
                yield from _of_shard(root, record)
        yield Listed(path=name, bytes=end)


def _of_shard(root: Path, record: ShardRecord) -> Iterator[Listed]:
    copy, size = f"{record.path}/{layout.SHARD_FILE}", 0
    with suppress(FileNotFoundError):  # told when it is hashed
        size = (root / copy).stat().st_size
    yield Listed(path=copy, bytes=size)
    for name, known in record.files.items():
        yield Listed(path=f"{record.path}/{name}", bytes=known["bytes"], checksum=known[CHECKSUM])


def _hashed(root: Path, listed: Listed) -> SealedFile:
    """Hash a file, and compare it with what was committed.

    Raises:
        TapeError: it is another.
    """
    path = root / listed.path
    if not path.is_file():
        raise TapeError(f"{root}: {listed.path} is missing; nothing was sealed (pipeline verify)")
    size = path.stat().st_size
    if size < listed.bytes or (size > listed.bytes and not is_manifest(listed.path)):
        raise TapeError(
            f"{root}: {listed.path} has {size} bytes, {listed.bytes} were committed; nothing was "
            "sealed (pipeline verify)"
        )
    sha256, checksum = hash_file(path, listed.bytes)
    if listed.checksum and checksum != listed.checksum:
        raise TapeError(
            f"{root}: {listed.path} is damaged (its checksum differs); nothing was sealed "
            "(pipeline verify)"
        )
    return SealedFile(path=listed.path, bytes=listed.bytes, sha256=sha256)


def hash_file(path: Path, size: int) -> tuple[str, str]:
    """Return sha256 and XXH3-128 of the first ``size`` bytes of a file."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    left = size
    with path.open("rb", buffering=0) as file:
        while left and (block := file.read(min(left, _BLOCK))):
            sha256.update(block)
            xxh3.update(block)
            left -= len(block)
    return sha256.hexdigest(), xxh3.hexdigest()
