"""From the traces of a batch to what is kept of them, with signals of the kept ones alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cache_schema import TapeRow
from pipeline.traces.ask import ask
from pipeline.traces.candidate import Candidate
from pipeline.traces.draft import Draft, Task, drafts_of
from pipeline.traces.given import take_given
from pipeline.traces.outcome import Outcome
from pipeline.traces.select import KEPT, fault, select


def collect(task: Task, rows: Sequence[TapeRow]) -> list[Outcome]:
    """Ask, judge, choose and read: everything of a batch but writing it.

    Raises:
        EngineDiedError: the engine failed; nothing came of the batch.
    """
    drafts = drafts_of(task, rows)
    (take_given if task.recipe.given else ask)(task, drafts)
    outcomes = []
    for part in _parts(task, drafts):
        score(task, part)
        outcomes += [_outcome(task, draft) for draft in part]
    return outcomes


def _parts(task: Task, drafts: Sequence[Draft]) -> list[Sequence[Draft]]:
    """Split a batch where traces are scored that are not kept, to hold no more of their signals."""
    size = len(drafts)
    if task.recipe.select == "best-logprob":
        size = max(1, task.recipe.batch_samples // task.recipe.traces)
    return [drafts[start : start + size] for start in range(0, len(drafts), size or 1)]


def score(task: Task, drafts: Sequence[Draft]) -> None:
    """Read the traces that need signals and have none: those kept, or those that compete."""
    places = [
        (traces, index)
        for draft in drafts
        if draft.failure is None
        for traces, reasons in _contenders(task, draft)
        for index, reason in enumerate(reasons)
        if reason == KEPT and traces[index].signals is None
    ]
    if not places:
        return
    found = [traces[index] for traces, index in places]
    signals = task.teacher.score(
        [candidate.prompt_token_ids for candidate in found],
        [candidate.token_ids for candidate in found],
        [candidate.seed for candidate in found],
        task.wanted,
    )
    for (traces, index), read in zip(places, signals, strict=True):
        traces[index] = traces[index].with_signals(read)


def _contenders(task: Task, draft: Draft) -> list[tuple[list[Candidate], list[str]]]:
    """Return which traces are to be scored: the best is known only when all that fit are read."""
    if task.recipe.select != "best-logprob":
        return _choices(task, draft)
    pools = [draft.label] if draft.label else [draft.first]
    return [(pool, [fault(task.recipe.select, candidate) for candidate in pool]) for pool in pools]


def _choices(task: Task, draft: Draft) -> list[tuple[list[Candidate], list[str]]]:
    """Return the sample's traces, each with the reason why it is not kept.

    Where the answer was told none of the free traces was right: by every rule but ``all`` the ones
    written knowing it take their place.
    """
    rule, choices = task.recipe.select, draft.row.choices
    if not draft.label:
        return [(draft.first, select(rule, draft.first, choices))]
    replaced = "all" if rule == "all" else "first-correct"
    return [
        (draft.first, [fault(replaced, candidate) for candidate in draft.first]),
        (draft.label, select(rule, draft.label, choices)),
    ]


def _outcome(task: Task, draft: Draft) -> Outcome:
    if draft.failure is not None:
        return Outcome(row=draft.row, failure=draft.failure, untold=draft.untold)
    kept, rejected = [], []
    for traces, reasons in _choices(task, draft):
        for candidate, reason in zip(traces, reasons, strict=True):
            if reason == KEPT:
                kept.append(candidate)
            else:
                rejected.append((replace(candidate, signals=None), reason))
    return Outcome(row=draft.row, kept=kept, rejected=rejected, untold=draft.untold)
