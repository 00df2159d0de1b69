"""What both textual engines do with a row's log-probabilities, and how rows are put into batches.

Shapes: T trace tokens, k kept logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError
from cache_schema.types import FloatArray, IntArray
from pipeline.teachers.base import TokenSignals

_T = TypeVar("_T")


def token_signals(
    target_ids: IntArray,
    entry_ids: IntArray,
    entry_logprobs: FloatArray,
    states: Mapping[int, NDArray[np.generic]],
) -> TokenSignals:
    """Put together what a teacher says about one trace.

    The tail is 1 minus the summed probabilities of the k, in float64 from float32
    log-probabilities: its absolute error is about 1e-6, so a tail below that is noise.

    Args:
        target_ids: int64 [T], the trace's ids as they were sent.
        entry_ids: int64 [T, 1 + k], the token that was there, then the k most probable ones.
        entry_logprobs: float32 [T, 1 + k], their log-probabilities at temperature 1.
        states: layer -> [T, D].

    Raises:
        ModelError: the engine reports on other tokens, or on fewer, than the trace's.
    """
    if len(entry_ids) != len(target_ids):
        raise ModelError(f"{len(entry_ids)} log-probabilities for {len(target_ids)} trace tokens")
    if not np.array_equal(entry_ids[:, 0], target_ids):
        raise ModelError("the engine's log-probabilities belong to other tokens than the trace's")
    lengths = {len(values) for values in states.values()} - {len(target_ids)}
    if lengths:
        raise ModelError(f"{sorted(lengths)} hidden states for {len(target_ids)} trace tokens")
    kept = np.exp(entry_logprobs[:, 1:].astype(np.float64)).sum(axis=1)
    return TokenSignals(
        target_ids=target_ids,
        topk_ids=entry_ids[:, 1:],
        topk_logprobs=entry_logprobs[:, 1:],
        tail=np.clip(1.0 - kept, 0.0, 1.0).astype(np.float32),
        target_logprobs=entry_logprobs[:, 0],
        states=states,
    )


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
