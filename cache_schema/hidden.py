"""Where a sample's hidden states lie in a shard, and reading them: into your memory, or as values.

Shapes: A positions, L layers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs import bfloat16
from cache_schema.errors import TapeError
from cache_schema.manifest import States
from cache_schema.types import FloatArray, Hidden, IntArray

if TYPE_CHECKING:
    from cache_schema.committed import Shard


@dataclass(frozen=True, kw_only=True)
class HiddenPlace:
    """Where the states of one trace, or of one recording, lie; nothing of them is read yet.

    Attributes:
        shard: the shard.
        layers: the chosen layers.
        states: how the shard's arrays are stored.
        start: first row in each array.
        count: A, the number of rows.
        kind: ``"token"``, ``"audio"``, ``"frame"`` or ``"text"``.
        target_ids: int64 [A] for the kinds ``"token"`` and ``"text"``, otherwise ``None``.
        times_s: float32 [A, 2], otherwise ``None``.
    """

    shard: Shard
    layers: tuple[int, ...]
    states: States
    start: int
    count: int
    kind: str
    target_ids: IntArray | None
    times_s: FloatArray | None

    def read_into(self, layer: int, out: NDArray[Any]) -> None:
        """Read one layer straight into ``out``: no copy, no conversion, the lock released.

        Args:
            layer: one of ``layers``.
            out: contiguous [A, D] in the stored type of ``states.dtype`` (uint16 for bfloat16).

        Raises:
            TapeError: the array is damaged.
        """
        self.shard.states(layer).read_into(self.start, out)

    def read(self) -> Hidden:
        """Return the states of every chosen layer as float32.

        Raises:
            TapeError: an array is damaged or holds a state that is not finite.
        """
        shape = (self.count, self.states.width)
        values = np.empty((self.count, len(self.layers), self.states.width), dtype=np.float32)
        stored = np.empty(shape, dtype=bfloat16.STORED_DTYPES[self.states.dtype])
        for number, layer in enumerate(self.layers):
            self.read_into(layer, stored)
            values[:, number] = bfloat16.decode(stored)
        if not np.isfinite(values).all():
            raise TapeError(
                f"{self.shard.record.path}: states at positions {self.start} to "
                f"{self.start + self.count} are not finite"
            )
        return Hidden(
            states=values,
            layers=self.layers,
            kind=self.kind,
            target_ids=self.target_ids,
            times_s=self.times_s,
        )
