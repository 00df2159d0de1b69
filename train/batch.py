"""One micro-batch: model inputs and everything the losses compare with, joined by sample id.

Shapes: B rows, N response tokens of all rows in order, A audio positions of all rows in order,
K kept tokens, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM
from cache_schema import Tape, TapeRow
from cache_schema.errors import TapeError, TokenizerMismatchError
from cache_schema.hidden import HiddenPlace
from cache_schema.questions import question_text
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE, IntArray, TopK, Trace
from train.ring import HostBuffer, Readers
from train.states import StatesPlan, plan_states, start_states

NO_TOKEN = -1
"""A kept token the student does not have; its mass is in the tail."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the objective reads from the tape.

    Attributes:
        topk: sources whose top-k is read.
        text_layers: textual teacher's layers, ascending.
        audio_layers: acoustic teacher's layers, ascending.
        known: source -> function telling which token ids mean the same to the student.
    """

    topk: tuple[str, ...] = ()
    text_layers: tuple[int, ...] = ()
    audio_layers: tuple[int, ...] = ()
    known: Mapping[str, Callable[[IntArray], Any]]


@dataclass(frozen=True, kw_only=True)
class TopKTargets:
    """A teacher's kept tokens: int64 [N, K] (``NO_TOKEN``: none), float32 [N, K] and tail [N]."""

    token_ids: Tensor
    logprobs: Tensor
    tail: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """One forward pass worth of rows.

    Attributes:
        audio: model inputs and positions.
        target_ids: int64 [N], the response tokens.
        topk: source -> what it says about the same tokens.
        text_states: [L, N, D] at the same positions, in the type they are stored in, or ``None``.
        audio_states: [L, A, D] at audio positions, likewise.
        num_tokens: unpadded input positions.
    """

    audio: AudioBatch
    target_ids: Tensor
    topk: dict[str, TopKTargets]
    text_states: Tensor | None
    audio_states: Tensor | None
    num_tokens: int

    @property
    def num_audio_positions(self) -> int:
        """A, audio positions of all rows."""
        return sum(len(positions) for positions in self.audio.audio_positions)

    def to(self, device: torch.device) -> TrainBatch:
        """Return the batch on ``device``."""
        return replace(
            self,
            audio=self.audio.to(device),
            target_ids=self.target_ids.to(device, non_blocking=True),
            topk={source: _topk_to(topk, device) for source, topk in self.topk.items()},
            text_states=_to(self.text_states, device),
            audio_states=_to(self.audio_states, device),
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row's sample, which of its traces, and that trace's ids, int64 [R]."""

    row: TapeRow
    trace_index: int
    target_ids: IntArray


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The rows of one micro-batch, found on the tape; their states are not read yet."""

    places: tuple[Place, ...]
    text_states: StatesPlan | None
    audio_states: StatesPlan | None

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor of states."""
        return [plan.num_bytes for plan in (self.text_states, self.audio_states) if plan]


def load_batches(
    lm: AudioLM,
    tape: Tape,
    shares: Sequence[Sequence[tuple[str, int]]],
    needs: Needs,
    buffer: HostBuffer,
    readers: Readers,
) -> list[TrainBatch]:
    """Read micro-batches of (sample id, trace index) rows from the tape.

    Args:
        lm: the student's processor.
        tape: where rows come from.
        shares: the rows of each micro-batch.
        needs: what to read.
        buffer: where the states of all of them go: whole after its ``wait``, valid until it is
            filled again.
        readers: threads that read states while the calling one extracts audio features.

    Raises:
        TapeError: a signal belongs to other tokens or other audio positions than the row's.
        TokenizerMismatchError: a teacher was read on other ids than the trace's.
        MissingSignalError: a row lacks a signal.
    """
    plans = [plan_batch(tape, rows, needs) for rows in shares]
    buffer.reserve([size for plan in plans for size in plan.sizes])
    return [_collate(lm, plan, needs, buffer, readers) for plan in plans]


def plan_batch(tape: Tape, rows: Sequence[tuple[str, int]], needs: Needs) -> BatchPlan:
    """Find the rows of one micro-batch and where their states lie.

    Raises:
        TapeError: recorded states belong to other tokens than the trace's.
        MissingSignalError: a row lacks a signal.
    """
    places = tuple(_place(tape[sample_id], trace) for sample_id, trace in rows)
    text = [_text_place(place, needs.text_layers) for place in places if needs.text_layers]
    audio = [
        place.row.hidden_place(f"{AUDIO_SOURCE}/hidden", AUDIO_ROW, needs.audio_layers)
        for place in places
        if needs.audio_layers
    ]
    return BatchPlan(
        places=places,
        text_states=plan_states(text, needs.text_layers, f"{TEXT_SOURCE}/hidden"),
        audio_states=plan_states(audio, needs.audio_layers, f"{AUDIO_SOURCE}/hidden"),
    )


def _collate(
    lm: AudioLM, plan: BatchPlan, needs: Needs, buffer: HostBuffer, readers: Readers
) -> TrainBatch:
    """Build one micro-batch; its states are read meanwhile, and perhaps for some time after."""
    text_states = start_states(plan.text_states, buffer, readers)
    audio_states = start_states(plan.audio_states, buffer, readers)
    places = plan.places
    audio = build_inputs(
        lm,
        [
            Request(
                audio=place.row.audio,
                text=question_text(place.row.question, place.row.choices),
                response_ids=place.target_ids,
            )
            for place in places
        ],
    )
    if plan.audio_states is not None:
        _require_same_positions(places, plan.audio_states, audio)
    topk = {source: _stack_topk(places, source, needs.known[source]) for source in needs.topk}
    return TrainBatch(
        audio=audio,
        target_ids=torch.from_numpy(np.concatenate([place.target_ids for place in places])),
        topk=topk,
        text_states=text_states,
        audio_states=audio_states,
        num_tokens=int(audio.inputs["attention_mask"].sum()),
    )


def _place(row: TapeRow, trace_index: int) -> Place:
    trace = cast("Trace", row.signal(f"{TEXT_SOURCE}/trace", trace_index))
    return Place(row=row, trace_index=trace_index, target_ids=trace.token_ids)


def _stack_topk(
    places: Sequence[Place], source: str, known: Callable[[IntArray], Any]
) -> TopKTargets:
    """Stack a source's top-k; entries beyond the narrowest row's k go to the tail.

    Rows go to their place one by one: beside the batch there is never more than one of them.
    """
    num_tokens = sum(len(place.target_ids) for place in places)
    width = narrowest = _topk_of(places[0], source).token_ids.shape[1]
    token_ids = np.full((num_tokens, width), NO_TOKEN, dtype=np.int64)
    logprobs = np.full((num_tokens, width), -np.inf, dtype=np.float32)
    tail = np.empty(num_tokens, dtype=np.float32)
    start = 0
    for place in places:
        topk = _topk_of(place, source)
        own = min(width, topk.token_ids.shape[1])
        rows = slice(start, start + len(place.target_ids))
        token_ids[rows, :own], logprobs[rows, :own], tail[rows] = fold_topk(topk, own, known)
        narrowest, start = min(narrowest, own), rows.stop
    if narrowest < width:
        stacked = TopK(
            target_ids=token_ids[:, 0], token_ids=token_ids, logprobs=logprobs, tail=tail
        )
        token_ids, logprobs, tail = fold_topk(stacked, narrowest, lambda ids: ids != NO_TOKEN)
    return TopKTargets(
        token_ids=torch.from_numpy(token_ids),
        logprobs=torch.from_numpy(logprobs),
        tail=torch.from_numpy(tail),
    )


def _topk_of(place: Place, source: str) -> TopK:
    topk = cast("TopK", place.row.signal(f"{source}/topk", place.trace_index))
    if not np.array_equal(topk.target_ids, place.target_ids):
        raise TokenizerMismatchError(
            f"sample {place.row.sample_id!r}: {source}/topk was recorded on other token ids "
            f"than the trace's, so its teacher's tokenizer differs from the textual one; leave "
            f"terms on {source}/topk out of the recipe"
        )
    return topk


def fold_topk(topk: TopK, width: int, known: Callable[[IntArray], Any]) -> tuple[Any, Any, Any]:
    """Return ids, log-probabilities [T, width] and tail [T], what is left out added to the tail.

    Merging buckets is exact: the divergence is that over the coarser buckets.
    """
    kept = known(topk.token_ids) & ~np.isneginf(topk.logprobs)
    kept[:, width:] = False
    folded = np.where(kept, 0.0, np.exp(topk.logprobs.astype(np.float64))).sum(axis=1)
    ids = np.where(kept, topk.token_ids, NO_TOKEN)[:, :width]
    logprobs = np.where(kept, topk.logprobs, -np.inf)[:, :width].astype(np.float32)
    return ids, logprobs, (topk.tail + folded).astype(np.float32)


def _text_place(place: Place, layers: tuple[int, ...]) -> HiddenPlace:
    hidden = place.row.hidden_place(f"{TEXT_SOURCE}/hidden", place.trace_index, layers)
    if hidden.target_ids is None or not np.array_equal(hidden.target_ids, place.target_ids):
        raise TapeError(
            f"sample {place.row.sample_id!r}: textual/hidden belongs to other tokens than "
            f"trace {place.trace_index}; verify the tape"
        )
    return hidden


def _require_same_positions(places: Sequence[Place], states: StatesPlan, audio: AudioBatch) -> None:
    """Refuse acoustic states of other audio positions than the student's."""
    for place, hidden, positions in zip(places, states.places, audio.audio_positions, strict=True):
        if hidden.kind != "audio" or hidden.count != len(positions):
            raise TapeError(
                f"sample {place.row.sample_id!r}: the acoustic teacher has {hidden.count} "
                f"positions ({hidden.kind}), the student {len(positions)} audio positions; the "
                "acoustic terms need a teacher with the student's audio front end"
            )


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def _topk_to(topk: TopKTargets, device: torch.device) -> TopKTargets:
    return TopKTargets(
        token_ids=topk.token_ids.to(device, non_blocking=True),
        logprobs=topk.logprobs.to(device, non_blocking=True),
        tail=topk.tail.to(device, non_blocking=True),
    )
