"""One micro-batch: model inputs and everything the losses compare with, joined by sample id.

Shapes: B rows, N response tokens of all rows in order, A audio positions of all rows in order,
F positions or frames of a teacher, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM
from cache_schema import Tape
from train.alignment.meeting import Meeting, meet, meet_tokens
from train.alignment.translation import Translation
from train.batch.classes import RecordingTargets, stack_recordings
from train.batch.places import is_translated, row_place, states_place, token_pairs
from train.batch.reading import prompt_text
from train.batch.states import StatesPlan, plan_states, start_states
from train.batch.targets import (
    Known,
    Place,
    SampledTargets,
    TopKTargets,
    stack_lens,
    stack_sampled,
    stack_topk,
)
from train.steps.ring import HostBuffer, Readers
from train.terms.resolve import StatesAt


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
        recordings: names of the class logits and embeddings of recordings that are read.
        known: source -> function telling which token ids mean the same to the student.
        translation: how traces become the student's tokens, ``None`` where they are.
    """

    terms: tuple[str, ...] = ()
    reads: str = "audio"
    topk: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    lens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    states: Mapping[StatesAt, tuple[int, ...]] = field(default_factory=dict)
    recordings: tuple[str, ...] = ()
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
        recordings = [(name, False) for name in self.recordings]
        return [*((name, True) for name in names), *states, *recordings]


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
            audio positions, frames or tokens of a description, in the type they are stored in.
        meetings: where, of audio or of other tokens -> which positions of the student they are
            compared with.
        text_tokens: where, of descriptions -> the recorded tokens of each row.
        recordings: what classifiers and encoders say of recordings as wholes, and of their frames.
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
    text_tokens: dict[StatesAt, list[int]]
    recordings: RecordingTargets
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
            recordings=self.recordings.to(device),
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
    places = tuple(
        row_place(tape[sample_id], trace, needs.translation) for sample_id, trace in rows
    )
    return BatchPlan(
        places=places,
        states={
            where: plan_states(
                [states_place(place, where, layers) for place in places],
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
    meetings, text_tokens = {}, {}
    for where, each in plan.states.items():
        if where.at == "pooled":
            text_tokens[where] = [row.count for row in each.places]
        elif where.at == "audio":
            meetings[where] = meet(names, each.places, audio.audio_positions, audio.audio_times_s)
        elif any(map(is_translated, places, each.places)):
            pairs = [token_pairs(*pair) for pair in zip(places, each.places, strict=True)]
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
        text_tokens=text_tokens,
        recordings=stack_recordings(
            [place.row for place in places], needs.recordings, audio.tower_times_s
        ),
        num_tokens=int(audio.inputs["attention_mask"].sum()),
    )
