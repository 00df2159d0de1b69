"""What teachers say of the response tokens, stacked over the rows of a micro-batch.

Rows go to their place one by one: beside the batch there is never more than one of them.

Shapes: N response tokens of all rows in order, T of one row, K kept tokens, U unique drawn tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cache_schema import TapeRow
from cache_schema.errors import MissingSignalError, TokenizerMismatchError
from cache_schema.types import TEXT_SOURCE, FloatArray, IntArray, Lens, Sampled, TopK, Trace
from train.alignment.translation import Translated, Translation
from train.losses.vocabulary import NO_TOKEN

Known = Callable[[IntArray], Any]
"""Token ids -> a boolean mask: which mean the same to the student."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row.

    Attributes:
        row: its sample.
        trace_index: which of its traces.
        target_ids: int64 [R], that trace in the student's ids.
        translated: where these are not the recorded ones: how the two meet.
        translation: likewise: the two tokenizers.
    """

    row: TapeRow
    trace_index: int
    target_ids: IntArray
    translated: Translated | None = None
    translation: Translation | None = None

    @property
    def recorded_ids(self) -> IntArray:
        """int64 [T], the trace in the textual teacher's ids."""
        trace = cast("Trace", self.row.signal(f"{TEXT_SOURCE}/trace", self.trace_index))
        return trace.token_ids


@dataclass(frozen=True, kw_only=True)
class TopKTargets:
    """A teacher's kept tokens: int64 [N, K] (``NO_TOKEN``: none), float32 [N, K] and tail [N].

    ``count`` is the number of positions it says something of; ``None`` for all. ``unknown`` is the
    mass, over these, of kept tokens the student lacks: it is in the tail.
    """

    token_ids: Tensor
    logprobs: Tensor
    tail: Tensor
    count: int | None = None
    unknown: float = 0.0

    def to(self, device: torch.device) -> TopKTargets:
        """Return them on ``device``."""
        return TopKTargets(
            token_ids=self.token_ids.to(device, non_blocking=True),
            logprobs=self.logprobs.to(device, non_blocking=True),
            tail=self.tail.to(device, non_blocking=True),
            count=self.count,
            unknown=self.unknown,
        )


@dataclass(frozen=True, kw_only=True)
class SampledTargets:
    """Drawn tokens: int64 [N, U] (``NO_TOKEN``: none) and their shares of the draws [N, U].

    ``count`` as of ``TopKTargets``. ``unknown`` is the share of the draws, summed over positions,
    that fell on tokens the student lacks: they are left out.
    """

    token_ids: Tensor
    shares: Tensor
    count: int | None = None
    unknown: float = 0.0

    def to(self, device: torch.device) -> SampledTargets:
        """Return them on ``device``."""
        return SampledTargets(
            token_ids=self.token_ids.to(device, non_blocking=True),
            shares=self.shares.to(device, non_blocking=True),
            count=self.count,
            unknown=self.unknown,
        )


def stack_topk(places: Sequence[Place], source: str, known: Known) -> TopKTargets:
    """Stack a source's top-k, each row with all it kept: none depends on those beside it.

    Raises:
        TokenizerMismatchError: it was recorded on other ids than the trace's.
    """
    stack = _Stack(sum(len(place.target_ids) for place in places), known)
    for place in places:
        topk = cast("TopK", _of_trace(place, f"{source}/topk"))
        stack.add(*_translated(place, topk))
    return stack.targets()


def stack_lens(
    places: Sequence[Place], source: str, layers: Sequence[int], known: Known
) -> dict[int, TopKTargets]:
    """Stack layers of a source's lens, as ``stack_topk`` does; each row is decoded once.

    Raises:
        TokenizerMismatchError: it was recorded on other ids than the trace's.
        MissingSignalError: a row lacks a layer.
    """
    num_tokens = sum(len(place.target_ids) for place in places)
    stacks = {layer: _Stack(num_tokens, known) for layer in layers}
    for place in places:
        lens = cast("Lens", _of_trace(place, f"{source}/lens"))
        for layer, stack in stacks.items():
            if layer not in lens.layers:
                raise MissingSignalError(
                    f"sample {place.row.sample_id!r}: {source}/lens has layers "
                    f"{', '.join(map(str, lens.layers))}, not {layer}; verify the tape"
                )
            m = lens.layers.index(layer)
            topk = TopK(
                target_ids=lens.target_ids,
                token_ids=lens.token_ids[:, m],
                logprobs=lens.logprobs[:, m],
                tail=lens.tail[:, m],
            )
            stack.add(*_translated(place, topk))
    return {layer: stack.targets() for layer, stack in stacks.items()}


def stack_sampled(places: Sequence[Place], source: str, known: Known) -> SampledTargets:
    """Stack a source's drawn tokens.

    Raises:
        TokenizerMismatchError: they were recorded on other ids than the trace's.
    """
    drawn, count = [], 0
    for place in places:
        each = cast("Sampled", _of_trace(place, f"{source}/sampled"))
        said = len(each.target_ids)
        if not np.array_equal(each.target_ids, place.target_ids):
            assert place.translated is not None
            assert place.translation is not None
            each = place.translation.sampled(each, place.translated)
            said = len(place.translated.ours)
        drawn.append(each)
        count += said
    widths = [np.diff(each.offsets) for each in drawn]
    shape = sum(map(len, widths)), max((int(w.max()) for w in widths if len(w)), default=0)
    token_ids = np.full(shape, NO_TOKEN, dtype=np.int64)
    shares = np.zeros(shape, dtype=np.float32)
    # row-major order of a mask is that of the entries: token by token
    filled = np.arange(shape[1]) < np.concatenate(widths)[:, None]
    ids = np.concatenate([each.token_ids for each in drawn])
    token_ids[filled] = np.where(known(ids), ids, NO_TOKEN)
    shares[filled] = np.concatenate([each.counts / each.num_draws for each in drawn])
    unknown = float(shares[token_ids == NO_TOKEN].sum(dtype=np.float64))
    return SampledTargets(
        token_ids=torch.from_numpy(token_ids),
        shares=torch.from_numpy(shares),
        count=count,
        unknown=unknown,
    )


def _of_trace(place: Place, name: str) -> Any:
    signal: Any = place.row.signal(name, place.trace_index)
    require_same_tokens(place, name, signal.target_ids)
    return signal


def _translated(place: Place, topk: TopK) -> tuple[TopK, int, float]:
    """Return a row's top-k in the student's tokens, and what ``_Stack.add`` wants beside it."""
    if np.array_equal(topk.target_ids, place.target_ids):
        return topk, len(topk.target_ids), 0.0
    assert place.translated is not None
    assert place.translation is not None
    theirs = place.translated.theirs
    found = place.translation.topk(topk, place.translated)
    return found, len(theirs), _mass(topk.logprobs[theirs]) - _mass(found.logprobs)


def _mass(logprobs: FloatArray) -> float:
    return float(np.exp(logprobs.astype(np.float64)).sum())


def require_same_tokens(place: Place, name: str, target_ids: IntArray | None) -> None:
    """Refuse a signal of other tokens than the trace's, be they recorded or translated.

    Raises:
        TokenizerMismatchError: naming it.
    """
    known = [place.target_ids, *([place.recorded_ids] if place.translated else [])]
    if target_ids is None or not any(np.array_equal(target_ids, ids) for ids in known):
        raise TokenizerMismatchError(
            f"sample {place.row.sample_id!r}: {name} was recorded on other token ids "
            f"than the trace's, so its teacher's tokenizer differs from the textual one; leave "
            f"terms on {name} out of the recipe"
        )


class _Stack:
    """Top-k of N tokens, filled row by row; as wide as its widest row.

    Args:
        num_tokens: N.
        known: which ids mean the same to the student.
    """

    def __init__(self, num_tokens: int, known: Known) -> None:
        self._num_tokens, self._known = num_tokens, known
        self._start = self._count = 0
        self._unknown = 0.0
        self._token_ids, self._logprobs = _nothing((num_tokens, 0))
        self._tail = np.empty(num_tokens, dtype=np.float32)

    def add(self, topk: TopK, count: int, unknown: float) -> None:
        """Add the next row.

        Args:
            topk: what it says.
            count: of how many tokens that is.
            unknown: mass of tokens the student lacks that is in its tail already.
        """
        own, until_now = topk.token_ids.shape[1], self._token_ids.shape[1]
        if own > until_now:
            token_ids, logprobs = _nothing((self._num_tokens, own))
            token_ids[:, :until_now], logprobs[:, :until_now] = self._token_ids, self._logprobs
            self._token_ids, self._logprobs = token_ids, logprobs
        rows = slice(self._start, self._start + len(topk.target_ids))
        ids, logprobs, folded = fold_topk(topk, self._known)
        self._token_ids[rows, :own], self._logprobs[rows, :own] = ids, logprobs
        self._tail[rows] = topk.tail + folded
        self._unknown += unknown + float(folded.sum())
        self._count, self._start = self._count + count, rows.stop

    def targets(self) -> TopKTargets:
        """Return what was added."""
        assert self._start == self._num_tokens
        return TopKTargets(
            token_ids=torch.from_numpy(self._token_ids),
            logprobs=torch.from_numpy(self._logprobs),
            tail=torch.from_numpy(self._tail),
            count=self._count,
            unknown=self._unknown,
        )


def _nothing(shape: tuple[int, int]) -> tuple[IntArray, FloatArray]:
    return np.full(shape, NO_TOKEN, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)


def fold_topk(topk: TopK, known: Known) -> tuple[Any, Any, Any]:
    """Return ids, log-probabilities [T, k], and the mass [T] of tokens the student lacks.

    That mass belongs in the tail. Merging buckets is exact: the divergence is that over the coarser
    buckets.
    """
    kept = known(topk.token_ids) & ~np.isneginf(topk.logprobs)
    folded = np.where(kept, 0.0, np.exp(topk.logprobs.astype(np.float64))).sum(axis=1)
    ids = np.where(kept, topk.token_ids, NO_TOKEN)
    return ids, np.where(kept, topk.logprobs, -np.inf).astype(np.float32), folded
