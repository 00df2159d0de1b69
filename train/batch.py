"""One micro-batch: model inputs and everything the losses compare with, joined by sample id.

Shapes: B rows, N response tokens of all rows in order, A audio positions of all rows in order,
L layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM
from cache_schema import Tape, TapeRow
from cache_schema.errors import TapeError
from cache_schema.hidden import HiddenPlace
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import TEXT_SOURCE, IntArray, Trace
from train.alignment.meeting import Meeting, meet, meet_tokens
from train.alignment.translation import Translation
from train.reading import prompt_text
from train.ring import HostBuffer, Readers
from train.states import StatesPlan, plan_states, start_states
from train.targets import (
    Known,
    Place,
    SampledTargets,
    TopKTargets,
    require_same_tokens,
    stack_lens,
    stack_sampled,
    stack_topk,
)
from train.terms import StatesAt


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the objective reads from a task's tape; nothing else is loaded.

    Attributes:
        terms: names of the terms computed.
        reads: what the student reads, the ``audio`` or the ``description``.
        topk: sources whose top-k is read.
        sampled: sources whose drawn tokens are read.
        lens: source -> layers of its lens, ascending.
        states: where -> layers of recorded states, ascending.
        known: source -> function telling which token ids mean the same to the student.
        translation: how traces become the student's tokens, ``None`` where they are.
    """

    terms: tuple[str, ...] = ()
    reads: str = "audio"
    topk: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    lens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    states: Mapping[StatesAt, tuple[int, ...]] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    translation: Translation | None = None

    @property
    def of_tokens(self) -> list[str]:
        """Sources whose token ids are compared with the student's."""
        return sorted({*self.topk, *self.sampled, *self.lens})

    @property
    def rows(self) -> list[tuple[str, bool]]:
        """Every signal beside the trace, and whether it is of the trace, not of the recording."""
        names = [f"{source}/topk" for source in self.topk]
        names += [f"{source}/sampled" for source in self.sampled]
        names += [f"{source}/lens" for source in self.lens]
        states = [(f"{where.source}/hidden", where.of_trace) for where in self.states]
        return [*((name, True) for name in names), *states]


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """One forward pass worth of rows.

    Attributes:
        terms: names of the terms computed on them.
        audio: model inputs and positions.
        target_ids: int64 [N], the response tokens.
        topk: source -> what it says about the same tokens.
        sampled: source -> tokens it drew in their places.
        lens: source -> layer -> what that layer says about the same tokens.
        states: where -> [L, N, D] at the positions that predict them, or [L, F, D] at the teacher's
            audio positions or frames, in the type they are stored in.
        meetings: where, of audio or of other tokens -> which positions of the student they are
            compared with.
        num_tokens: unpadded input positions.
    """

    terms: tuple[str, ...]
    audio: AudioBatch
    target_ids: Tensor
    topk: dict[str, TopKTargets]
    sampled: dict[str, SampledTargets]
    lens: dict[str, dict[int, TopKTargets]]
    states: dict[StatesAt, Tensor]
    meetings: dict[StatesAt, Meeting]
    num_tokens: int

    def to(self, device: torch.device) -> TrainBatch:
        """Return the batch on ``device``."""
        return replace(
            self,
            audio=self.audio.to(device),
            target_ids=self.target_ids.to(device, non_blocking=True),
            topk={source: topk.to(device) for source, topk in self.topk.items()},
            sampled={source: drawn.to(device) for source, drawn in self.sampled.items()},
            lens={
                source: {layer: topk.to(device) for layer, topk in layers.items()}
                for source, layers in self.lens.items()
            },
            states={
                where: states.to(device, non_blocking=True) for where, states in self.states.items()
            },
            meetings={where: meeting.to(device) for where, meeting in self.meetings.items()},
        )


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The rows of one micro-batch, found on the tape; their states are not read yet."""

    places: tuple[Place, ...]
    states: Mapping[StatesAt, StatesPlan]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor of states."""
        return [plan.num_bytes for plan in self.states.values()]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The rows of one micro-batch, not looked up yet.

    Attributes:
        tape: where they come from.
        needs: what to read.
        rows: (sample id, trace index) of each; ``AUDIO_ROW`` for a recording without a response.
    """

    tape: Tape
    needs: Needs
    rows: Sequence[tuple[str, int]]


def load_batches(
    lm: AudioLM, shares: Sequence[Share], buffer: HostBuffer, readers: Readers
) -> list[TrainBatch]:
    """Read micro-batches from their tapes.

    Args:
        lm: the student's processor.
        shares: the rows of each micro-batch.
        buffer: where the states of all of them go: whole after its ``wait``, valid until it is
            filled again.
        readers: threads that read states while the calling one extracts audio features.

    Raises:
        TapeError: a signal belongs to other tokens than the row's, or to other seconds.
        TokenizerMismatchError: a teacher was read on other ids than the trace's.
        MissingSignalError: a row lacks a signal.
    """
    plans = [plan_batch(share.tape, share.rows, share.needs) for share in shares]
    buffer.reserve([size for plan in plans for size in plan.sizes])
    return [
        _collate(lm, plan, share.needs, buffer, readers)
        for plan, share in zip(plans, shares, strict=True)
    ]


def plan_batch(tape: Tape, rows: Sequence[tuple[str, int]], needs: Needs) -> BatchPlan:
    """Find the rows of one micro-batch and where their states lie.

    Raises:
        TapeError: recorded states belong to other tokens than the trace's.
        MissingSignalError: a row lacks a signal.
    """
    places = tuple(_place(tape[sample_id], trace, needs.translation) for sample_id, trace in rows)
    return BatchPlan(
        places=places,
        states={
            where: plan_states(
                [_states_place(place, where, layers) for place in places],
                layers,
                f"{where.source}/hidden",
            )
            for where, layers in needs.states.items()
        },
    )


def _collate(
    lm: AudioLM, plan: BatchPlan, needs: Needs, buffer: HostBuffer, readers: Readers
) -> TrainBatch:
    """Build one micro-batch; its states are read meanwhile, and perhaps for some time after."""
    states = {where: start_states(each, buffer, readers) for where, each in plan.states.items()}
    places = plan.places
    audio = build_inputs(
        lm,
        [
            Request(
                audio=place.row.audio if needs.reads == "audio" else None,
                text=prompt_text(place.row, needs.reads),
                response_ids=place.target_ids,
            )
            for place in places
        ],
    )
    names = [f"sample {place.row.sample_id!r}" for place in places]
    meetings = {}
    for where, each in plan.states.items():
        if where.at == "audio":
            meetings[where] = meet(names, each.places, audio.audio_positions, audio.audio_times_s)
        elif any(map(_is_translated, places, each.places)):
            pairs = [_pairs(*pair) for pair in zip(places, each.places, strict=True)]
            meetings[where] = meet_tokens(each.places, audio.predict_positions, pairs)
    known = needs.known
    return TrainBatch(
        terms=needs.terms,
        audio=audio,
        target_ids=torch.from_numpy(np.concatenate([place.target_ids for place in places])),
        topk={source: stack_topk(places, source, known[source]) for source in needs.topk},
        sampled={source: stack_sampled(places, source, known[source]) for source in needs.sampled},
        lens={
            source: stack_lens(places, source, layers, known[source])
            for source, layers in needs.lens.items()
        },
        states=states,
        meetings=meetings,
        num_tokens=int(audio.inputs["attention_mask"].sum()),
    )


def _place(row: TapeRow, trace_index: int, translation: Translation | None) -> Place:
    if trace_index == AUDIO_ROW:
        nothing = np.empty(0, dtype=np.int64)
        return Place(row=row, trace_index=trace_index, target_ids=nothing)
    trace = cast("Trace", row.signal(f"{TEXT_SOURCE}/trace", trace_index))
    if translation is None:
        return Place(row=row, trace_index=trace_index, target_ids=trace.token_ids)
    translated = translation.trace(trace)
    assert translated is not None, "rows that cannot be translated were left out"
    return Place(
        row=row,
        trace_index=trace_index,
        target_ids=translated.target_ids,
        translated=translated,
        translation=translation,
    )


def _is_translated(place: Place, states: HiddenPlace) -> bool:
    assert states.target_ids is not None, "states of a trace have its tokens"
    return not np.array_equal(states.target_ids, place.target_ids)


def _pairs(place: Place, states: HiddenPlace) -> tuple[IntArray, IntArray]:
    """Return which recorded states of a row belong to which of its tokens."""
    if place.translated is not None and _is_translated(place, states):
        return place.translated.theirs, place.translated.ours
    same = np.arange(states.count)
    return same, same


def _states_place(place: Place, where: StatesAt, layers: tuple[int, ...]) -> HiddenPlace:
    """Return where a row's states lie.

    Raises:
        TapeError: states of its trace belong to other tokens.
        TokenizerMismatchError: those of an acoustic teacher do.
        MissingSignalError: there are none.
    """
    name = f"{where.source}/hidden"
    if not where.of_trace:
        return place.row.hidden_place(name, AUDIO_ROW, layers)
    hidden = place.row.hidden_place(name, place.trace_index, layers)
    recorded = place.recorded_ids if place.translated else place.target_ids
    if where.source != TEXT_SOURCE:
        require_same_tokens(place, name, hidden.target_ids)
    elif hidden.target_ids is None or not np.array_equal(hidden.target_ids, recorded):
        raise TapeError(
            f"sample {place.row.sample_id!r}: {name} belongs to other tokens than "
            f"trace {place.trace_index}; verify the tape"
        )
    return hidden
