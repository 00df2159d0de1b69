"""The manifest: what is committed, a JSON line each; a shard not named here does not exist."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM, sync_dir
from cache_schema.errors import ProvenanceError, TapeError
from cache_schema.fingerprint import fingerprint
from cache_schema.signals import FORMAT_NAME, FORMAT_VERSION, GROUP_TABLES


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One committed shard.

    Attributes:
        group: ``samples``, ``descriptions`` or a source.
        path: directory, relative to the tape.
        samples: number of samples in it.
        positions: number of rows of its layer arrays.
        rows: table -> number of rows.
        layers: layers recorded in it.
        files: file -> ``{"bytes": n, "xxh3_128": hex}``.
    """

    group: str
    path: str
    samples: int
    positions: int
    rows: Mapping[str, int]
    layers: tuple[int, ...]
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """One sample a group could not record, and why."""

    group: str
    sample_id: str
    row_index: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class GroupInfo:
    """Who made a group.

    Attributes:
        group: its name.
        kind: ``samples``, ``descriptions``, ``textual`` or ``acoustic``.
        signals: signal -> facts about it (``layers``, ``width``, ``dtype``, ``k``, ...).
        identity: what must be equal for more to be added: model, tokenizer, prompt, dtype, ...
        notes: what may differ: names, versions of tools, dates.
    """

    group: str
    kind: str
    signals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that must be equal."""
        return fingerprint({"signals": self.signals, "identity": self.identity})

    def to_json(self) -> bytes:
        """Return the group's file."""
        content = {**asdict(self), "fingerprint": self.fingerprint}
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def group_from_json(content: bytes) -> GroupInfo:
    """Read a group's file, checking its fingerprint."""
    try:
        values = json.loads(content)
        recorded = values.pop("fingerprint")
        info = GroupInfo(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TapeError(f"not the file of a group ({error})") from error
    if info.fingerprint != recorded:
        raise TapeError(f"group {info.group!r}: its file was changed after it was written")
    if info.kind not in GROUP_TABLES:
        raise TapeError(f"group {info.group!r}: unknown kind {info.kind!r}")
    return info


def refuse_other_maker(recorded: GroupInfo, offered: GroupInfo) -> None:
    """Refuse to mix signals of different makers.

    Raises:
        ProvenanceError: naming each field that differs.
    """
    old = {**recorded.identity, **{f"signal {k}": v for k, v in recorded.signals.items()}}
    new = {**offered.identity, **{f"signal {k}": v for k, v in offered.signals.items()}}
    new = json.loads(json.dumps(new))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        lines = "\n".join(f"  {k}: tape {old.get(k)!r}, now {new.get(k)!r}" for k in differing)
        raise ProvenanceError(
            f"{recorded.group!r} was recorded differently:\n{lines}\n"
            "Use the same settings to continue, or another --out."
        )


def dataset_json(licence: str) -> bytes:
    """Return ``dataset.json``."""
    content = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "licence": licence}
    return (json.dumps(content, indent=2) + "\n").encode()


def check_format(content: bytes, where: str) -> dict[str, Any]:
    """Read ``dataset.json``, refusing what is not a tape of this version."""
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        raise TapeError(f"{where}: dataset.json is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT_NAME:
        raise TapeError(f"{where}: not a tape (dataset.json does not say {FORMAT_NAME!r})")
    if values.get("version") != FORMAT_VERSION:
        raise TapeError(
            f"{where}: tape version {values.get('version')!r}, this software reads "
            f"{FORMAT_VERSION}; install a matching teachertape"
        )
    return values


def append_line(path: Path, kind: str, record: ShardRecord | Quarantined) -> None:
    """Append one line durably; this is the moment a shard begins to exist."""
    line = json.dumps({"type": kind, **asdict(record)}, ensure_ascii=False) + "\n"
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        data = line.encode()
        if os.write(descriptor, data) != len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        sync_dir(path.parent)


def drop_cut_line(path: Path) -> None:
    """Remove a last line that a crash cut short, so that the next one starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.truncate(path, whole)


def parse_lines(lines: Iterable[bytes], where: str) -> list[ShardRecord | Quarantined]:
    """Read manifest lines; a last line cut by a crash is not yet a line and is left out."""
    records: list[ShardRecord | Quarantined] = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            continue
        try:
            values = json.loads(line)
            kind = values.pop("type")
            if kind == "shard":
                values["layers"] = tuple(values["layers"])
                records.append(_checked(ShardRecord(**values)))
            elif kind == "quarantine":
                records.append(Quarantined(**values))
            else:
                raise TapeError(f"{where}:{number}: unknown line type {kind!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TapeError(f"{where}:{number}: not a manifest line ({error})") from error
    return records


def _checked(record: ShardRecord) -> ShardRecord:
    """Refuse names that lead out of the tape: a tape from anyone must be safe to open."""
    expected = layout.SHARD_PATH.fullmatch(record.path)
    if expected is None or expected["group"] != record.group:
        raise ValueError(f"{record.path!r} is not a shard of group {record.group!r}")
    for name, file in record.files.items():
        if not layout.SHARD_FILE_NAME.fullmatch(name) or ".." in name:
            raise ValueError(f"{name!r} is not a file of a shard")
        if not isinstance(file["bytes"], int) or not isinstance(file[CHECKSUM], str):
            raise TypeError(f"{name!r} has no size or checksum")
    return record
