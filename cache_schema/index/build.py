"""Building an index: from the manifest's lines and the shards' id columns, or adding to one."""

from __future__ import annotations

import fcntl
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs.arrow_file import write_table
from cache_schema.codecs.files import CHECKSUM, NO_ROOM, make_dirs, sync_dir
from cache_schema.errors import TapeError
from cache_schema.index.arrays import (
    MAX_TRACES,
    TRACE_BITS,
    Index,
    Lines,
    to_arrow,
)
from cache_schema.index.id_numbers import IdNumbers
from cache_schema.index.table_rows import Piece, TableRows, cut, leave_out, room_for, sort_rows
from cache_schema.signals import SCHEMAS

LOCK_WAIT_S = 10.0
"""How long a writer waits for its turn to replace the index; an index can be made later."""

_PAUSE_S = 0.02
Ids = NDArray[np.int64]
Same = Callable[[tuple[int, int], tuple[int, int]], bool]
"""Whether two rows of ``samples``, each (line, row), are the same sample."""


@dataclass
class Found:
    """What is known so far, growing: lines, ids and the rows of every table.

    Attributes:
        manifests: manifest file -> bytes covered.
        groups: group -> number.
        lines: (file, offset, length, kind, group) of each manifest line.
        ids: every id and its number, in the order met.
        order: the dataset's row of each id, -1 where it is no sample.
        rows: (group, table) -> its rows; a key is an id's number and a trace index, as in the
            index.
        duplicates: rows left out.
    """

    manifests: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    lines: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    ids: IdNumbers = field(default_factory=IdNumbers)
    order: array[int] = field(default_factory=lambda: array("q"))
    rows: dict[tuple[str, str], TableRows] = field(default_factory=dict)
    duplicates: int = 0

    def add_line(self, manifest: str, offset: int, length: int, kind: int, group: str) -> int:
        """Add a manifest line; return its number."""
        self.manifests[manifest] = offset + length
        file = list(self.manifests).index(manifest)
        number = self.groups.setdefault(group, len(self.groups))
        self.lines.append((file, offset, length, kind, number))
        return len(self.lines) - 1

    def add_table(self, group: str, name: str, line: int, table: pa.Table, where: str) -> None:
        """Add the rows of one shard's table.

        Raises:
            TapeError: it holds a row twice, or a trace index out of range.
        """
        numbered = "trace_index" in SCHEMAS[name].names
        column = table.column("trace_index").to_numpy() if numbered else np.zeros(len(table))
        traces = column.astype(np.int64)
        if len(table) and not (traces.min() >= -1 and traces.max() <= MAX_TRACES):
            raise TapeError(f"{where}: a trace index outside -1 to {MAX_TRACES}")
        numbers = self.ids.add(table.column("sample_id"))
        self.order.extend([-1] * (len(self.ids) - len(self.order)))
        keys = (numbers << TRACE_BITS | (traces + 1)).astype(np.uint64)
        if len(np.unique(keys)) != len(keys):
            raise TapeError(f"{where}: a row is there twice")
        if name == "samples":
            for number, row in zip(numbers, table.column("row_index").to_pylist(), strict=True):
                known = self.order[number]
                self.order[number] = row if known < 0 else min(known, row)
        self.rows.setdefault((group, name), TableRows()).add(keys, line)

    def index(self, same: Same, *, last: bool = False) -> Index:
        """Return the index of everything found.

        Args:
            same: called for samples recorded twice.
            last: whether this is not used any more, so that it need not keep what is in the index.

        Raises:
            TapeError: one id names two different samples.
        """
        order = np.array(self.order, dtype=np.int64)
        texts = self.ids.texts()
        ranked = _ranked(order, texts)
        sample_id = texts.take(pa.array(ranked))
        del texts
        place = np.empty_like(ranked)
        place[ranked] = np.arange(len(ranked))
        hashes = self.ids.hashes()[ranked]
        by_hash = np.argsort(hashes, kind="stable")
        lines = self.as_lines()
        age = np.empty(len(lines), dtype=np.int64)
        age[lines.in_order(self.manifests)] = np.arange(len(lines))
        whole = room_for(sum(map(len, self.rows.values())))
        tables: dict[tuple[str, str], slice] = {}
        filled = 0
        for name in list(self.rows):
            rows = self.rows.pop(name) if last else self.rows[name]
            part = cut(whole, slice(filled, filled + len(rows)))
            rows.write(part, place)
            del rows
            again = sort_rows(part, age)
            if len(again):
                if name == ("samples", "samples"):
                    _compare(part, again, same, sample_id)
                self.duplicates += len(again)
                leave_out(part, again)
            tables[name] = slice(filled, filled + len(part[0]) - len(again))
            filled = tables[name].stop
        keys, row_lines, row_numbers = cut(whole, slice(0, filled))
        return Index(
            manifests=dict(self.manifests),
            groups=list(self.groups),
            lines=lines,
            num_samples=int((order >= 0).sum()),
            sample_id=sample_id,
            id_order=order[ranked],
            id_hash=hashes[by_hash],
            id_number=by_hash.astype(np.int64),
            tables=tables,
            row_key=keys,
            row_line=row_lines,
            row_number=row_numbers,
            duplicates=self.duplicates,
        )

    def as_lines(self) -> Lines:
        """Return the manifest's lines as columns."""
        columns = np.array(self.lines, dtype=np.int64).reshape(-1, 5).T
        return Lines(
            file=columns[0].astype(np.int32),
            offset=columns[1],
            length=columns[2].astype(np.int32),
            kind=columns[3].astype(np.int8),
            group=columns[4].astype(np.int32),
        )


def _compare(part: Piece, again: Ids, same: Same, sample_id: pa.LargeStringArray) -> None:
    """Refuse samples of one id that differ."""
    keys, lines, rows = part
    for at in again.tolist():
        earlier, later = ((int(lines[one]), int(rows[one])) for one in (at - 1, at))
        if not same(earlier, later):
            repeated = str(sample_id[int(keys[at]) >> TRACE_BITS])
            raise TapeError(f"sample id {repeated!r} names two different samples")


def _ranked(order: Ids, texts: pa.LargeStringArray) -> Ids:
    """Return the ids' numbers, samples first, in the dataset's order, equal rows by id."""
    columns = {"stranger": order < 0, "order": order, "id": texts}
    keys = [(name, "ascending") for name in columns]
    ranked: Ids = pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy().astype(np.int64)
    return ranked


def found_in(index: Index) -> Found:
    """Return what an index knows, to be added to."""
    lines = index.lines
    rows = {
        name: TableRows((index.row_key[part], index.row_line[part], index.row_number[part]))
        for name, part in index.tables.items()
    }
    return Found(
        manifests=dict(index.manifests),
        groups={name: number for number, name in enumerate(index.groups)},
        lines=list(zip(*(getattr(lines, name).tolist() for name in vars(lines)), strict=True)),
        ids=IdNumbers(index),
        order=array("q", index.id_order.tobytes()),
        rows=rows,
        duplicates=index.duplicates,
    )


def update_index(root: Path, current: Callable[[], Index | None]) -> bool:
    """Put an index on the tape in place of older ones, durably; return whether that was possible.

    It is not where the disk is full, or where another process holds the lock for ``LOCK_WAIT_S``.
    Writers take turns, so that the last one's index covers what all of them committed. A reader
    that has an older one mapped keeps it.

    Args:
        root: the tape's folder.
        current: called when it is this writer's turn; the index of the tape as it is then, ``None``
            if the one on the tape is complete.
    """
    lock = root / layout.INDEX_LOCK
    try:
        make_dirs(lock.parent)
        with lock.open("ab") as held:
            if not _take(held):
                return False
            index = current()
            if index is not None:
                _replace_index(lock.parent, root, index)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return False
    return True


def _take(file: IO[bytes]) -> bool:
    """Wait for a lock, but not for ever; return whether it was taken."""
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_PAUSE_S)
        else:
            return True


def _replace_index(folder: Path, root: Path, index: Index) -> None:
    beside = folder / ".new"
    beside.unlink(missing_ok=True)
    try:
        record = write_table(beside, to_arrow(index))
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    final = root / layout.index_file(record[CHECKSUM])
    beside.replace(final)
    for older in folder.glob("*.arrow"):
        if older != final:
            older.unlink()
    sync_dir(folder)


def is_tidy(root: Path) -> bool:
    """Whether no killed run left a half-written index, or an older one beside the new."""
    names = [path.name for path in (root / layout.INDEX_DIR).glob("*")]
    return ".new" not in names and sum(name.endswith(".arrow") for name in names) <= 1
