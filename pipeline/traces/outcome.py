"""What came of one sample: traces kept and rejected, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache_schema import TapeRow
from cache_schema.rows.values import rejected_row, trace_row
from cache_schema.types import Rejected, Trace
from cache_schema.writer import TapeWriter
from pipeline.teachers.base import TokenSignals, Wanted
from pipeline.token_rows import Recorded, add_signals
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
        recorded.add("rejected", rejected_row(sample_id, number, _rejected(candidate, reason)))
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
    recorded.add("trace", trace_row(sample_id, index, _trace(candidate)))
    add_signals(recorded, sample_id, index, signals, wanted.lens)


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
