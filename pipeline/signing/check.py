"""``pipeline verify --signed``: is this the tape that was sealed, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema import layout
from cache_schema.files import TapeFiles
from cache_schema.fingerprint import fingerprint
from cache_schema.maker import group_from_json
from cache_schema.seals import (
    Seal,
    SealedFile,
    is_manifest,
    key_id,
    read_seal,
    seal_file,
    sealed_files,
)
from cache_schema.validate.findings import Counting, Findings, in_threads
from pipeline.signing.growth import Added, added_since, check_lines, check_repeats
from pipeline.signing.keys import is_signed
from pipeline.signing.make import hash_file


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A seal that was checked.

    Attributes:
        file: where it is, relative to the tape.
        seal: what it says.
        trusted: whether it is by the key that was asked for.
        intact: whether everything it lists is as it was.
        added: what came since.
    """

    file: str
    seal: Seal
    trusted: bool
    intact: bool
    added: Added


def check_signed(
    location: str, found: Findings, counting: Counting, public_key: str, *, grown: bool
) -> list[Signed]:
    """Check the seals of a tape; every problem goes to ``found``.

    Kinds of problems: ``signature`` (none, wrong, or another key's), ``seal`` (damaged, of another
    tape, or without files of a shard), ``changed``, ``cut`` and ``missing`` (files it lists),
    ``grown`` (what it does not list), ``recorded again`` (what was added would be read in the place
    of what was sealed).

    Args:
        location: the tape's directory.
        found: where problems and notes go.
        counting: draws progress.
        public_key: whose seal is asked for, 64 digits; empty for any key's.
        grown: accept what was added since, if nothing that was sealed is read otherwise for it.

    Returns:
        The signed seals whose signature is right.
    """
    root = Path(location).resolve()
    checked = []
    for name in _wanted(root, found, public_key):
        with found.checking(name, "seal"):
            seal = read_seal(root / name)
            if _is_by(name, seal, found, public_key):
                checked.append(_check(root, name, seal, found, counting, bool(public_key), grown))
    return checked


def _wanted(root: Path, found: Findings, public_key: str) -> list[str]:
    """Return the seals to look at; tell why there are none."""
    if (root / layout.SEALS_DIR).is_symlink():
        found.add(layout.SEALS_DIR, "signature", "a link; a tape holds plain files only")
        return []
    there = sorted(
        f"{layout.SEALS_DIR}/{path.name}" for path in (root / layout.SEALS_DIR).glob("*.jsonl")
    )
    unsigned = seal_file("")
    signed = [name for name in there if name != unsigned]
    if public_key:
        wanted = seal_file(public_key)
        if wanted in there:
            return [wanted]
        others = ", ".join(Path(name).stem for name in signed)
        why = f"only by {others}" if signed else "by nobody"
        found.add(wanted, "signature", f"not signed by key {key_id(public_key)}, {why}")
        return []
    if not signed:
        sealed = "sealed, but " if unsigned in there else ""
        hint = "its owner signs it with pipeline seal --key FILE"
        found.add(layout.SEALS_DIR, "signature", f"{sealed}not signed by anybody; {hint}")
    return signed


def _is_by(name: str, seal: Seal, found: Findings, public_key: str) -> bool:
    """Whether a seal is signed, by the key it is named after and the one that is asked for."""
    if not seal.public_key or not seal.signature:
        found.add(name, "signature", "the list is there, and the signature is missing")
    elif name != seal_file(seal.public_key) or (public_key and seal.public_key != public_key):
        found.add(
            name,
            "signature",
            f"it was put in the place of another: it is of key {key_id(seal.public_key)}",
        )
    elif not is_signed(seal.public_key, seal.signature, seal.sha256):
        found.add(name, "signature", f"wrong: key {key_id(seal.public_key)} did not sign this list")
    else:
        return True
    return False


def _check(
    root: Path,
    name: str,
    seal: Seal,
    found: Findings,
    counting: Counting,
    trusted: bool,
    grown: bool,
) -> Signed:
    """Compare the tape with the list of a seal whose signature is right."""
    before = found.count
    known: dict[str, int] = {}
    with counting("signed files", seal.bytes) as count:
        for sealed, kind, told in in_threads(
            lambda one: (one, *_damage(root, one)), sealed_files(root / name)
        ):
            known[sealed.path] = sealed.bytes
            count(sealed.bytes)
            if kind:
                found.add(sealed.path, kind, told)
    with found.checking(name, "seal"):
        if seal.tape != _fingerprint(root, known):
            found.add(name, "seal", "it is of another tape: its fingerprint differs")
    check_lines(root, known, found)
    intact = found.count == before
    added = added_since(root, known)
    if added:
        part = "the sealed part is intact" if intact else "the sealed part is not intact either"
        told = f"{part}; added since, and vouched for by nobody: {added}"
        if grown:
            found.note(name, "grown", told)
        else:
            found.add(name, "grown", f"{told}. --grown accepts that; pipeline seal --key covers it")
        check_repeats(root, known, added, found)
    return Signed(file=name, seal=seal, trusted=trusted, intact=intact, added=added)


def _damage(root: Path, sealed: SealedFile) -> tuple[str, str]:
    """Return kind and message of what is wrong with a file, two empty strings if nothing is."""
    path = root / sealed.path
    try:
        if path.resolve() != path:
            return "changed", "a link; a tape holds plain files only"
        if not path.is_file():
            return "missing", "sealed, and not there"
        size = path.stat().st_size
        if is_manifest(sealed.path) and size < sealed.bytes:
            return "cut", f"{size} bytes, {sealed.bytes} were sealed"
        if not is_manifest(sealed.path) and size != sealed.bytes:
            return "changed", f"{size} bytes, {sealed.bytes} were sealed"
        if hash_file(path, sealed.bytes)[0] != sealed.sha256:
            return "changed", "its sha256 is not the one that was sealed"
    except OSError as error:
        return "unreadable", str(error)
    return "", ""


def _fingerprint(root: Path, known: Mapping[str, int]) -> str:
    """Return the fingerprint of the tape as the sealed groups make it."""
    groups = {}
    for path in known:
        if path.startswith(f"{layout.GROUPS_DIR}/") and (root / path).is_file():
            info = group_from_json(TapeFiles(str(root)).read(path), path)
            groups[info.group] = info.fingerprint
    return fingerprint(groups)


def values_of(checked: list[Signed]) -> list[dict[str, Any]]:
    """Return what is said of the seals that were checked as JSON values."""
    return [
        {
            "seal": one.file,
            "key_id": key_id(one.seal.public_key),
            "public_key": one.seal.public_key,
            "trusted": one.trusted,
            "created": one.seal.created,
            "files": one.seal.files,
            "intact": one.intact,
            "added": {
                "shards": len(one.added.shards),
                "quarantined": one.added.quarantined,
                "groups": one.added.groups,
            },
        }
        for one in checked
    ]
