"""How rows are put into batches, and whether they fit: what both textual engines share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from cache_schema.errors import ModelError
from cache_schema.types import IntArray

_T = TypeVar("_T")


def batches_of(lengths: Sequence[int], max_tokens: int) -> Iterator[range]:
    """Split rows, in order, into runs of at most ``max_tokens`` tokens (or one longer row)."""
    start, tokens = 0, 0
    for row, length in enumerate(lengths):
        if row > start and tokens + length > max_tokens:
            yield range(start, row)
            start, tokens = row, 0
        tokens += length
    if start < len(lengths):
        yield range(start, len(lengths))


def grouped(items: Sequence[_T], size: int) -> list[list[_T]]:
    """Split items, in order, into groups of one size."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def check_fits(rows: Sequence[IntArray], new_tokens: int, max_len: int) -> None:
    """Refuse rows that, with the tokens to come, are longer than the engine takes.

    Raises:
        ModelError: saying how long the longest is.
    """
    longest = max((len(row) for row in rows), default=0) + new_tokens
    if longest > max_len:
        raise ModelError(
            f"{longest} tokens of prompt and trace: the engine was started for {max_len} "
            "(max_model_len)"
        )
