"""The index: sample id -> shard and row of every table, as arrays that are mapped, not read.

An index file is a cache of the manifest and of the tables' id columns: it may be missing, and it
may cover only the beginning of a manifest that has grown. It is named by its checksum.

Shapes: I ids, R rows of all tables, M manifest lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from cache_schema.codecs.arrow_file import read_table
from cache_schema.errors import TapeError

SHARD_LINE, QUARANTINE_LINE = 0, 1
TRACE_BITS = 20
"""A row's key is its id's number and, in this many bits, its trace index + 1."""

_BLOCK = 1 << 16
"""Keys looked at together, so that what is held does not grow with the tape."""

MAX_TRACES = (1 << TRACE_BITS) - 2
_COLUMNS: dict[str, pa.DataType] = {
    "line_file": pa.int32(),
    "line_offset": pa.int64(),
    "line_length": pa.int32(),
    "line_kind": pa.int8(),
    "line_group": pa.int32(),
    "sample_id": pa.large_string(),
    "id_order": pa.int64(),
    "id_hash": pa.uint64(),
    "id_number": pa.int64(),
    "row_key": pa.uint64(),
    "row_line": pa.int32(),
    "row_number": pa.int32(),
}
_SCHEMA = pa.schema([(name, pa.large_list(kind)) for name, kind in _COLUMNS.items()])


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Where the manifest's lines are, [M] each.

    Attributes:
        file: number of the manifest file.
        offset: byte where the line begins.
        length: its bytes.
        kind: ``SHARD_LINE`` or ``QUARANTINE_LINE``.
        group: number of the group.
    """

    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    kind: NDArray[np.int8]
    group: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.file)

    def in_order(self, manifests: Iterable[str]) -> NDArray[np.int64]:
        """Return the lines' numbers in the order of commitment, [M].

        That is by the manifest files' names, then in a file's order, whatever was indexed when.
        """
        names = list(manifests)
        rank = np.empty(len(names), dtype=np.int64)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        ordered: NDArray[np.int64] = np.lexsort((self.offset, rank[self.file]))
        return ordered


@dataclass(frozen=True, kw_only=True)
class Index:
    """Where every row is.

    Attributes:
        manifests: manifest file -> how many of its bytes are covered.
        groups: names the lines' group numbers stand for.
        lines: the manifest's lines.
        num_samples: how many ids are samples; they come first, in the dataset's order.
        sample_id: every id, [I].
        id_order: the dataset's row of each sample, [I]; -1 for an id that is no sample.
        id_hash: XXH3-64 of the ids' UTF-8, ascending, [I].
        id_number: the id each hash belongs to, [I].
        tables: (group, table) -> its slice of the rows.
        row_key: id number << 20 | trace index + 1, ascending in a table, [R].
        row_line: the shard's manifest line, [R].
        row_number: the row in the shard's table, [R].
        duplicates: rows left out because an equal one was committed before.
        hashes: manifest file -> XXH3-64 of its bytes covered; without them (an index of an older
            release) nothing says that the index is of these manifests.
    """

    manifests: dict[str, int]
    groups: Sequence[str]
    lines: Lines
    num_samples: int
    sample_id: pa.LargeStringArray
    id_order: NDArray[np.int64]
    id_hash: NDArray[np.uint64]
    id_number: NDArray[np.int64]
    tables: dict[tuple[str, str], slice]
    row_key: NDArray[np.uint64]
    row_line: NDArray[np.int32]
    row_number: NDArray[np.int32]
    duplicates: int
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def is_bound(self) -> bool:
        """Whether it says of which manifests it is."""
        return self.hashes.keys() == self.manifests.keys()

    def number_of(self, sample_id: str) -> int | None:
        """Return the number of an id, ``None`` if there is none."""
        hashed = np.uint64(hash_of(sample_id))
        at = int(self.id_hash.searchsorted(hashed))
        while at < len(self.id_hash) and self.id_hash[at] == hashed:
            number = int(self.id_number[at])
            if self.sample_id[number].as_py() == sample_id:
                return number
            at += 1
        return None

    def row_of(self, group: str, table: str, number: int, trace: int) -> tuple[int, int] | None:
        """Return (manifest line, row) of a table's row, ``None`` if there is none."""
        part = self.tables.get((group, table))
        if part is None:
            return None
        key = np.uint64(number << TRACE_BITS | trace + 1)
        at = part.start + int(self.row_key[part].searchsorted(key))
        if at == part.stop or self.row_key[at] != key:
            return None
        return int(self.row_line[at]), int(self.row_number[at])

    def traces_of(self, group: str, table: str, number: int) -> list[int]:
        """Return the traces that an id has rows of in a table, ascending."""
        part = self.tables.get((group, table), slice(0, 0))
        keys = self.row_key[part]
        limits = np.array([number, number + 1], dtype=np.uint64) << np.uint64(TRACE_BITS)
        first, last = np.searchsorted(keys, limits).tolist()
        mask = (1 << TRACE_BITS) - 1
        return [(key & mask) - 1 for key in keys[first:last].tolist()]

    def numbers_in(self, group: str, table: str) -> NDArray[np.int64]:
        """Return the numbers of the ids that have a row in a table, ascending."""
        part = self.tables.get((group, table), slice(0, 0))
        return np.unique(self.row_key[part] >> np.uint64(TRACE_BITS)).astype(np.int64)

    def mark(self, group: str, table: str, marks: NDArray[np.bool_]) -> None:
        """Set ``marks``, [I], for the ids that have a row in a table; a block of keys at a time."""
        part = self.tables.get((group, table), slice(0, 0))
        for start in range(part.start, part.stop, _BLOCK):
            keys = self.row_key[start : min(start + _BLOCK, part.stop)]
            marks[keys >> np.uint64(TRACE_BITS)] = True


def hash_of(sample_id: str) -> int:
    """Return the XXH3-64 of an id."""
    return xxhash.xxh3_64_intdigest(sample_id.encode())


def covered_hash(content: bytes, size: int) -> str:
    """Return the XXH3-64 of the first bytes of a manifest, 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(memoryview(content)[:size])


def to_arrow(index: Index) -> pa.Table:
    """Return an index as a table of one row of lists; facts about it are in its metadata."""
    arrays: dict[str, Any] = {
        **{f"line_{name}": getattr(index.lines, name) for name in vars(index.lines)},
        **{name: getattr(index, name) for name in _COLUMNS if not name.startswith("line_")},
    }
    columns = []
    for name, kind in _COLUMNS.items():
        values = arrays[name]
        if not isinstance(values, pa.Array):
            values = pa.array(values, kind)
        whole = pa.array([0, len(values)], pa.int64())
        columns.append(pa.LargeListArray.from_arrays(whole, values))
    facts = {
        "manifests": index.manifests,
        "groups": list(index.groups),
        "num_samples": index.num_samples,
        "tables": [[*key, part.start, part.stop] for key, part in index.tables.items()],
        "duplicates": index.duplicates,
        "hashes": index.hashes,
    }
    return pa.Table.from_arrays(
        columns, schema=_SCHEMA.with_metadata({"teachertape": json.dumps(facts)})
    )


def from_file(path: Path) -> Index:
    """Map an index whose checksum was compared.

    Raises:
        TapeError: its arrays contradict each other; deleting the file is safe.
    """
    table = read_table(path, _SCHEMA, num_rows=1)
    try:
        index = _from_table(table)
        _check(index)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TapeError(
            f"{path}: not an index of this format ({error}); delete it, it is only a cache"
        ) from error
    return index


def _from_table(table: pa.Table) -> Index:
    facts = json.loads(table.schema.metadata[b"teachertape"])
    arrays = {name: table.column(name).chunk(0).flatten() for name in _COLUMNS}
    if any(array.null_count for array in arrays.values()):
        raise ValueError("it has nulls")
    numbers: dict[str, Any] = {
        name: array.to_numpy() for name, array in arrays.items() if name != "sample_id"
    }
    return Index(
        manifests={str(name): int(size) for name, size in facts["manifests"].items()},
        groups=[str(name) for name in facts["groups"]],
        lines=Lines(
            **{k.removeprefix("line_"): v for k, v in numbers.items() if k.startswith("line_")}
        ),
        num_samples=int(facts["num_samples"]),
        sample_id=arrays["sample_id"],
        id_order=numbers["id_order"],
        id_hash=numbers["id_hash"],
        id_number=numbers["id_number"],
        tables={(g, t): slice(int(a), int(b)) for g, t, a, b in facts["tables"]},
        row_key=numbers["row_key"],
        row_line=numbers["row_line"],
        row_number=numbers["row_number"],
        duplicates=int(facts["duplicates"]),
        hashes={str(name): str(digits) for name, digits in facts.get("hashes", {}).items()},
    )


def _check(index: Index) -> None:
    """Refuse numbers that point outside, and orders a search relies on that do not hold."""
    lines, num_ids, num_rows = index.lines, len(index.sample_id), len(index.row_key)
    if len({len(array) for array in vars(lines).values()}) != 1:
        raise ValueError("line columns of different lengths")
    if not len(index.id_order) == len(index.id_hash) == len(index.id_number) == num_ids:
        raise ValueError("id columns of different lengths")
    if not len(index.row_line) == len(index.row_number) == num_rows:
        raise ValueError("row columns of different lengths")
    _within(lines.file, len(index.manifests), "line_file")
    _within(lines.group, len(index.groups), "line_group")
    sizes = np.array(list(index.manifests.values()), dtype=np.int64)
    ends = lines.offset + lines.length
    if len(lines) and not (
        lines.offset.min() >= 0 and lines.length.min() > 0 and (ends <= sizes[lines.file]).all()
    ):
        raise ValueError("lines outside the manifest")
    _within(index.id_number, num_ids, "id_number")
    _within(index.row_line, len(lines), "row_line")
    if num_rows and index.row_number.min() < 0:
        raise ValueError("negative row numbers")
    if not 0 <= index.num_samples <= num_ids:
        raise ValueError("more samples than ids")
    if (index.id_hash[1:] < index.id_hash[:-1]).any():
        raise ValueError("hashes out of order")
    _within(index.row_key, num_ids << TRACE_BITS, "row_key")
    for part in index.tables.values():
        keys = index.row_key[part]
        if not 0 <= part.start <= part.stop <= num_rows or (keys[1:] <= keys[:-1]).any():
            raise ValueError("rows out of order")


def _within(values: NDArray[Any], limit: int, name: str) -> None:
    if len(values) and not (values.min() >= 0 and values.max() < limit):
        raise ValueError(f"{name} points outside")
