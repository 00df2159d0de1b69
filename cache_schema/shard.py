"""One open shard: tables gathered in memory, layer states streamed to disk, sealed as a whole."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs import bfloat16
from cache_schema.codecs.files import HashedFile, sync_dir, write_hashed
from cache_schema.codecs.zarr_rows import ZarrRowsWriter
from cache_schema.signals import Row, to_table

_GROUP_NODE = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}\n'


class OpenShard:
    """A shard being written beside its final place.

    Args:
        directory: temporary directory, made here.
        states_dtype: logical type in which layer states are stored.
    """

    def __init__(self, directory: Path, states_dtype: str) -> None:
        self.directory = directory
        self.samples = 0
        self.positions = 0
        self.bytes = 0
        self._states_dtype = states_dtype
        self._rows: dict[str, list[Row]] = {}
        self._layers: dict[int, ZarrRowsWriter] = {}
        directory.mkdir(parents=True)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers recorded so far."""
        return tuple(sorted(self._layers))

    @property
    def num_rows(self) -> dict[str, int]:
        """Table -> rows so far."""
        return {name: len(rows) for name, rows in self._rows.items()}

    def add_row(self, table: str, row: Row) -> None:
        """Add one row to a table."""
        self._rows.setdefault(table, []).append(row)
        self.bytes += sum(
            len(v) if isinstance(v, bytes | str) else getattr(v, "nbytes", 8) for v in row.values()
        )

    def add_states(self, states: Mapping[int, NDArray[Any]]) -> tuple[int, int]:
        """Append states (layer -> [n, width]) and return their (offset, count).

        Raises:
            ValueError: layers, row counts or widths differ from what the shard holds.
        """
        counts = {rows.shape[0] for rows in states.values()}
        if len(counts) != 1:
            raise ValueError(f"layers of one sample have different lengths: {sorted(counts)}")
        if self._layers and self._layers.keys() != states.keys():
            raise ValueError(f"layers {sorted(states)}, the shard has {sorted(self._layers)}")
        count = counts.pop()
        for layer, rows in states.items():
            if layer not in self._layers:
                self._layers[layer] = ZarrRowsWriter(
                    self.directory / layout.layer_dir(layer), rows.shape[1], self._states_dtype
                )
            encoded = bfloat16.encode(rows, self._states_dtype)
            self._layers[layer].append(encoded)
            self.bytes += encoded.nbytes
        offset = self.positions
        self.positions += count
        return offset, count

    def seal(self) -> dict[str, dict[str, Any]]:
        """Write tables and array metadata, fsync everything; return the files' records."""
        files: dict[str, dict[str, Any]] = {}
        for name, rows in sorted(self._rows.items()):
            file = layout.table_file(name)
            files[file] = _write_table(self.directory / file, to_table(name, rows))
        if self._layers:
            node = f"{layout.HIDDEN_STORE}/zarr.json"
            files[node] = write_hashed(self.directory / node, _GROUP_NODE)
        for layer, writer in sorted(self._layers.items()):
            for name, record in writer.close().items():
                files[f"{layout.layer_dir(layer)}/{name}"] = record
        for directory in [p for p in self.directory.rglob("*") if p.is_dir()]:
            sync_dir(directory)
        return files

    def discard(self) -> None:
        """Remove everything written so far."""
        for writer in self._layers.values():
            writer.abort()
        shutil.rmtree(self.directory, ignore_errors=True)


class _Sink(io.RawIOBase):
    """What Arrow writes to: a hashed file."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(bytes(data))


def _write_table(path: Path, table: pa.Table) -> dict[str, Any]:
    with HashedFile(path) as file:
        with pa.ipc.new_file(pa.PythonFile(_Sink(file), mode="w"), table.schema) as writer:
            writer.write_table(table)
        return file.close()


def is_finite(states: Mapping[int, NDArray[Any]]) -> bool:
    """Whether every state is finite (bfloat16 bits given as uint16 included)."""
    for rows in states.values():
        if rows.dtype == np.uint16:
            if ((rows & np.uint16(0x7F80)) == np.uint16(0x7F80)).any():
                return False
        elif not np.isfinite(rows).all():
            return False
    return True
