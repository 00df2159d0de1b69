"""The rows of several tasks as one plan: which rows an epoch has, and which rows a step has.

Every task is an endless stream of its rows, shuffled anew each time it has gone through. An epoch
takes as many rows as all tasks have together, each task its share of them, and goes on in each
stream where the epoch before stopped: a small task comes again, of a large one comes a part.

Deterministic by (seed, epoch) alone, never by the number of processes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from train.data import Example
from train.steps.order import plan_epoch, run_plan
from train.tasks_recipe import MixRecipe

Tasks = Sequence[Sequence[Example]]
"""The rows of each task."""


def shares_of(sizes: Sequence[int], weights: Sequence[float], mix: MixRecipe) -> list[float]:
    """Return each task's share of an epoch's rows; they sum to 1.

    ``temperature``: ``n_i^(1/T) / sum_j n_j^(1/T)`` (as in multilingual training, arXiv
    1907.05019); ``weight``: as the weights are to each other; otherwise as the sizes are.
    """
    relative = [float(size) for size in sizes]
    if mix.by == "temperature":
        relative = [size ** (1 / mix.temperature) for size in sizes]
    elif mix.by == "weight":
        relative = list(weights)
    return [each / sum(relative) for each in relative]


def epoch_rows(
    tasks: Tasks, weights: Sequence[float], mix: MixRecipe, seed: int, epoch: int
) -> list[Example]:
    """Return the rows of one epoch; by size every row of every task, once."""
    if mix.by == "size":
        return [example for rows in tasks for example in rows]
    sizes = [len(rows) for rows in tasks]
    chosen: list[Example] = []
    for number, (rows, share) in enumerate(zip(tasks, shares_of(sizes, weights, mix), strict=True)):
        count = max(1, round(share * sum(sizes)))
        chosen += _of_stream(rows, epoch * count, count, f"{seed}/task {number}")
    return chosen


def mixed_plan(
    tasks: Tasks, weights: Sequence[float], mix: MixRecipe, batch_tokens: int, seed: int
) -> Iterator[list[Example]]:
    """Yield the rows of step after step, without end."""
    if mix.by == "alternate":
        plans = [run_plan(rows, batch_tokens, seed) for rows in tasks]
        for plan in itertools.cycle(plans):
            yield next(plan)
    for epoch in itertools.count():
        rows = epoch_rows(tasks, weights, mix, seed, epoch)
        yield from plan_epoch(rows, batch_tokens, seed, epoch)


def mixed_steps(
    tasks: Tasks, weights: Sequence[float], mix: MixRecipe, batch_tokens: int, seed: int,
    epochs: int,
) -> int:  # fmt: skip
    """Return the steps of so many epochs.

    Where tasks alternate, an epoch has as many steps as theirs have together, rounded up to whole
    turns.
    """
    if mix.by == "alternate":
        own = sum(
            len(plan_epoch(rows, batch_tokens, seed, epoch))
            for rows in tasks
            for epoch in range(epochs)
        )
        return -(-own // len(tasks)) * len(tasks)
    return sum(
        len(plan_epoch(epoch_rows(tasks, weights, mix, seed, epoch), batch_tokens, seed, epoch))
        for epoch in range(epochs)
    )


def _of_stream(rows: Sequence[Example], start: int, count: int, seed: str) -> list[Example]:
    """Return ``count`` rows of a task's stream, from its row ``start`` on."""
    found: list[Example] = []
    while len(found) < count:
        turn, first = divmod(start + len(found), len(rows))
        shuffled = list(rows)
        random.Random(f"{seed}/{turn}").shuffle(shuffled)
        found += shuffled[first : first + count - len(found)]
    return found
