"""Which traces of a sample are kept: pure rules over judged traces.

- ``all``: every one, wrong and truncated ones included; the trainer filters by their marks.
- ``first-correct``: the first right one (rejection sampling, as in STaR, arXiv 2203.14465).
- ``best-logprob``: the right one with the highest mean log-probability a token; where nothing can
  be judged, of all.
- ``majority``: self-consistency (arXiv 2203.11171): the first trace with the most frequent answer,
  of equally frequent ones the earlier. The right answer is not looked at.

Every rule but ``all`` wants complete traces: ended by themselves, with an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from cache_schema.answers.questions import answer_key
from pipeline.traces.candidate import STOPPED, Candidate

KEPT = ""
WRONG, CUT, UNANSWERED = "wrong answer", "truncated", "no answer"
NOT_CHOSEN, NOT_JUDGED = "not chosen", "not judged"


def select(rule: str, candidates: Sequence[Candidate], choices: Sequence[str] = ()) -> list[str]:
    """Choose.

    Args:
        rule: ``all``, ``first-correct``, ``best-logprob`` (of measured traces) or ``majority``.
        candidates: the traces of one sample, in the order they were drawn.
        choices: the permitted answers; ``majority`` counts a choice's letter and text as one.

    Returns:
        Why each one is not kept, ``KEPT`` for those that are.
    """
    if rule == "all":
        return [KEPT] * len(candidates)
    faults = [fault(rule, candidate) for candidate in candidates]
    fit = [index for index, reason in enumerate(faults) if not reason]
    if not fit:
        return faults
    chosen = _CHOOSERS[rule](candidates, fit, choices)
    return [
        reason or (KEPT if index == chosen else NOT_CHOSEN) for index, reason in enumerate(faults)
    ]


def fault(rule: str, candidate: Candidate) -> str:
    """Return why a trace cannot be chosen by a rule, ``KEPT`` if it can."""
    if rule == "all":
        return KEPT
    if candidate.finish_reason != STOPPED:
        return CUT
    if not candidate.answer:
        return UNANSWERED
    if rule == "majority":
        return KEPT
    if candidate.correct is None:
        return NOT_JUDGED if rule == "first-correct" else KEPT
    return KEPT if candidate.correct else WRONG


def is_right(candidate: Candidate) -> bool:
    """Whether a trace is complete and its answer right."""
    return candidate.complete and candidate.correct is True


def _first(_: Sequence[Candidate], fit: Sequence[int], __: Sequence[str]) -> int:
    return fit[0]


def _likeliest(candidates: Sequence[Candidate], fit: Sequence[int], _: Sequence[str]) -> int:
    return max(fit, key=lambda index: candidates[index].mean_logprob)


def _most_frequent(
    candidates: Sequence[Candidate], fit: Sequence[int], choices: Sequence[str]
) -> int:
    keys = [answer_key(candidates[index].answer, choices) for index in fit]
    counts = Counter(keys)
    return fit[keys.index(max(counts, key=counts.__getitem__))]  # max: the first of equals


_CHOOSERS: dict[str, Callable[[Sequence[Candidate], Sequence[int], Sequence[str]], int]] = {
    "first-correct": _first,
    "best-logprob": _likeliest,
    "majority": _most_frequent,
}
