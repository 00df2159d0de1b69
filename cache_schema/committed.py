"""One committed shard, read: tables and layer arrays, mapped and checked when first used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs import bfloat16
from cache_schema.codecs.zarr_rows import map_rows
from cache_schema.errors import MissingSignalError, TapeError
from cache_schema.files import TapeFiles
from cache_schema.manifest import ShardRecord
from cache_schema.signals import SCHEMAS, Row
from cache_schema.types import Hidden


class Shard:
    """One committed shard, its tables and arrays opened when first used."""

    def __init__(self, files: TapeFiles, record: ShardRecord) -> None:
        self.record = record
        self._files = files

    def table(self, name: str) -> pa.Table:
        """Return a table, mapped."""
        return self._files.opened(f"{self.record.path}/{name}", lambda: self._read_table(name))

    def _read_table(self, name: str) -> pa.Table:
        source = pa.memory_map(str(self._local(layout.table_file(name))))
        table = pa.ipc.open_file(source).read_all()
        if not table.schema.equals(SCHEMAS[name]):
            raise TapeError(f"{self.record.path}/{name}: columns differ from the format's")
        return table

    def row(self, name: str, index: int) -> Row:
        """Return one row of a table; number lists are NumPy arrays."""
        table = self.table(name)
        return {field.name: value(table.column(field.name), index) for field in table.schema}

    def states(self, layer: int) -> NDArray[Any]:
        """Return one layer's rows [positions, width] in the stored type, mapped."""
        folder = layout.layer_dir(layer)
        return self._files.opened(
            f"{self.record.path}/{folder}",
            lambda: map_rows(
                self._local(f"{folder}/zarr.json"), self._local(layout.layer_data_file(layer))
            ),
        )

    def hidden(self, index: int, layers: tuple[int, ...] | None) -> Hidden:
        """Return the states a row of the ``hidden`` table places, of all layers or of some.

        Raises:
            MissingSignalError: a layer is not recorded.
        """
        row = self.row("hidden", index)
        chosen = self.record.layers if layers is None else layers
        absent = [layer for layer in chosen if layer not in self.record.layers]
        if absent:
            raise MissingSignalError(
                f"{self.record.path}: layers {absent} are not recorded; "
                f"it has {list(self.record.layers)}"
            )
        span = slice(row["offset"], row["offset"] + row["count"])
        if not 0 <= span.start <= span.stop <= self.record.positions:
            raise TapeError(f"{self.record.path}: row {index} of hidden is outside the arrays")
        states = [bfloat16.decode(self.states(layer)[span]) for layer in chosen]
        return Hidden(
            states=np.stack(states, axis=1),
            layers=tuple(chosen),
            kind=row["kind"],
            target_ids=None if row["target_ids"] is None else row["target_ids"].astype(np.int64),
            times_s=None if row["times_s"] is None else row["times_s"].reshape(-1, 2),
        )

    def _local(self, name: str) -> Path:
        if name not in self.record.files:
            raise TapeError(f"{self.record.path}: {name} is not in its manifest line")
        return self._files.local(f"{self.record.path}/{name}", self.record.files[name])


def value(column: pa.ChunkedArray, index: int) -> Any:
    """Return one cell; a list of numbers as a NumPy array, without a copy where Arrow allows it."""
    scalar = column[index]
    if pa.types.is_list(scalar.type) and pa.types.is_primitive(scalar.type.value_type):
        return None if scalar.values is None else scalar.values.to_numpy(zero_copy_only=False)
    return scalar.as_py()
