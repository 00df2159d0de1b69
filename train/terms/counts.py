"""How many positions each term sums over, on one micro-batch, and what it cannot compare there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from train.batch.build import TrainBatch
from train.batch.targets import SampledTargets, TopKTargets
from train.terms.resolve import Term

Said = Sequence[TopKTargets] | Sequence[SampledTargets]

_SAID: Mapping[str, Callable[[TrainBatch, str], Said]] = {
    "topk": lambda batch, source: [batch.topk[source]],
    "sampled": lambda batch, source: [batch.sampled[source]],
    "lens": lambda batch, source: list(batch.lens[source].values()),
}
"""Signal that names tokens, which the student may lack -> what a source says in it."""

OF_TOKENS = tuple(_SAID)


def _tokens(_: Term, batch: TrainBatch) -> int:
    return len(batch.target_ids)


def _recordings(_: Term, batch: TrainBatch) -> int:
    return len(batch.audio.audio_positions)


def _frames(term: Term, batch: TrainBatch) -> int:
    return batch.recordings.frames[f"{term.source}/{term.spec.signal}"].meeting.count


def _states(term: Term, batch: TrainBatch) -> int:
    if term.spec.at == "pooled":
        return _recordings(term, batch)
    meeting = batch.meetings.get(term.states_at)
    return meeting.count if meeting else _tokens(term, batch)


_COUNTS: Mapping[str, Callable[[Term, TrainBatch], int]] = {
    "": _tokens,
    "hidden": _states,
    "utterance_logits": _recordings,
    "frame_logits": _frames,
    "embedding": _recordings,
}
"""Every other signal, none included -> the positions of a term that reads it."""


def count_of(term: Term, batch: TrainBatch) -> int:
    """Return what a term is divided by.

    All response tokens, or those its teacher says something of; compared audio positions or frames;
    or recordings, where one vector stands for each.
    """
    if term.name not in batch.terms:
        return 0
    if term.spec.signal not in _SAID:
        return _COUNTS[term.spec.signal](term, batch)
    count = _SAID[term.spec.signal](batch, term.source)[0].count
    return _tokens(term, batch) if count is None else count


def unknown_of(term: Term, batch: TrainBatch) -> float:
    """Return the teacher's mass, over those positions, on tokens the student lacks.

    Of kept tokens it is in the tail; of drawn ones, whose share estimates it, it is left out. Of a
    lens it is the mean over the layers the run reads.
    """
    if term.name not in batch.terms or term.spec.signal not in _SAID:
        return 0.0
    said = _SAID[term.spec.signal](batch, term.source)
    return sum(each.unknown for each in said) / len(said)
