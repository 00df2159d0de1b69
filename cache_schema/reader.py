"""The reader: ``open_tape``, samples by id, signals joined by id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.catalog import Catalog
from cache_schema.committed import Shard
from cache_schema.errors import TapeError, UnknownSampleError, nearest
from cache_schema.files import TapeFiles
from cache_schema.fingerprint import fingerprint
from cache_schema.maker import GroupInfo
from cache_schema.manifest import Quarantined
from cache_schema.row import TapeRow
from cache_schema.signals import GROUP_TABLES


def open_tape(location: str | Path) -> Tape:
    """Open a tape for reading, as it is now: what is added later is seen by opening it again.

    Args:
        location: local path or fsspec URL.

    Raises:
        TapeError: nothing is there, or it is not a tape of this version.
        UsageError: the URL is of no known kind, or what reads it is not installed.
    """
    files = TapeFiles(str(location))
    if not files.exists(layout.DATASET_FILE):
        raise TapeError(
            f"{location}: no tape here ({layout.DATASET_FILE} is missing); "
            "make one with 'pipeline extract-teachers --out'"
        )
    return Tape(files)


class Tape:
    """A tape open for reading: a mapping from sample id to ``TapeRow``.

    Attributes:
        location: path or URL.
        catalog: what is where.
        signals: recorded signals as ``source/signal``, sorted.
    """

    def __init__(self, files: TapeFiles) -> None:
        self.location = files.location
        self.catalog = Catalog(files)
        self._sample_ids: tuple[str, ...] | None = None
        self.signals = tuple(
            sorted(f"{name}/{s}" for name, group in self.groups.items() for s in group.signals)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the location: a worker process opens the tape again."""
        return open_tape, (self.location,)

    @property
    def info(self) -> dict[str, Any]:
        """Content of ``dataset.json``."""
        return self.catalog.info

    @property
    def groups(self) -> dict[str, GroupInfo]:
        """Group -> who made it."""
        return self.catalog.groups

    @property
    def shards(self) -> dict[str, list[Shard]]:
        """Group -> its committed shards."""
        return self.catalog.shards

    @property
    def quarantined(self) -> list[Quarantined]:
        """Samples that could not be recorded."""
        return self.catalog.quarantined

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Ids in the dataset's order."""
        if self._sample_ids is None:
            self._sample_ids = tuple(self.catalog.index.sample_id[: len(self)].to_pylist())
        return self._sample_ids

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Source -> what is known of its teacher and signals."""
        return {
            name: {**group.notes, **group.identity, "signals": dict(group.signals)}
            for name, group in self.groups.items()
            if group.signals
        }

    @property
    def fingerprint(self) -> str:
        """One hash over who made every group."""
        return fingerprint({name: group.fingerprint for name, group in self.groups.items()})

    def recorded(self, group: str) -> set[str]:
        """Ids of the samples a group has recorded, each a string: see ``recorded_mask``."""
        if group == "samples":
            return set(self.sample_ids)
        index = self.catalog.index
        tables = GROUP_TABLES[self.groups[group].kind] if group in self.groups else ()
        return {
            sample_id
            for table in tables
            for sample_id in index.sample_id.take(index.numbers_in(group, table)).to_pylist()
        }

    def recorded_mask(self, group: str, table: str = "") -> NDArray[np.bool_]:
        """Return which samples a group has recorded, bool [samples] in the dataset's order.

        Args:
            group: its name.
            table: count what is in this table only.
        """
        index = self.catalog.index
        marks = np.zeros(len(index.sample_id), dtype=bool)
        if group == "samples":
            marks[:] = True
        for name in GROUP_TABLES[self.groups[group].kind] if group in self.groups else ():
            if table in ("", name):
                index.mark(group, name, marks)
        return marks[: len(self)]

    def quarantined_mask(self, *groups: str) -> NDArray[np.bool_]:
        """Return which samples groups have quarantined, bool [samples] in the dataset's order."""
        marks = np.zeros(len(self), dtype=bool)
        for record in self.catalog.each_quarantined():
            if record.group in groups:
                number = self._number(record.sample_id)
                if number is not None:
                    marks[number] = True
        return marks

    @property
    def row_indices(self) -> NDArray[np.int64]:
        """The dataset's row of each sample, int64 [samples] ascending; mapped, not read."""
        return self.catalog.index.id_order[: len(self)]

    def place(self, group: str, table: str, number: int, trace: int) -> tuple[Shard, int] | None:
        """Return the shard and row of a table's row, ``None`` if it is not recorded.

        Raises:
            TapeError: the row found is another sample's.
        """
        found = self.catalog.index.row_of(group, table, number, trace)
        if found is None:
            return None
        shard = self.catalog.shard(found[0])
        expected = self.catalog.index.sample_id[number].as_py()
        if shard.key(table, found[1]) != (expected, trace):
            raise TapeError(
                f"{self.location}: the index says that row {found[1]} of {shard.record.path}/"
                f"{table} is of sample {expected!r}, trace {trace}, which it is not; delete "
                "index/, it is a cache"
            )
        return shard, found[1]

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.catalog.index.num_samples

    def __iter__(self) -> Iterator[TapeRow]:
        """Iterate the rows in the dataset's order."""
        return (TapeRow(self, number) for number in range(len(self)))

    def __contains__(self, sample_id: object) -> bool:
        """Whether the tape has this sample."""
        return isinstance(sample_id, str) and self._number(sample_id) is not None

    def __getitem__(self, sample_id: str) -> TapeRow:
        """Return one sample, lazily.

        Raises:
            UnknownSampleError: a ``KeyError`` naming near ids.
        """
        number = self._number(str(sample_id))
        if number is None:
            near = nearest(str(sample_id), self.sample_ids)
            some = ", ".join(map(repr, self.sample_ids[:3]))
            raise UnknownSampleError(
                f"no sample {sample_id!r} on {self.location} ({len(self)} samples)"
                f"{near or f'; its ids are such as {some}' * bool(some)}"
            )
        return TapeRow(self, number)

    def _number(self, sample_id: str) -> int | None:
        number = self.catalog.index.number_of(sample_id)
        return number if number is not None and number < len(self) else None
