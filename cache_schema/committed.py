"""One committed shard, read: tables and layer arrays, mapped and checked when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from cache_schema import layout
from cache_schema.attached import attached_places, attached_row
from cache_schema.codecs.arrow_file import MappedFile, read_table
from cache_schema.codecs.columns import Columns
from cache_schema.codecs.states_profiles import StatesReader, open_states_reader
from cache_schema.errors import MissingSignalError, TapeError
from cache_schema.files import TapeFiles
from cache_schema.hidden import HiddenPlace
from cache_schema.manifest import ShardRecord
from cache_schema.rows.values import Row, place_of
from cache_schema.signals import SCHEMAS, schemas_of

_NUMBERED = frozenset(name for name, schema in SCHEMAS.items() if "trace_index" in schema.names)
"""Tables whose rows are of traces."""


class Shard:
    """One committed shard; its manifest line, tables and arrays are read when first used.

    Args:
        files: the tape's files.
        read_record: reads its manifest line.
    """

    def __init__(self, files: TapeFiles, read_record: Callable[[], ShardRecord]) -> None:
        self._files = files
        self._read_record = read_record
        self._record: ShardRecord | None = None

    @classmethod
    def of(cls, files: TapeFiles, record: ShardRecord) -> Shard:
        """Return the shard of a manifest line that is read already."""
        return cls(files, lambda: record)

    @property
    def record(self) -> ShardRecord:
        """What its manifest line says."""
        # Two threads may both read it, which is harmless; functools.cached_property would hold a
        # lock of the whole class, which a child forked meanwhile never gets.
        if self._record is None:
            self._record = self._read_record()
        return self._record

    def table(self, name: str) -> pa.Table:
        """Return a table, mapped.

        Raises:
            TapeError: the file is damaged, or not such a table.
        """
        return self.columns(name).table

    def _read_columns(self, name: str) -> Columns:
        if name not in SCHEMAS or name not in self.record.rows:
            raise TapeError(f"{self.record.path}: no table {name!r} in its manifest line")
        file = MappedFile(self.local(layout.table_file(name)))
        table = read_table(file, *schemas_of(name), num_rows=self.record.rows[name])
        return Columns(table, file)

    def row(self, name: str, index: int) -> Row:
        """Return one row of a table; number lists are NumPy arrays.

        Raises:
            TapeError: the table has no such row.
        """
        columns = self.columns(name)
        if not 0 <= index < columns.num_rows:
            raise TapeError(f"{self.record.path}/{name}: no row {index}, it has {columns.num_rows}")
        return columns.row(index)

    def columns(self, name: str) -> Columns:
        """Return a table opened for single cells."""
        return self._files.opened(f"{self.record.path}/{name}", lambda: self._read_columns(name))

    def key(self, name: str, index: int) -> tuple[str, int] | None:
        """Return whose a row is, sample id and trace index (0 in a table without traces).

        ``None`` if there is no such row.
        """
        columns = self.columns(name)
        if not 0 <= index < columns.num_rows:
            return None
        if name in _NUMBERED:
            sample_id, trace = columns.cells(("sample_id", "trace_index"), index)
            return sample_id, trace
        return columns.cell("sample_id", index), 0

    def attached(self) -> Mapping[str, tuple[str, int]]:
        """Return the samples whose recordings are attached, and where those are.

        Raises:
            TapeError: one of their files is damaged.
        """
        return attached_places(self._files, self.record.path)

    def attached_row(self, sample_id: str) -> Row | None:
        """Return the ``audio`` row of a sample whose recording is attached, else ``None``.

        Raises:
            TapeError: its file is damaged.
        """
        return attached_row(self._files, self.record.path, sample_id)

    def states(self, layer: int) -> StatesReader:
        """Return the reader of one layer's array.

        Raises:
            MissingSignalError: the layer is not recorded.
            TapeError: the array is damaged or not of the form the format prescribes.
        """
        states = self.record.states
        if states is None or layer not in states.layers:
            raise MissingSignalError(
                f"{self.record.path}: layer {layer} is not recorded; it has "
                f"{list(self.record.layers)}"
            )
        name = layout.layer_dir(layer)
        return self._files.opened(
            f"{self.record.path}/{name}",
            lambda: open_states_reader(
                self.local,
                name,
                profile=states.profile,
                num_rows=states.positions,
                width=states.width,
                logical_dtype=states.dtype,
            ),
        )

    def hidden(self, index: int, layers: tuple[int, ...] | None) -> HiddenPlace:
        """Return where the states of a row of the ``hidden`` table are, of all or some layers.

        Raises:
            MissingSignalError: a layer is not recorded.
            TapeError: the row lies outside the arrays, or contradicts itself.
        """
        record = self.record
        chosen = record.layers if layers is None else layers
        absent = set(chosen).difference(record.layers)
        if absent:
            raise MissingSignalError(
                f"{record.path}: layers {sorted(absent)} are not recorded; "
                f"it has {list(record.layers)}"
            )
        states = record.states
        if states is None:
            raise TapeError(f"{record.path}: a hidden table without layer arrays")
        where = f"{record.path}: row {index} of hidden"
        fields = place_of(self.row("hidden", index), states.positions, where)
        return HiddenPlace(shard=self, layers=chosen, states=states, **fields)

    def local(self, name: str) -> Path:
        """Return a checked local path of one of its files.

        Raises:
            TapeError: its manifest line does not name the file, or the file is damaged.
        """
        if name not in self.record.files:
            raise TapeError(f"{self.record.path}: {name} is not in its manifest line")
        return self._files.local(f"{self.record.path}/{name}", self.record.files[name])
