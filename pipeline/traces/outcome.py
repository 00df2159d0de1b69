"""What came of one sample: traces kept and rejected, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema import TapeRow
from cache_schema.rows import (
    Row,
    hidden_row,
    lens_row,
    rejected_row,
    sampled_row,
    topk_row,
    trace_row,
)
from cache_schema.types import IntArray, Lens, Rejected, Sampled, TopK, Trace
from cache_schema.writer import TapeWriter
from pipeline.teachers.base import TokenSignals, Wanted
from pipeline.traces.candidate import Candidate


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a sample could not be recorded: a few words for counting, and the detail for people."""

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one sample.

    Attributes:
        row: the sample.
        kept: traces with their signals.
        rejected: traces that were not kept, each with its reason.
        failure: why nothing was asked of the teacher, if so.
        untold: why the answer could not be told where it should have been, empty if it was.
    """

    row: TapeRow
    kept: Sequence[Candidate] = ()
    rejected: Sequence[tuple[Candidate, str]] = ()
    failure: Failure | None = None
    untold: str = ""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The rows of one sample.

    Attributes:
        rows: table -> rows.
        hidden: ``hidden`` rows with their states, layer -> [T, D].
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    hidden: list[tuple[Row, Mapping[int, NDArray[Any]]]] = field(default_factory=list)


def record(outcome: Outcome, wanted: Wanted, writer: TapeWriter) -> None:
    """Put one sample's traces and signals on the tape.

    Raises:
        RowError: something of it breaks the format; nothing of it was written.
    """
    sample_id = outcome.row.sample_id
    recorded = Recorded()
    for index, candidate in enumerate(outcome.kept):
        assert candidate.signals is not None, "a kept trace was not scored"
        add_trace(recorded, sample_id, index, candidate, candidate.signals, wanted)
    for number, (candidate, reason) in enumerate(outcome.rejected):
        row = rejected_row(sample_id, number, _rejected(candidate, reason))
        recorded.rows.setdefault("rejected", []).append(row)
    writer.add(recorded.rows, recorded.hidden)


def add_trace(
    recorded: Recorded,
    sample_id: str,
    index: int,
    candidate: Candidate,
    signals: TokenSignals,
    wanted: Wanted,
) -> None:
    """Add the rows of one kept trace and of its signals."""

    def add(table: str, row: Row) -> None:
        recorded.rows.setdefault(table, []).append(row)

    target_ids = signals.target_ids
    add("trace", trace_row(sample_id, index, _trace(candidate)))
    if signals.topk is not None:
        add("topk", topk_row(sample_id, index, TopK(target_ids=target_ids, **vars(signals.topk))))
    if signals.lens is not None:
        lens = Lens(target_ids=target_ids, layers=wanted.lens, **vars(signals.lens))
        add("lens", lens_row(sample_id, index, lens))
    if signals.drawn_ids is not None:
        add("sampled", sampled_row(sample_id, index, counted(target_ids, signals.drawn_ids)))
    if signals.states:
        place = hidden_row(sample_id, index, "token", (0, 0), target_ids, None)
        recorded.hidden.append((place, signals.states))


def counted(target_ids: IntArray, drawn_ids: IntArray) -> Sampled:
    """Return drawn tokens as unique ids with counts.

    Args:
        target_ids: int64 [T].
        drawn_ids: int64 [T, n], ascending along n.
    """
    num_tokens, num_draws = drawn_ids.shape
    begins = np.ones(drawn_ids.shape, dtype=bool)
    begins[:, 1:] = drawn_ids[:, 1:] != drawn_ids[:, :-1]
    starts = np.append(np.flatnonzero(begins), num_tokens * num_draws)
    return Sampled(
        target_ids=target_ids,
        token_ids=drawn_ids[begins],
        counts=np.diff(starts),
        offsets=np.append(0, np.cumsum(begins.sum(axis=1))),
        num_draws=num_draws,
    )


def _trace(candidate: Candidate) -> Trace:
    return Trace(
        text=candidate.text,
        token_ids=candidate.token_ids,
        prompt_token_ids=candidate.prompt_token_ids,
        finish_reason=candidate.finish_reason,
        answer=candidate.answer,
        correct=candidate.correct,
        logprob=candidate.logprob,
        origin=candidate.origin,
        draw=candidate.draw,
        seed=candidate.seed,
    )


def _rejected(candidate: Candidate, reason: str) -> Rejected:
    return Rejected(
        draw=candidate.draw,
        text=candidate.text,
        finish_reason=candidate.finish_reason,
        answer=candidate.answer,
        correct=candidate.correct,
        logprob=candidate.logprob,
        origin=candidate.origin,
        seed=candidate.seed,
        reason=reason,
    )
