"""Recorded states on their way from the tape into a batch: found, made room for, read.

They keep the type they are stored in until the loss: as bfloat16 half the memory, and half the copy
to the device, of float32.

Shapes: L layers, N positions of all rows in order, D width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_models.load import DTYPES
from cache_schema import Tape
from cache_schema.codecs import bfloat16
from cache_schema.errors import TapeError
from cache_schema.hidden import HiddenPlace
from cache_schema.signals import AUDIO_ROW
from train.steps.ring import HostBuffer, Readers
from train.terms.resolve import StatesAt


@dataclass(frozen=True, kw_only=True)
class StatesPlan:
    """States of one micro-batch, found but not read.

    Attributes:
        layers: the L layers.
        places: where each row's states lie, in the batch's order.
        width: D.
        dtype: the type they are stored in; ``float32`` if shards differ.
    """

    layers: tuple[int, ...]
    places: tuple[HiddenPlace, ...]
    width: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, N, D): one contiguous block a layer."""
        return len(self.layers), sum(place.count for place in self.places), self.width

    @property
    def num_bytes(self) -> int:
        """What they take in the batch."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def plan_states(places: Sequence[HiddenPlace], layers: tuple[int, ...], signal: str) -> StatesPlan:
    """Return the plan of a micro-batch's states.

    Raises:
        TapeError: rows were recorded with different widths.
    """
    widths = sorted({place.states.width for place in places})
    if len(widths) != 1:
        raise TapeError(f"{signal} has states of widths {widths} in one batch; verify the tape")
    dtypes = {place.states.dtype for place in places}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    return StatesPlan(layers=layers, places=tuple(places), width=widths[0], dtype=dtype)


def start_states(plan: StatesPlan, buffer: HostBuffer, readers: Readers) -> Tensor:
    """Begin to read states; return their tensor [L, N, D], whole after ``buffer.wait``.

    Args:
        plan: what to read.
        buffer: with room reserved for ``plan.num_bytes``.
        readers: threads that read.
    """
    states_LND = buffer.take(plan.shape, DTYPES[plan.dtype])
    raw = states_LND.view(torch.int16) if plan.dtype == "bfloat16" else states_LND
    memory = raw.numpy().view(bfloat16.STORED_DTYPES[plan.dtype])
    reads: list[Callable[[], None]] = []
    start = 0
    for place in plan.places:
        # layers of one row follow each other: threads then work on different files, and none is
        # checked twice when it is first touched
        for number, layer in enumerate(plan.layers):
            out = memory[number, start : start + place.count]
            read = place.read_into if place.states.dtype == plan.dtype else _widened(place)
            reads.append(functools.partial(read, layer, out))
        start += place.count
    buffer.fill(readers, reads)
    return states_LND


def _widened(place: HiddenPlace) -> Callable[[int, NDArray[Any]], None]:
    """Read as float32 what shards of one signal hold in different types."""

    def read_into(layer: int, out: NDArray[Any]) -> None:
        stored = np.empty(out.shape, dtype=bfloat16.STORED_DTYPES[place.states.dtype])
        place.read_into(layer, stored)
        out[:] = bfloat16.decode(stored)

    return read_into


def damaged_states(
    tape: Tape, rows: Sequence[tuple[str, int]], states: Mapping[StatesAt, tuple[int, ...]]
) -> list[str]:
    """Return what is wrong with the states of (sample id, trace index) rows, a line a row.

    Loading does not look at the values; every layer that is read meets a loss, where a state that
    is not finite shows. This finds whose it was.
    """
    found = []
    for sample_id, trace in rows:
        for where, layers in states.items():
            name = f"{where.source}/hidden"
            try:
                tape[sample_id].signal(name, trace if where.of_trace else AUDIO_ROW, layers)
            except TapeError as error:
                found.append(f"{name} of sample {sample_id!r}: {error}")
    return found
