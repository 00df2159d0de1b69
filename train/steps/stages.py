"""The parts of a run: tasks, each rows of one tape; stages, each steps on some of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cache_schema import Tape
from train.batch.build import Needs, Share
from train.data import Example
from train.settings import LoopRecipe
from train.steps.mixing import mixed_plan, mixed_steps
from train.tasks_recipe import MixRecipe


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows of one tape, and what is computed on them.

    Attributes:
        name: in the recipe; empty where it names no task.
        tape: where they come from.
        needs: what a batch reads.
        examples: the rows trained on, in the tape's order.
        held_out: the rows it is evaluated on.
        weight: its share, where tasks are mixed by weight.
    """

    name: str
    tape: Tape
    needs: Needs
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...] = ()
    weight: float = 1.0

    def share(self, rows: Sequence[Example]) -> Share:
        """Return rows of it as those of a micro-batch."""
        ids = [(example.sample_id, example.trace_index) for example in rows]
        return Share(tape=self.tape, needs=self.needs, rows=ids)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps on some tasks, some parts of the student frozen.

    Attributes:
        name: in the recipe; empty where it names no stage.
        number: from 0.
        tasks: those trained on; ``Example.task`` is a number in them.
        first: the run's steps before it.
        steps: its own.
        freeze: parts that stay as they are in it.
    """

    name: str
    number: int
    tasks: tuple[Task, ...]
    first: int
    steps: int
    freeze: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The run's steps with it."""
        return self.first + self.steps

    @property
    def held_out(self) -> list[Example]:
        """The rows it is evaluated on."""
        return [example for task in self.tasks for example in task.held_out]

    @property
    def examples(self) -> list[Example]:
        """The rows it trains on."""
        return [example for task in self.tasks for example in task.examples]

    def task_of(self, rows: Sequence[Example]) -> Task:
        """Return the task of a micro-batch's rows."""
        return self.tasks[rows[0].task]


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """The rows of one step, over all processes."""

    stage: Stage
    rows: list[Example]


def steps_of_stage(tasks: Sequence[Task], mix: MixRecipe, loop: LoopRecipe, epochs: int) -> int:
    """Return the steps of so many epochs of these tasks."""
    rows, weights = [task.examples for task in tasks], [task.weight for task in tasks]
    return mixed_steps(rows, weights, mix, loop.batch_tokens, loop.seed, epochs)


def steps_from(
    stages: Sequence[Stage], mix: MixRecipe, loop: LoopRecipe, done: int
) -> Iterator[PlannedStep]:
    """Yield a run's steps after the first ``done``, to its end."""
    for stage in stages:
        if stage.end <= done:
            continue
        rows, weights = [t.examples for t in stage.tasks], [t.weight for t in stage.tasks]
        plan = mixed_plan(rows, weights, mix, loop.batch_tokens, loop.seed)
        for step in itertools.islice(plan, max(0, done - stage.first), stage.steps):
            yield PlannedStep(stage=stage, rows=step)
