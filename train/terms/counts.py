"""How many positions each term sums over, on one micro-batch, and what it cannot compare there."""

from __future__ import annotations

from train.batch.build import TrainBatch
from train.terms.resolve import Term

OF_TOKENS = ("topk", "sampled", "lens")
"""Signals that name tokens, which the student may lack."""


def count_of(term: Term, batch: TrainBatch) -> int:
    """Return what a term is divided by.

    All response tokens, or those its teacher says something of; compared audio positions or frames;
    or recordings, where one vector stands for each.
    """
    count: int | None = None
    if term.name not in batch.terms:
        return 0
    if term.spec.signal == "frame_logits":
        count = batch.recordings.frames[f"{term.source}/{term.spec.signal}"].meeting.count
    elif term.spec.at in ("tower", "pooled"):
        count = len(batch.audio.audio_positions)
    elif term.spec.signal == "hidden" and term.states_at in batch.meetings:
        count = batch.meetings[term.states_at].count
    elif term.spec.signal == "topk":
        count = batch.topk[term.source].count
    elif term.spec.signal == "sampled":
        count = batch.sampled[term.source].count
    elif term.spec.signal == "lens":
        count = next(iter(batch.lens[term.source].values())).count
    return len(batch.target_ids) if count is None else count


def unknown_of(term: Term, batch: TrainBatch) -> float:
    """Return the teacher's mass, over those positions, on tokens the student lacks.

    Of kept tokens it is in the tail; of drawn ones, whose share estimates it, it is left out. Of a
    lens it is the mean over the layers the run reads.
    """
    if term.name not in batch.terms:
        return 0.0
    if term.spec.signal == "topk":
        return batch.topk[term.source].unknown
    if term.spec.signal == "sampled":
        return batch.sampled[term.source].unknown
    if term.spec.signal == "lens":
        layers = batch.lens[term.source].values()
        return sum(each.unknown for each in layers) / len(layers)
    return 0.0
