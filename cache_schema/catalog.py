"""What is on a tape and where: its makers, its manifest and its index, read without any table."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.index.arrays import (
    QUARANTINE_LINE,
    SHARD_LINE,
    Index,
    covered_hash,
    from_file,
)
from cache_schema.index.build import Found, found_in
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
from cache_schema.signals import SCHEMAS, STATES_PROFILES, TOPK_CODECS

_TRIES = 5
"""How often a reader looks for an index that writers keep replacing, before it does without."""


class Catalog:
    """The groups, shards and quarantined samples of a tape as it is now.

    Lines of the manifest that the index covers are parsed when their shard is used; lines added
    since are parsed now, and their shards' ids are added to the index in memory.

    Attributes:
        info: content of ``dataset.json``.
        groups: group -> who made it.
        shards: group -> its committed shards, in the manifest's order.
        index: where every row is.
        has_new_lines: whether the index file is missing or covers only a part.

    Raises:
        TapeError: not a tape of this version, or a part of it is damaged.
    """

    def __init__(self, files: TapeFiles) -> None:
        self.location = files.location
        self._files = files
        self.info = check_format(files.read(layout.DATASET_FILE), self.location)
        # While writers add to the tape, what is read later may be newer: a covered line is in the
        # manifest that is read after the index, and a line's maker was there before the line.
        covered = self._mapped_index()
        self._contents: dict[str, bytes] = {
            name: files.content(name) for name in files.names(layout.MANIFEST_DIR, ".jsonl")
        }
        self.groups: dict[str, GroupInfo] = {}
        for name in files.names(layout.GROUPS_DIR, ".json"):
            info = group_from_json(files.read(name), f"{self.location}/{name}")
            self._check_storage(info)
            self.groups[info.group] = info
        self.index = self._with_new_lines(covered)
        self.has_new_lines = self.index is not covered
        self.shards: dict[str, list[Shard]] = {group: [] for group in self.groups}
        lines = self.index.lines
        self._in_order: list[int] = lines.in_order(self.index.manifests).tolist()
        self._by_line: list[Shard | None] = [None] * len(lines)
        kinds, groups = lines.kind.tolist(), lines.group.tolist()
        for line in self._in_order:
            if kinds[line] == SHARD_LINE:
                shard = Shard(files, functools.partial(self._shard_record, line))
                self._shards_of(self.index.groups[groups[line]]).append(shard)
                self._by_line[line] = shard

    def shard(self, line: int) -> Shard:
        """Return the shard of a manifest line.

        Raises:
            TapeError: the line is of no shard.
        """
        shard = self._by_line[line]
        if shard is None:
            raise TapeError(f"{self.location}: its index takes a line for a shard; delete index/")
        return shard

    @functools.cached_property
    def quarantined(self) -> list[Quarantined]:
        """Samples that could not be recorded."""
        return list(self.each_quarantined())

    def each_quarantined(self) -> Iterator[Quarantined]:
        """Yield the samples that could not be recorded, read from the manifest one at a time."""
        for line in self._in_order:
            if self.index.lines.kind[line] == QUARANTINE_LINE:
                record = self._record(line)
                if not isinstance(record, Quarantined):
                    raise TapeError(f"{self.location}: its index is of another manifest")
                yield record

    def _check_storage(self, info: GroupInfo) -> None:
        """Refuse forms of storage that this release does not know."""
        for signal, fact, known in (
            ("hidden", "profile", STATES_PROFILES),
            ("topk", "codec", TOPK_CODECS),
            ("lens", "codec", TOPK_CODECS),
        ):
            form = info.signals.get(signal, {}).get(fact, known[0])
            if form not in known:
                raise TapeError(
                    f"{self.location}: {info.group}/{signal} has {fact} {form!r}, this software "
                    f"knows {', '.join(known)}; install a newer teachertape"
                )

    def _shards_of(self, group: str) -> list[Shard]:
        if group not in self.shards:
            raise TapeError(f"{self.location}: group {group!r} has no maker's file")
        return self.shards[group]

    def _mapped_index(self) -> Index | None:
        """Return the index file's content, if there is a file that names what it covers."""
        for _ in range(_TRIES):
            names = list(self._files.names(layout.INDEX_DIR, ".arrow"))
            if not names:
                return None
            try:
                record = {"bytes": self._files.size(names[0]), CHECKSUM: Path(names[0]).stem}
                index = from_file(self._files.local(names[0], record))
            except (FileNotFoundError, TapeError):
                if self._files.exists(names[0]):
                    raise
            else:
                return index if index.is_bound else None
            # a writer replaced it after it was listed
        return None

    def _with_new_lines(self, covered: Index | None) -> Index:
        """Return the index with the manifest lines it does not cover."""
        known = {} if covered is None else covered.manifests
        for manifest, size in known.items():
            if len(self._contents.get(manifest, b"")) < size:
                raise TapeError(
                    f"{self.location}: {manifest} is shorter than when it was indexed; it was "
                    "cut (pipeline verify tells what is left)"
                )
            if covered is not None and covered.hashes[manifest] != covered_hash(
                self._contents[manifest], size
            ):
                raise TapeError(
                    f"{self.location}: its index is of another {manifest}; delete index/, it is "
                    "only a cache"
                )
        new = [
            (name, at, line)
            for name, content in self._contents.items()
            for at, line in whole_lines(content, known.get(name, 0))
        ]
        if covered is not None and not new:
            return covered
        found = Found() if covered is None else found_in(covered)
        for name, at, line in new:
            self._add(found, name, at, line)
        index = found.index(functools.partial(self._same_sample, found), last=True)
        hashes = {
            name: covered_hash(self._contents[name], size) for name, size in found.manifests.items()
        }
        return replace(index, hashes=hashes)

    def _add(self, found: Found, name: str, at: int, line: bytes) -> None:
        where = f"{self.location}/{name} at byte {at}"
        record = parse_line(line, where)
        kind = QUARANTINE_LINE if isinstance(record, Quarantined) else SHARD_LINE
        number = found.add_line(name, at, len(line), kind, record.group)
        if isinstance(record, Quarantined):
            return
        self._check_maker(record)
        shard = Shard(self._files, lambda: record)
        for table in record.rows:
            if table in SCHEMAS and table != "audio":
                where = f"{self.location}: {record.path}/{table}"
                found.add_table(record.group, table, number, shard.table(table), where)

    def _check_maker(self, record: ShardRecord) -> None:
        if record.group not in self.groups:
            raise TapeError(f"{self.location}: group {record.group!r} has no maker's file")
        if record.fingerprint != self.groups[record.group].fingerprint:
            raise TapeError(f"{self.location}: {record.path} was recorded by another maker")

    def _record(self, line: int) -> ShardRecord | Quarantined:
        lines = self.index.lines
        manifest = list(self.index.manifests)[int(lines.file[line])]
        start = int(lines.offset[line])
        content = self._contents[manifest][start : start + int(lines.length[line])]
        return parse_line(content, f"{self.location}/{manifest} at byte {start}")

    def _shard_record(self, line: int) -> ShardRecord:
        record = self._record(line)
        group = self.index.groups[int(self.index.lines.group[line])]
        if not isinstance(record, ShardRecord) or record.group != group:
            raise TapeError(f"{self.location}: its index is of another manifest; delete index/")
        self._check_maker(record)
        return record

    def _same_sample(self, found: Found, first: tuple[int, int], second: tuple[int, int]) -> bool:
        """Whether two rows of ``samples``, each (line, row), hold the same sample."""
        return self._content(found, *first) == self._content(found, *second)

    def _content(self, found: Found, line: int, row: int) -> dict[str, object]:
        file, start, length, *_ = found.lines[line]
        manifest = list(found.manifests)[file]
        where = f"{self.location}/{manifest} at byte {start}"
        record = parse_line(self._contents[manifest][start : start + length], where)
        assert isinstance(record, ShardRecord)
        values = Shard(self._files, lambda: record).row("samples", row)
        return {name: value for name, value in values.items() if name != "row_index"}
