"""Checking a tape file by file: seals, the manifest, what it names, and what nothing names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache_schema import layout, takeover
from cache_schema.codecs.files import CHECKSUM
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.maker import (
    GroupInfo,
    check_format,
    group_from_json,
)
from cache_schema.manifest import (
    Quarantined,
    ShardRecord,
    parse_line,
    whole_lines,
)
from cache_schema.signals import GROUP_TABLES, SCHEMAS
from cache_schema.validate.findings import Counting, Findings, in_threads


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the manifest; ``record`` is ``None`` where it is damaged."""

    manifest: str
    offset: int
    content: bytes
    record: ShardRecord | Quarantined | None


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What could be read of a tape's metadata.

    Attributes:
        files: its files.
        groups: group -> who made it.
        sizes: manifest file -> its bytes.
        lines: every line of the manifest, file by file.
        shards: path -> the shard; of a path named twice the first.
    """

    files: TapeFiles
    groups: dict[str, GroupInfo] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    shards: dict[str, Shard] = field(default_factory=dict)


def check_files(root: Path, found: Findings, counting: Counting) -> Contents:
    """Check everything but what is inside the tables and arrays."""
    contents = Contents(files=TapeFiles(str(root)))
    names = sorted(_walk(root, "", found))  # before the manifest: what is named later is not lost
    with found.checking(layout.DATASET_FILE, "dataset.json"):
        check_format(contents.files.read(layout.DATASET_FILE), str(root))
    for name in contents.files.names(layout.GROUPS_DIR, ".json"):
        with found.checking(name, "group file"):
            info = group_from_json(contents.files.read(name), f"{root}/{name}")
            contents.groups[info.group] = info
    for name in contents.files.names(layout.MANIFEST_DIR, ".jsonl"):
        with found.checking(name, "manifest"):
            _read_manifest(root, name, contents, found)
    for shard in contents.shards.values():
        _check_record(shard.record, contents.groups, found)
    _check_unnamed(root, names, contents, found)
    _check_named(root, contents, found, counting)
    return contents


def _walk(root: Path, folder: str, found: Findings) -> Iterator[str]:
    """Yield every file below a folder, and every folder where a shard may be; links are told."""
    listed = []
    try:
        with os.scandir(root / folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:  # a writer put it in its place, or removed it, meanwhile
        return
    except OSError as error:
        found.add(folder, "unreadable", str(error))
    for entry in listed:
        name = f"{folder}/{entry.name}".lstrip("/")
        if entry.is_symlink():
            found.broken.add(name)
            found.add(name, "link", "a link; a tape holds plain files only")
        elif entry.is_dir(follow_symlinks=False):
            shard = layout.IN_SHARD.fullmatch(name) or layout.IN_UNFINISHED.fullmatch(name)
            if shard is not None and shard[3] is None:
                yield name
            yield from _walk(root, name, found)
        elif entry.is_file(follow_symlinks=False):
            yield name
        else:
            found.add(name, "not a file", "neither a file nor a folder")


def _read_manifest(root: Path, name: str, contents: Contents, found: Findings) -> None:
    content = contents.files.content(name)
    contents.sizes[name] = len(content)
    end = 0
    for offset, line in whole_lines(content):
        end = offset + len(line)
        where = f"{name} at byte {offset}"
        record = None
        with found.checking(where, "manifest line"):
            record = parse_line(line, where)
        contents.lines.append(Line(manifest=name, offset=offset, content=line, record=record))
        if not isinstance(record, ShardRecord):
            continue
        if record.path in contents.shards:
            found.add(where, "named twice", f"{record.path} is named by another line too")
            continue
        contents.shards[record.path] = Shard.of(contents.files, record)
        if Path(record.path).name.rpartition("-")[0] != Path(name).stem:
            found.add(where, "manifest line", f"{record.path} is a shard of another writer")
        _check_shard_file(root, record.path, line, found)
    if end != len(content):
        cut = f"its last {len(content) - end} bytes are no whole line"
        if _is_held(root, Path(name).stem):
            found.note(name, "being written", cut)
        else:
            found.add(name, "cut line", f"{cut}; its writer removes them when it is continued")


def _is_held(root: Path, writer: str) -> bool:
    """Whether a writer is open; not where locks, or this one, cannot be asked for."""
    try:
        return takeover.is_held(root / layout.lock_file(writer))
    except OSError:
        return False


def _check_shard_file(root: Path, path: str, line: bytes, found: Findings) -> None:
    name = f"{path}/{layout.SHARD_FILE}"
    file = root / name
    if not file.is_file():
        found.add(name, "missing", "the shard's copy of its manifest line is missing")
    elif file.stat().st_size != len(line) or file.read_bytes() != line:
        found.add(name, "shard.json", "differs from the shard's manifest line")


def _check_record(record: ShardRecord, groups: Mapping[str, GroupInfo], found: Findings) -> None:
    """Compare what a line says with the group's maker."""
    info = groups.get(record.group)
    if info is None:
        found.add(record.path, "maker", f"group {record.group!r} has no sound maker's file")
        return
    if record.fingerprint != info.fingerprint:
        found.add(record.path, "maker", "recorded by another maker than its group's")
    if unknown := sorted(record.rows.keys() - SCHEMAS.keys()):
        found.note(record.path, "tables", f"{unknown} of a later release: only their checksums")
    if foreign := sorted(record.rows.keys() & SCHEMAS.keys() - set(GROUP_TABLES[info.kind])):
        found.add(record.path, "tables", f"a group of kind {info.kind!r} holds no {foreign}")


def _check_unnamed(root: Path, names: list[str], contents: Contents, found: Findings) -> None:
    """Tell shards and files that nothing names, each once."""
    told: set[str] = set()
    for name in names:
        unfinished, shard = layout.IN_UNFINISHED.fullmatch(name), layout.IN_SHARD.fullmatch(name)
        if shard is not None and shard[1] in contents.shards:
            known = {*contents.shards[shard[1]].record.files, layout.SHARD_FILE}
            if shard[3] and shard[3][1:] not in known:
                found.add(name, "unnamed", "its shard's manifest line does not name this file")
        elif part := unfinished or shard:
            if part[1] not in told:
                _tell_uncommitted(root, part[1], part[2], unfinished is not None, found)
            told.add(part[1])
        elif name.startswith(f"{layout.LEASES_DIR}/"):
            if layout.LEASES_DIR not in told:
                found.note(layout.LEASES_DIR, "leases", "of workers that share out rows")
            told.add(layout.LEASES_DIR)
        elif layout.LEFTOVER.fullmatch(name):
            found.note(name, "leftover", "of a killed run; it can be removed")
        elif not layout.OUTSIDE_SHARDS.fullmatch(name):
            found.add(name, "unnamed", "nothing on a tape is called this")


def _tell_uncommitted(
    root: Path, folder: str, writer: str, unfinished: bool, found: Findings
) -> None:
    """Tell of a shard's folder that no manifest line names."""
    if _is_held(root, writer):
        found.note(folder, "being written", f"by writer {writer!r}")
    elif unfinished:
        found.note(folder, "unfinished", "of a killed run; removed when it is continued")
    else:
        found.add(folder, "orphan", "a shard that no manifest line names")


def _check_named(root: Path, contents: Contents, found: Findings, counting: Counting) -> None:
    """Compare size and checksum of every file that the manifest names."""
    records = [shard.record for shard in contents.shards.values()]
    total = sum(file["bytes"] for record in records for file in record.files.values())

    def check(item: tuple[str, Mapping[str, Any]]) -> tuple[str, int, str, str]:
        name, file = item
        return name, file["bytes"], *_damage(root, contents.files, name, file)

    with counting("checksums", total) as count:
        named = (
            (f"{record.path}/{name}", file)
            for record in records
            for name, file in sorted(record.files.items())
        )
        for name, size, kind, message in in_threads(check, named):
            found.files += 1
            found.bytes += size
            count(size)
            if kind and name not in found.broken:
                found.add(name, kind, message)
            if kind:
                found.broken.add(name)


def _damage(root: Path, files: TapeFiles, name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Return kind and message of what is wrong with a file, two empty strings if nothing is."""
    try:
        status = (root / name).lstat()
        if not stat.S_ISREG(status.st_mode):
            return "not a file", "not a plain file"
        if status.st_size != record["bytes"]:
            return "size", f"{status.st_size} bytes, {record['bytes']} were committed"
        files.local(name, record)
    except FileNotFoundError:
        return "missing", "named by the manifest, and not there"
    except TapeError:
        if (root / name).resolve() != root / name:
            return "link", "behind a link; a tape holds plain files only"
        return "checksum", f"its {CHECKSUM} is not {record[CHECKSUM]}, as committed"
    except OSError as error:
        return "unreadable", str(error)
    return "", ""
