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
from cache_schema.questions import question_text
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE, Hidden, IntArray, TopK

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
        text_states: float32 [N, L, D] at the same positions, or ``None``.
        audio_states: float32 [A, L, D] at audio positions, or ``None``.
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


def collate(lm: AudioLM, tape: Tape, rows: Sequence[tuple[str, int]], needs: Needs) -> TrainBatch:
    """Read (sample id, trace index) rows from the tape and build one micro-batch.

    Raises:
        TapeError: a signal belongs to other tokens or other audio positions than the row's.
        TokenizerMismatchError: a teacher was read on other ids than the trace's.
        MissingSignalError: a row lacks a signal.
    """
    samples = [tape[sample_id] for sample_id, _ in rows]
    targets = [
        sample.traces[trace].token_ids for sample, (_, trace) in zip(samples, rows, strict=True)
    ]
    audio = build_inputs(
        lm,
        [
            Request(
                audio=sample.audio,
                text=question_text(sample.question, sample.choices),
                response_ids=ids,
            )
            for sample, ids in zip(samples, targets, strict=True)
        ],
    )
    places = [
        Place(row=sample, trace_index=trace, target_ids=ids)
        for sample, (_, trace), ids in zip(samples, rows, targets, strict=True)
    ]
    return TrainBatch(
        audio=audio,
        target_ids=torch.from_numpy(np.concatenate(targets)),
        topk={source: _stack_topk(places, source, needs.known[source]) for source in needs.topk},
        text_states=_text_states(places, needs.text_layers),
        audio_states=_audio_states(places, needs.audio_layers, audio),
        num_tokens=int(audio.inputs["attention_mask"].sum()),
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row's sample, which of its traces, and that trace's ids, int64 [R]."""

    row: TapeRow
    trace_index: int
    target_ids: IntArray


def _stack_topk(
    places: Sequence[Place], source: str, known: Callable[[IntArray], Any]
) -> TopKTargets:
    """Stack a source's top-k; entries beyond the narrowest row's k go to the tail."""
    found = []
    for place in places:
        topk = cast("TopK", place.row.signal(f"{source}/topk", place.trace_index))
        if not np.array_equal(topk.target_ids, place.target_ids):
            raise TokenizerMismatchError(
                f"sample {place.row.sample_id!r}: {source}/topk was recorded on other token ids "
                f"than the trace's, so its teacher's tokenizer differs from the textual one; leave "
                f"terms on {source}/topk out of the recipe"
            )
        found.append(topk)
    width = min(topk.token_ids.shape[1] for topk in found)
    columns = [fold_topk(topk, width, known) for topk in found]
    token_ids, logprobs, tail = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*columns, strict=True)
    )
    return TopKTargets(token_ids=token_ids, logprobs=logprobs, tail=tail)


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


def _text_states(places: Sequence[Place], layers: tuple[int, ...]) -> Tensor | None:
    if not layers:
        return None
    states = []
    for place in places:
        hidden = _hidden(place.row, TEXT_SOURCE, place.trace_index, layers)
        if hidden.target_ids is None or not np.array_equal(hidden.target_ids, place.target_ids):
            raise TapeError(
                f"sample {place.row.sample_id!r}: textual/hidden belongs to other tokens than "
                f"trace {place.trace_index}; verify the tape"
            )
        states.append(hidden.states)
    return torch.from_numpy(np.concatenate(states))


def _audio_states(
    places: Sequence[Place], layers: tuple[int, ...], audio: AudioBatch
) -> Tensor | None:
    if not layers:
        return None
    states = []
    for place, positions in zip(places, audio.audio_positions, strict=True):
        hidden = _hidden(place.row, AUDIO_SOURCE, AUDIO_ROW, layers)
        if hidden.kind != "audio" or len(hidden.states) != len(positions):
            raise TapeError(
                f"sample {place.row.sample_id!r}: the acoustic teacher has {len(hidden.states)} "
                f"positions ({hidden.kind}), the student {len(positions)} audio positions; the "
                "acoustic terms need a teacher with the student's audio front end"
            )
        states.append(hidden.states)
    return torch.from_numpy(np.concatenate(states))


def _hidden(row: TapeRow, source: str, trace_index: int, layers: tuple[int, ...]) -> Hidden:
    return cast("Hidden", row.signal(f"{source}/hidden", trace_index, layers))


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def _topk_to(topk: TopKTargets, device: torch.device) -> TopKTargets:
    return TopKTargets(
        token_ids=topk.token_ids.to(device, non_blocking=True),
        logprobs=topk.logprobs.to(device, non_blocking=True),
        tail=topk.tail.to(device, non_blocking=True),
    )
