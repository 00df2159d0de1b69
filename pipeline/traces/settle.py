"""From the traces of a batch to what is kept of them, with signals of the kept ones alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cache_schema import TapeRow
from pipeline.traces.ask import ask
from pipeline.traces.candidate import Candidate
from pipeline.traces.draft import Draft, Task, drafts_of
from pipeline.traces.given import take_given
from pipeline.traces.outcome import Outcome
from pipeline.traces.select import KEPT, fault, select

Place = tuple[list[Candidate], int]
"""Where a trace stands: in which list of its draft, at which index."""

Fates = list[tuple[Place, str]]
"""The traces of a sample, each with the reason why it is not kept."""


def collect(task: Task, rows: Sequence[TapeRow]) -> list[Outcome]:
    """Ask, judge, choose and read: everything of a batch but writing it.

    Raises:
        EngineDiedError: the engine failed; nothing came of the batch.
    """
    drafts = drafts_of(task, rows)
    (take_given if task.recipe.given else ask)(task, drafts)
    outcomes = []
    for part in _parts(task, drafts):
        if _compares_unread(task):
            read(task, [place for draft in part for place in _contenders(task, draft)])
        # Chosen once and for all: reading a trace measures it anew, a hair apart.
        chosen = [_fates(task, draft) for draft in part]
        read(task, [place for fates in chosen for place, reason in fates if reason == KEPT])
        for draft, fates in zip(part, chosen, strict=True):
            outcomes.append(_outcome(draft, fates))
            draft.first.clear()  # lets go of the signals that were not chosen
            draft.label.clear()
    return outcomes


def read(task: Task, places: Iterable[Place]) -> None:
    """Let the teacher read those of the traces that have no signals yet."""
    unread = [place for place in places if place[0][place[1]].signals is None]
    if not unread:
        return
    found = [traces[index] for traces, index in unread]
    signals = task.teacher.score(
        [candidate.prompt_token_ids for candidate in found],
        [candidate.token_ids for candidate in found],
        [candidate.seed for candidate in found],
        task.wanted,
    )
    for (traces, index), one in zip(unread, signals, strict=True):
        traces[index] = traces[index].with_signals(one)


def _compares_unread(task: Task) -> bool:
    """Whether traces are compared by a log-probability that only reading them gives."""
    return task.recipe.select == "best-logprob" and bool(task.recipe.given)


def _parts(task: Task, drafts: Sequence[Draft]) -> list[Sequence[Draft]]:
    """Split a batch where traces are read that are not kept, to hold no more of their signals."""
    size = len(drafts)
    if _compares_unread(task):
        size = max(1, size // max(1, *(len(draft.first) for draft in drafts)))
    return [drafts[start : start + size] for start in range(0, len(drafts), size)]


def _contenders(task: Task, draft: Draft) -> list[Place]:
    """Return the traces of which the rule will choose one."""
    fit = [fault(task.recipe.select, candidate) == KEPT for candidate in draft.first]
    return [(draft.first, index) for index, good in enumerate(fit) if good and not draft.failure]


def _fates(task: Task, draft: Draft) -> Fates:
    """Choose among the traces of a sample.

    Where the answer was told none of the free traces was right: by every rule but ``all`` the ones
    written knowing it take their place.
    """
    if draft.failure is not None:
        return []
    rule, choices = task.recipe.select, draft.row.choices
    if draft.label and rule != "all":
        first = [fault("first-correct", candidate) for candidate in draft.first]
    else:
        first = select(rule, draft.first, choices)
    label = select(rule, draft.label, choices)
    return [
        ((traces, index), reason)
        for traces, reasons in ((draft.first, first), (draft.label, label))
        for index, reason in enumerate(reasons)
    ]


def _outcome(draft: Draft, fates: Fates) -> Outcome:
    kept, rejected = [], []
    for (traces, index), reason in fates:
        if reason == KEPT:
            kept.append(traces[index])
        else:
            rejected.append((replace(traces[index], signals=None), reason))
    return Outcome(
        row=draft.row,
        kept=kept,
        rejected=rejected,
        failure=draft.failure,
        untold=draft.untold,
    )
