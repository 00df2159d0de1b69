"""The tasks and stages of a run: rows found on the tapes, steps counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from audio_models.load import AudioLM
from cache_schema import Tape
from cache_schema.fingerprint import fingerprint
from train.alignment.translation import load_translation
from train.data import Example, scan
from train.heldout import split
from train.recipe import TrainRecipe
from train.steps.stages import Stage, Task, steps_of_stage
from train.student import check_parts
from train.tapes import tasks_of
from train.tasks_recipe import StageRecipe, common_terms
from train.terms.needs import resolve_needs, with_every_signal
from train.terms.resolve import Term, check_signals

LeftOut = dict[str, Counter[str]]
"""Task -> how many of its rows are not trained on, by reason."""


class Planner:
    """Finds the rows of tasks; those of one task with the same terms once.

    Args:
        recipe: what is asked.
        tapes: every task's.
        terms: the run's.
        lm: the student.
    """

    def __init__(
        self, recipe: TrainRecipe, tapes: Mapping[str, Tape], terms: tuple[Term, ...], lm: AudioLM
    ) -> None:
        self._recipe, self._tapes, self._terms, self._lm = recipe, tapes, terms, lm
        self._made: dict[tuple[str, tuple[str, ...]], Task] = {}
        self.left_out: LeftOut = {name: Counter() for name in tasks_of(recipe)}

    def stages(self) -> tuple[Stage, ...]:
        """Return the run's stages; ``loop.max_steps`` ends them.

        Raises:
            UsageError: a stage freezes a part there is not.
            TapeError: a task has no row.
        """
        loop, mix = self._recipe.loop, self._recipe.mix
        whole = StageRecipe(steps=loop.max_steps, epochs=0 if loop.max_steps else loop.epochs)
        asked = self._recipe.stages or {"": whole}
        limit = loop.max_steps or None
        found: list[Stage] = []
        for name, stage in asked.items():
            check_parts(f"stages.{name}.freeze", stage.freeze, self._lm.family)
            first = found[-1].end if found else 0
            if limit is not None and first >= limit:
                break
            tasks = self._tasks(stage)
            steps = stage.steps or steps_of_stage(tasks, mix, loop, stage.epochs)
            found.append(
                Stage(
                    name=name,
                    number=len(found),
                    tasks=tasks,
                    first=first,
                    steps=steps if limit is None else min(steps, limit - first),
                    freeze=stage.freeze,
                )
            )
        return tuple(found)

    def _tasks(self, stage: StageRecipe) -> tuple[Task, ...]:
        """Return the tasks of a stage, their rows numbered in it."""
        found = []
        for number, name in enumerate(stage.tasks or tasks_of(self._recipe)):
            task = self._task(name, self._of_stage(stage, name))
            found.append(
                replace(
                    task,
                    examples=_numbered(task.examples, number),
                    held_out=_numbered(task.held_out, number),
                )
            )
        return tuple(found)

    def _of_stage(self, stage: StageRecipe, name: str) -> tuple[Term, ...]:
        names = common_terms(stage.terms, tasks_of(self._recipe)[name].terms)
        return tuple(term for term in self._terms if names is None or term.name in names)

    def _task(self, name: str, terms: tuple[Term, ...]) -> Task:
        key = name, tuple(term.name for term in terms)
        if key not in self._made:
            self._made[key] = self._make(name, terms)
        return self._made[key]

    def _make(self, name: str, terms: tuple[Term, ...]) -> Task:
        task, tape = tasks_of(self._recipe)[name], self._tapes[name]
        data, held = self._recipe.data, self._recipe.eval
        with_traces = any(term.spec.needs_trace for term in terms)
        translation = None
        if with_traces:
            tokenizer = task.teacher_tokenizer or data.teacher_tokenizer
            translation = load_translation(self._lm, tape, tokenizer)
        signals = check_signals(self._recipe.terms.active([term.name for term in terms]), tape)
        rows, left_out = scan(tape, self._lm, data, signals, translation, task.reads, with_traces)
        rows, incomplete = with_every_signal(tape, rows, terms)
        self.left_out[name] |= left_out + incomplete
        trained, held_out = split(rows, held.fraction, name) if held.every else (rows, [])
        return Task(
            name=name,
            tape=tape,
            needs=resolve_needs(self._lm, tape, terms, rows, translation, task.reads),
            examples=tuple(trained),
            held_out=tuple(held_out),
            weight=task.weight,
        )


def _numbered(rows: tuple[Example, ...], number: int) -> tuple[Example, ...]:
    """Return rows as those of a task's number in a stage; the same ones where it is theirs."""
    if all(row.task == number for row in rows):
        return rows
    return tuple(replace(row, task=number) for row in rows)


def about_rows(stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Return what tells these rows from others, for ``run.json``."""
    tasks = [task for stage in stages for task in stage.tasks]
    rows = dict.fromkeys(
        f"{task.name}\t{e.sample_id}\t{e.trace_index}\t{e.num_tokens}"
        for task in tasks
        for e in (*task.examples, *task.held_out)
    )
    return {"rows": len(rows), "rows_digest": fingerprint({"rows": list(rows)})}


def describe(stages: tuple[Stage, ...], left_out: LeftOut) -> list[str]:
    """Return lines on the stages and on the rows of each task."""
    tasks = {task.name: task for stage in stages for task in stage.tasks}
    lines = [_rows_line(task, left_out[name]) for name, task in tasks.items()]
    if len(stages) > 1:
        for stage in stages:
            terms = dict.fromkeys(term for task in stage.tasks for term in task.needs.terms)
            frozen = f"; frozen: {', '.join(stage.freeze)}" * bool(stage.freeze)
            lines.append(
                f"stage {stage.name}: steps {stage.first + 1} to {stage.end}, "
                f"{', '.join(terms)}{frozen}"
            )
    return lines


def _rows_line(task: Task, left_out: Counter[str]) -> str:
    whose = f"task {task.name}: " if task.name else ""
    held = f", of which {len(task.held_out)} are held out" * bool(task.held_out)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    dropped = f"; left out: {reasons}" * bool(reasons)
    return f"{whose}rows: {len(task.examples) + len(task.held_out)}{held}{dropped}"
