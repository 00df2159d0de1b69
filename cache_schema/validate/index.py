"""Checking the index against one rebuilt from the manifest and the tables' id columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM
from cache_schema.errors import TapeError
from cache_schema.index.arrays import (
    QUARANTINE_LINE,
    SHARD_LINE,
    TRACE_BITS,
    Index,
    covered_hash,
    from_file,
    hash_of,
)
from cache_schema.index.build import Found
from cache_schema.index.table_rows import room_for
from cache_schema.manifest import ShardRecord
from cache_schema.signals import SCHEMAS
from cache_schema.validate.files import Contents, Line
from cache_schema.validate.findings import Findings


class Rebuilt:
    """The index of everything that can be read, built line by line.

    Attributes:
        lines: the manifest's lines in the order they were added.
        skipped: (group, table) of what had to be left out; an unknown line is ``("", "")``.
    """

    def __init__(self, contents: Contents, findings: Findings) -> None:
        self.lines: list[Line] = []
        self.skipped: set[tuple[str, str]] = set()
        self._contents = contents
        self._findings = findings
        self._found = Found()

    def add(self, line: Line) -> None:
        """Add a line and its shard's rows."""
        record = line.record
        if record is None:
            self.skipped.add(("", ""))
            return
        kind = SHARD_LINE if isinstance(record, ShardRecord) else QUARANTINE_LINE
        size = len(line.content)
        number = self._found.add_line(line.manifest, line.offset, size, kind, record.group)
        self.lines.append(line)
        if not isinstance(record, ShardRecord):
            return
        shard = self._contents.shards[record.path]
        for table in record.rows:
            if table not in SCHEMAS or table == "audio":
                continue
            file = f"{record.path}/{layout.table_file(table)}"
            where = (record.group, table)
            if file in self._findings.broken:
                self.skipped.add(where)
                continue
            try:
                content = shard.table(table)
            except TapeError as error:
                self.skipped.add(where)
                self._findings.broken.add(file)
                self._findings.add(file, "table", str(error))
                continue
            try:
                self._found.add_table(*where, number, content, "its rows")
            except TapeError as error:
                self.skipped.add(where)
                self._findings.add(file, "table", str(error))

    def lacks(self, group: str, table: str) -> bool:
        """Whether rows of a table may be missing here because they could not be read."""
        return not self.skipped.isdisjoint({(group, table), ("", "")})

    def index(self) -> Index:
        """Return the index of the lines added; rows recorded twice are left out silently."""
        self._found.duplicates = 0
        return self._found.index(lambda _first, _second: True)

    def repeated(self) -> Iterator[tuple[str, str, int, Line, Line, tuple[int, int]]]:
        """Yield (table, sample id, trace index, first line, later line, their rows)."""
        known = self._found.as_lines()
        age = np.empty(len(known), dtype=np.int64)
        age[known.in_order(self._found.manifests)] = np.arange(len(known))
        for (_, table), found in self._found.rows.items():
            keys, lines, rows = whole = room_for(len(found))
            found.write(whole)
            order = np.lexsort((age[lines], keys))
            first = -1
            for at in np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1:
                one, two = order[at - 1], order[at]
                if first < 0 or keys[first] != keys[one]:
                    first = int(one)
                yield (
                    table,
                    self._found.ids[int(keys[two]) >> TRACE_BITS],
                    int(keys[two] & np.uint64((1 << TRACE_BITS) - 1)) - 1,
                    self.lines[int(lines[first])],
                    self.lines[int(lines[two])],
                    (int(rows[first]), int(rows[two])),
                )


def check_index(contents: Contents, findings: Findings) -> tuple[Rebuilt, Index]:
    """Rebuild the index, comparing it with the file where there is one."""
    rebuilt = Rebuilt(contents, findings)
    names = list(contents.files.names(layout.INDEX_DIR, ".arrow"))
    index = None
    for name in names:
        with findings.checking(name, "index"):
            index = _index_file(contents, name, findings) if name == names[0] else index
        if name != names[0]:
            findings.note(name, "leftover", "a second index; the next writer removes it")
    order = None if index is None else _covered(index, contents, names[0], findings)
    covered = order or []
    for line in covered:
        rebuilt.add(line)
    if index is not None and order is not None:
        if not rebuilt.skipped:
            for difference in differences(index, rebuilt.index()):
                findings.add(names[0], "index", f"{difference}; delete index/, it is a cache")
        else:
            findings.note(names[0], "index", "not compared: what it is made from is damaged")
    known = {(line.manifest, line.offset) for line in covered}
    for line in contents.lines:
        if (line.manifest, line.offset) not in known:
            rebuilt.add(line)
    return rebuilt, rebuilt.index()


def _index_file(contents: Contents, name: str, findings: Findings) -> Index | None:
    """Return an index file's content; ``None`` if it is newer than what was read before it."""
    try:
        record = {"bytes": contents.files.size(name), CHECKSUM: Path(name).stem}
        index = from_file(contents.files.local(name, record))
    except (FileNotFoundError, TapeError):
        if contents.files.exists(name):
            raise
        findings.note(name, "being written", "replaced by a writer; not compared")
        return None
    for manifest, covered in index.manifests.items():
        if covered <= contents.sizes.get(manifest, 0):
            continue
        if not contents.files.exists(manifest) or covered > contents.files.size(manifest):
            raise TapeError(f"covers {covered} bytes of {manifest}, which has fewer")
        findings.note(name, "being written", "newer than the manifest read before; not compared")
        return None
    if not index.is_bound:
        findings.note(name, "index", "of an older release: not used; the next writer replaces it")
        return None
    for manifest, covered in index.manifests.items():
        if covered_hash(contents.files.content(manifest), covered) != index.hashes[manifest]:
            raise TapeError(f"is of another {manifest}; delete index/, it is a cache")
    return index


def _covered(index: Index, contents: Contents, name: str, findings: Findings) -> list[Line] | None:
    """Return the lines an index covers, in its order; ``None`` if it is of another manifest."""
    actual = {(line.manifest, line.offset): line for line in contents.lines}
    manifests, lines = list(index.manifests), index.lines
    ordered = []
    for number in range(len(lines)):
        manifest, offset = manifests[int(lines.file[number])], int(lines.offset[number])
        line = actual.pop((manifest, offset), None)
        if line is None or len(line.content) != lines.length[number]:
            findings.add(name, "index", f"{manifest} has no such line at byte {offset}")
            return None
        kind = SHARD_LINE if isinstance(line.record, ShardRecord) else QUARANTINE_LINE
        group = index.groups[int(lines.group[number])]
        if line.record is not None and (kind, line.record.group) != (lines.kind[number], group):
            findings.add(name, "index", f"takes {manifest} at byte {offset} for another line")
            return None
        ordered.append(line)
    skipped = [m for m, offset in actual if offset < index.manifests.get(m, 0)]
    if skipped:
        findings.add(name, "index", f"leaves out {len(skipped)} lines of {skipped[0]}")
        return None
    return ordered


def differences(index: Index, rebuilt: Index) -> list[str]:
    """Return in which ways an index differs from one rebuilt of the same lines in its order.

    The order of ids that are no samples may differ: it depends on when the index was brought up
    to date.
    """
    place = pc.index_in(index.sample_id, value_set=rebuilt.sample_id)
    if place.null_count or len(index.sample_id) != len(rebuilt.sample_id):
        return ["its ids are not those of the tables"]
    numbers = place.to_numpy(zero_copy_only=False).astype(np.int64)
    told = []
    if index.num_samples != rebuilt.num_samples:
        told.append(f"{index.num_samples} samples, the tables have {rebuilt.num_samples}")
    if not np.array_equal(index.id_order, rebuilt.id_order[numbers]):
        told.append("the samples' order is not that of the tables")
    ordered = index.id_order[: index.num_samples]
    if (ordered[1:] < ordered[:-1]).any():
        told.append("the samples are out of order")
    if not _hashes_right(index):
        told.append("hashes are not those of the ids")
    if index.tables.keys() != rebuilt.tables.keys():
        told.append("its tables are not those of the shards")
        return told
    told += [
        f"rows of {group}/{table} are not those of the shards"
        for group, table in index.tables
        if not _same_rows(index, rebuilt, (group, table), numbers)
    ]
    if index.duplicates != rebuilt.duplicates:
        told.append(f"{index.duplicates} rows left out, the tables have {rebuilt.duplicates}")
    return told


def _hashes_right(index: Index) -> bool:
    if not np.array_equal(np.sort(index.id_number), np.arange(len(index.sample_id))):
        return False
    ids = index.sample_id.take(pa.array(index.id_number))
    return all(
        hash_of(sample_id) == int(hashed)
        for sample_id, hashed in zip(ids.to_pylist(), index.id_hash, strict=True)
    )


def _same_rows(
    index: Index, rebuilt: Index, name: tuple[str, str], numbers: NDArray[np.int64]
) -> bool:
    part, other = index.tables[name], rebuilt.tables[name]
    keys = index.row_key[part]
    ids = (keys >> np.uint64(TRACE_BITS)).astype(np.int64)
    mapped = (numbers[ids].astype(np.uint64) << np.uint64(TRACE_BITS)) | (
        keys & np.uint64((1 << TRACE_BITS) - 1)
    )
    order = np.argsort(mapped, kind="stable")
    return (
        np.array_equal(mapped[order], rebuilt.row_key[other])
        and np.array_equal(index.row_line[part][order], rebuilt.row_line[other])
        and np.array_equal(index.row_number[part][order], rebuilt.row_number[other])
    )
