"""What a tape is made of, as bytes: its files of metadata, its lines, and the shards they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cache_schema import layout
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.maker import GroupInfo, check_format, group_from_json
from cache_schema.manifest import Quarantined, ShardRecord, parse_line, whole_lines
from cache_schema.signals import FIRST_GROUPS


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a manifest, read and as it is."""

    content: bytes
    record: ShardRecord | Quarantined


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A tape's metadata, as it was when it was read.

    Attributes:
        files: the tape's files.
        dataset: ``dataset.json``.
        licence: what it may be used for.
        groups: group -> its maker.
        group_files: group -> the file that says so.
        lines: manifest file -> its whole lines, in order.
    """

    files: TapeFiles
    dataset: bytes
    licence: str
    groups: Mapping[str, GroupInfo]
    group_files: Mapping[str, bytes]
    lines: Mapping[str, list[Line]]

    def shards(self) -> Iterator[tuple[str, Line, ShardRecord]]:
        """Yield (manifest, line, record) of every shard, samples first, then in order."""
        for first in (True, False):
            for manifest, lines in self.lines.items():
                for line in lines:
                    if (
                        isinstance(line.record, ShardRecord)
                        and (line.record.group in FIRST_GROUPS) is first
                    ):
                        yield manifest, line, line.record


def read_contents(location: str | Path) -> Contents:
    """Read the metadata of a tape, in an order that suits one that grows meanwhile.

    Raises:
        TapeError: it is no tape, or its metadata is damaged.
    """
    files = TapeFiles(str(location))
    if not files.exists(layout.DATASET_FILE):
        raise TapeError(f"{location}: no tape here ({layout.DATASET_FILE} is missing)")
    dataset = files.read(layout.DATASET_FILE)
    licence = str(check_format(dataset, str(location))["licence"])
    manifests = {name: files.content(name) for name in files.names(layout.MANIFEST_DIR, ".jsonl")}
    group_files = {}
    groups = {}
    for name in files.names(layout.GROUPS_DIR, ".json"):
        content = files.read(name)
        info = group_from_json(content, f"{location}/{name}")
        groups[info.group], group_files[info.group] = info, content
    lines = {name: _lines(content, f"{location}/{name}") for name, content in manifests.items()}
    for name, known in lines.items():
        for line in known:
            _refuse_foreign(line.record, groups, f"{location}/{name}")
    return Contents(
        files=files,
        dataset=dataset,
        licence=licence,
        groups=groups,
        group_files=group_files,
        lines=lines,
    )


def _lines(content: bytes, where: str) -> list[Line]:
    return [
        Line(content=line, record=parse_line(line, f"{where} at byte {at}"))
        for at, line in whole_lines(content)
    ]


def _refuse_foreign(
    record: ShardRecord | Quarantined, groups: Mapping[str, GroupInfo], where: str
) -> None:
    """Refuse lines of a maker that the tape does not name: a manifest of another tape."""
    info = groups.get(record.group)
    if info is None:
        raise TapeError(f"{where}: group {record.group!r} has no maker's file")
    if isinstance(record, ShardRecord) and record.fingerprint != info.fingerprint:
        raise TapeError(
            f"{where}: {record.path} was recorded by another maker than its group's; the manifest "
            "is another tape's"
        )
