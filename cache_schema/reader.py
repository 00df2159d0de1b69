"""The reader: ``open_tape``, samples by id, signals joined by id."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache_schema import layout
from cache_schema.committed import Shard
from cache_schema.errors import TapeError, UnknownSampleError, nearest
from cache_schema.files import TapeFiles
from cache_schema.fingerprint import fingerprint
from cache_schema.manifest import (
    GroupInfo,
    Quarantined,
    check_format,
    group_from_json,
    parse_lines,
)
from cache_schema.row import TapeRow
from cache_schema.signals import GROUP_TABLES

Key = tuple[str, int]


def open_tape(location: str | Path) -> Tape:
    """Open a tape for reading.

    Args:
        location: local path or fsspec URL.

    Raises:
        TapeError: nothing is there, or it is not a tape of this version.
    """
    files = TapeFiles(str(location))
    if not files.exists(layout.DATASET_FILE):
        raise TapeError(
            f"{location}: no tape here ({layout.DATASET_FILE} is missing); "
            "make one with 'pipeline extract-teachers --out'"
        )
    return Tape(files)


class Tape:
    """A tape open for reading: a mapping from sample id to ``TapeRow``."""

    def __init__(self, files: TapeFiles) -> None:
        self.location = files.location
        self.info = check_format(files.read(layout.DATASET_FILE), self.location)
        self.groups: dict[str, GroupInfo] = {}
        for name in files.names(layout.GROUPS_DIR, ".json"):
            group = group_from_json(files.read(name))
            if name != layout.group_file(group.group):
                raise TapeError(f"{self.location}: {name} is the file of group {group.group!r}")
            self.groups[group.group] = group
        self.shards: dict[str, list[Shard]] = {group: [] for group in self.groups}
        self.quarantined: list[Quarantined] = []
        self._indexes: dict[tuple[str, str], dict[Key, tuple[Shard, int]]] = {}
        for name in files.names(layout.MANIFEST_DIR, ".jsonl"):
            lines = files.read(name).splitlines(keepends=True)
            for record in parse_lines(lines, f"{self.location}/{name}"):
                if isinstance(record, Quarantined):
                    self.quarantined.append(record)
                elif record.group not in self.shards:
                    raise TapeError(f"{self.location}: group {record.group!r} has no maker's file")
                else:
                    self.shards[record.group].append(Shard(files, record))

    @functools.cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """Ids in the dataset's order."""
        return tuple(self._samples)

    @functools.cached_property
    def _samples(self) -> dict[str, tuple[Shard, int]]:
        rows = []
        for shard in self.shards.get("samples", []):
            table = shard.table("samples")
            ids, order = (
                table.column("sample_id").to_pylist(),
                table.column("row_index").to_pylist(),
            )
            rows += [(order[i], ids[i], shard, i) for i in range(len(ids))]
        rows.sort(key=lambda row: row[0])
        return {sample_id: (shard, index) for _, sample_id, shard, index in rows}

    def index(self, group: str, table: str) -> dict[Key, tuple[Shard, int]]:
        """Return (sample id, trace index) -> place of every row of a group's table."""
        if (group, table) not in self._indexes:
            found: dict[Key, tuple[Shard, int]] = {}
            for shard in self.shards.get(group, []):
                if table not in shard.record.rows:
                    continue
                columns = shard.table(table)
                ids = columns.column("sample_id").to_pylist()
                numbered = "trace_index" in columns.column_names
                traces = columns.column("trace_index").to_pylist() if numbered else [0] * len(ids)
                found |= {key: (shard, i) for i, key in enumerate(zip(ids, traces, strict=True))}
            self._indexes[group, table] = found
        return self._indexes[group, table]

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Source -> what is known of its teacher and signals."""
        return {
            name: {**group.notes, **group.identity, "signals": dict(group.signals)}
            for name, group in self.groups.items()
            if group.signals
        }

    @property
    def signals(self) -> tuple[str, ...]:
        """Recorded signals as ``source/signal``, sorted."""
        return tuple(
            sorted(f"{name}/{s}" for name, group in self.groups.items() for s in group.signals)
        )

    @property
    def fingerprint(self) -> str:
        """One hash over who made every group."""
        return fingerprint({name: group.fingerprint for name, group in self.groups.items()})

    def recorded(self, group: str) -> set[str]:
        """Ids of the samples a group has recorded."""
        if group == "samples":
            return set(self._samples)
        tables = GROUP_TABLES[self.groups[group].kind] if group in self.groups else ()
        return {sample_id for table in tables for sample_id, _ in self.index(group, table)}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __iter__(self) -> Iterator[TapeRow]:
        """Iterate the rows in the dataset's order."""
        return (self[sample_id] for sample_id in self.sample_ids)

    def __contains__(self, sample_id: object) -> bool:
        """Whether the tape has this sample."""
        return sample_id in self._samples

    def __getitem__(self, sample_id: str) -> TapeRow:
        """Return one sample, lazily.

        Raises:
            UnknownSampleError: a ``KeyError`` naming near ids.
        """
        if sample_id not in self._samples:
            raise UnknownSampleError(
                f"no sample {sample_id!r} on {self.location} ({len(self)} samples)"
                f"{nearest(str(sample_id), self._samples)}"
            )
        return TapeRow(self, sample_id, *self._samples[sample_id])
