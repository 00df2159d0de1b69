"""From the traces of a batch to what is kept of them, with signals of the kept ones alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cache_schema import TapeRow
from pipeline.teachers.batching import batches_of
from pipeline.traces.ask import ask
from pipeline.traces.candidate import Candidate
from pipeline.traces.draft import Draft, Task, drafts_of
from pipeline.traces.given import take_given
from pipeline.traces.outcome import Outcome
from pipeline.traces.select import KEPT, fault, select

HELD_BYTES = 4 << 30
"""Signals in memory at a time, about, if one sample's are no more."""

Place = tuple[list[Candidate], int]
"""Where a trace stands: in which list of its draft, at which index."""

Fates = list[tuple[Place, str]]
"""The traces of a sample, each with the reason why it is not kept."""


def collect(task: Task, rows: Sequence[TapeRow]) -> Iterator[list[Outcome]]:
    """Ask, judge, choose and read: everything of a batch but writing it.

    Yields:
        Outcomes in the samples' order, a part at a time: as many as ``HELD_BYTES`` has room for.
        The next part's signals are not asked for before they are taken.

    Raises:
        EngineDiedError: the engine failed; nothing comes of those not yielded yet.
    """
    for asked in _asked_together(task, drafts_of(task, rows)):
        (take_given if task.recipe.given else ask)(task, asked)
        for part in _read_together(task, asked):
            yield _settled(task, part)


def _settled(task: Task, drafts: Sequence[Draft]) -> list[Outcome]:
    if _compares_unread(task):
        read(task, [place for draft in drafts for place in _contenders(task, draft)])
    # Chosen once and for all: reading a trace measures it anew, a hair apart.
    chosen = [_fates(task, draft) for draft in drafts]
    read(task, [place for fates in chosen for place, reason in fates if reason == KEPT])
    outcomes = []
    for draft, fates in zip(drafts, chosen, strict=True):
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


def _asked_together(task: Task, drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    """Split a batch where signals come as traces are written: all may be as long as permitted."""
    recipe = task.recipe
    if recipe.given or recipe.select != "all":
        yield drafts
        return
    kinds = 2 if recipe.rationales == "wrong" else 1
    most = kinds * recipe.traces * recipe.max_new_tokens * task.token_bytes
    for part in batches_of([most] * len(drafts), HELD_BYTES):
        yield drafts[part.start : part.stop]


def _read_together(task: Task, drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    """Split a batch whose traces are written and still to be read."""
    one_of_many = task.recipe.select != "all" and not _compares_unread(task)
    reading = [
        task.token_bytes * (max if one_of_many else sum)([len(c.token_ids) for c in traces] or [0])
        for traces in ([*draft.first, *draft.label] for draft in drafts)
    ]
    for part in batches_of(reading, HELD_BYTES):
        yield drafts[part.start : part.stop]


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
