"""Batches of items of similar length, of a size that is found by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from cache_schema.commands.console import say
from pipeline.teachers.acoustic import Item

T = TypeVar("T")

FIRST_SECONDS = 64.0
"""Seconds of audio of a pass, padding included, where the size is found: at first on a GPU, and all
along elsewhere, where a larger pass is no faster."""

MAX_ITEMS = 512
GROWS_BELOW = 0.4
"""A pass that took less of the GPU's memory than this is followed by passes of twice the size."""


@dataclass(kw_only=True)
class Capacity:
    """How much goes into one pass.

    Attributes:
        items: most items of a pass.
        seconds: most seconds of a pass, padding included; ``None`` counts items only.
    """

    items: int
    seconds: float | None
    _peak: float = 0.0

    @classmethod
    def of(cls, batch_size: int) -> Capacity:
        """Return a fixed number of items, or for 0 one that is to be found."""
        if batch_size:
            return cls(items=batch_size, seconds=None)
        return cls(items=MAX_ITEMS, seconds=FIRST_SECONDS)

    def holds(self, count: int, longest_s: float) -> bool:
        """Whether so many items fit, the longest this long; one item always does."""
        fits = self.seconds is None or count * longest_s <= self.seconds
        return count == 1 or (count <= self.items and fits)

    def halve(self, count: int, longest_s: float, title: str) -> None:
        """Take half of a pass that did not fit, from now on, and say so."""
        if self.seconds is None:
            self.items = min(self.items, max(1, count // 2))
        else:
            self.seconds = min(self.seconds, count * longest_s / 2)
        self._peak = 1.0  # it does not grow again
        say(f"{title}: out of memory with {count} items a pass, from now on {self.told()}")

    def saw(self, count: int, longest_s: float, used: float | None) -> None:
        """Grow where a full pass left room.

        Args:
            count: items of a pass that fitted.
            longest_s: the longest of them.
            used: part of the device's memory that was taken at most, ``None`` if unknown.
        """
        if self.seconds is None or used is None:
            return
        self._peak = max(self._peak, used)
        if self._peak < GROWS_BELOW and count * longest_s > self.seconds / 2:
            self.seconds *= 2

    def told(self) -> str:
        """Return the size in words."""
        if self.seconds is None:
            return f"{self.items} items a pass"
        return f"{self.seconds:g} s of audio a pass"


def cut(
    items: Iterable[tuple[T, Item]], capacity: Capacity, same_length: bool
) -> Iterator[list[tuple[T, Item]]]:
    """Cut items into batches, in order.

    Args:
        items: whose each is, and the item; by rising length where little padding is wanted.
        capacity: read anew for each batch.
        same_length: whether only items of one length may share a batch.
    """
    batch: list[tuple[T, Item]] = []
    longest_s = 0.0
    for owner, item in items:
        longer_s = max(longest_s, item.length_s)
        differs = bool(batch) and same_length and len(batch[0][1].audio) != len(item.audio)
        if batch and (differs or not capacity.holds(len(batch) + 1, longer_s)):
            yield batch
            batch, longer_s = [], item.length_s
        batch.append((owner, item))
        longest_s = longer_s
    if batch:
        yield batch


def memory_used(device: torch.device) -> float | None:
    """Return the largest part of a GPU's memory taken since the last call; ``None`` elsewhere."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak / torch.cuda.get_device_properties(device).total_memory
