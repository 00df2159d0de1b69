"""A shard being written: tables in memory until it is sealed, states streamed to its files."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs.arrow_file import to_table, write_table
from cache_schema.codecs.files import sync_dir, write_hashed
from cache_schema.codecs.states_profiles import StatesWriter, open_states_writer
from cache_schema.errors import TapeError
from cache_schema.manifest import States
from cache_schema.rows.values import Row
from cache_schema.signals import SCHEMAS, totals_of

_GROUP_NODE = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}\n'


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How signals are stored.

    Attributes:
        states_dtype: logical type of layer states.
        profile: of layer states: ``hot``, ``archive`` or ``lossy2x``.
        topk: of top-k, of the lens too: ``hot`` or ``compact``.
    """

    states_dtype: str = "bfloat16"
    profile: str = "hot"
    topk: str = "hot"


class OpenShard:
    """A shard being written beside its final place.

    Args:
        directory: temporary directory, made here.
        storage: how its signals are stored.
    """

    def __init__(self, directory: Path, storage: Storage) -> None:
        self.directory = directory
        self.samples = 0
        self.positions = 0
        self.bytes = 0
        self.totals: Counter[str] = Counter()
        self._storage = storage
        self._rows: dict[str, list[Row]] = {}
        self._layers: dict[int, StatesWriter] = {}
        self._width = 0
        self._errors: dict[str, dict[str, float]] = {}
        directory.mkdir(parents=True)

    @property
    def num_rows(self) -> dict[str, int]:
        """Table -> rows so far."""
        return {name: len(rows) for name, rows in sorted(self._rows.items())}

    @property
    def states(self) -> States | None:
        """How its layer arrays are stored; after ``seal`` with what that lost."""
        if not self._layers:
            return None
        return States(
            layers=tuple(sorted(self._layers)),
            positions=self.positions,
            width=self._width,
            dtype=self._storage.states_dtype,
            profile=self._storage.profile,
            errors=self._errors,
        )

    def add_row(self, table: str, row: Row) -> None:
        """Add one checked row to a table."""
        self._rows.setdefault(table, []).append(row)
        self.totals.update(totals_of(table, row))
        self.bytes += sum(
            len(v) if isinstance(v, bytes | str) else getattr(v, "nbytes", 8) for v in row.values()
        )

    def add_states(self, states: Mapping[int, NDArray[Any]]) -> int:
        """Append checked states, layer -> [n, width] in the stored type; return their offset."""
        width = next(iter(states.values())).shape[1]
        if self._layers and (self._layers.keys() != states.keys() or width != self._width):
            raise TapeError(
                f"layers {sorted(states)} of width {width}, the shard has {sorted(self._layers)} "
                f"of width {self._width}"
            )
        self._width = width
        for layer, rows in states.items():
            if layer not in self._layers:
                self._layers[layer] = open_states_writer(
                    self.directory,
                    layout.layer_dir(layer),
                    width,
                    self._storage.states_dtype,
                    self._storage.profile,
                )
            self._layers[layer].append(rows)
            self.bytes += rows.nbytes
        offset = self.positions
        self.positions += rows.shape[0]
        return offset

    def seal(self) -> dict[str, dict[str, Any]]:
        """Write tables and array metadata, fsync everything; return the files' records."""
        files: dict[str, dict[str, Any]] = {}
        for name, rows in sorted(self._rows.items()):
            file = layout.table_file(name)
            files[file] = write_table(self.directory / file, to_table(SCHEMAS[name], rows))
        if self._layers:
            node = f"{layout.HIDDEN_STORE}/zarr.json"
            files[node] = write_hashed(self.directory / node, _GROUP_NODE)
        for layer, writer in sorted(self._layers.items()):
            records, error = writer.close()
            files |= records
            if error:
                self._errors[str(layer)] = dict(error)
        for directory in [p for p in self.directory.rglob("*") if p.is_dir()]:
            sync_dir(directory)
        return files

    def discard(self) -> None:
        """Remove everything written so far."""
        for writer in self._layers.values():
            writer.abort()
        shutil.rmtree(self.directory, ignore_errors=True)
