"""The tapes of a run's tasks, and what of the objective each can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cache_schema import Tape, open_tape
from cache_schema.errors import MissingSignalError, UsageError, nearest
from train.data import require_audio
from train.recipe import TrainRecipe
from train.tasks_recipe import TaskRecipe
from train.terms.resolve import Term, check_signals, resolve_terms

ONLY = TaskRecipe()
"""The task of a recipe that names none."""


def tasks_of(recipe: TrainRecipe) -> dict[str, TaskRecipe]:
    """Return the tasks by name; without any there is one without a name."""
    return dict(recipe.tasks) or {"": ONLY}


def locate(caches: Sequence[str], recipe: TrainRecipe) -> dict[str, str]:
    """Return every task's tape.

    Args:
        caches: those of ``--cache``: a location, or ``task=location``.
        recipe: whose tasks may say their own.

    Raises:
        UsageError: a task has no tape, or a tape has no task.
    """
    tasks = tasks_of(recipe)
    named: dict[str, str] = {}
    plain: list[str] = []
    for cache in caches:
        name, sign, location = cache.partition("=")
        if sign and name in recipe.tasks:
            named[name] = location
        else:
            plain.append(cache)
    if len(plain) > 1:
        known = ", ".join(recipe.tasks) or "none: the recipe has no [tasks]"
        raise UsageError(
            f"--cache {' --cache '.join(plain)}: one tape is every task's, more are given as "
            f"task=location (tasks: {known}){nearest(plain[-1].partition('=')[0], recipe.tasks)}"
        )
    found = {name: named.get(name) or task.cache or "".join(plain) for name, task in tasks.items()}
    if missing := [name for name, location in found.items() if not location]:
        raise UsageError(
            f"task {missing[0]!r} has no tape: give --cache {missing[0]}=LOCATION, or one --cache "
            "for every task that names none"
        )
    if plain and plain[0] not in found.values():
        raise UsageError(f"--cache {plain[0]}: every task has a tape of its own; leave it out")
    return found


def open_tapes(locations: Mapping[str, str]) -> dict[str, Tape]:
    """Open every task's tape; tasks of one location share it."""
    opened = {location: open_tape(location) for location in dict.fromkeys(locations.values())}
    return {name: opened[location] for name, location in locations.items()}


def check_tapes(recipe: TrainRecipe, tapes: Mapping[str, Tape]) -> None:
    """Check that every tape has what its task's terms read.

    Raises:
        MissingSignalError: one lacks something, or terms compare audio where none is heard.
    """
    for name, task in tasks_of(recipe).items():
        terms = recipe.terms.active(task.terms)
        check_signals(terms, tapes[name])
        if task.reads == "audio":
            require_audio(tapes[name])
        if task.reads == "description" and (heard := terms.of_audio):
            raise MissingSignalError(
                f"task {name!r} reads descriptions, and {', '.join(heard)} compare what is heard; "
                f"give it its terms: tasks.{name}.terms"
            )


def resolve_all(
    recipe: TrainRecipe, tapes: Mapping[str, Tape], student_layers: int
) -> tuple[Term, ...]:
    """Return the run's terms, their layers paired alike on every tape that serves them.

    Raises:
        MissingSignalError: a pair is not on a tape.
        UsageError: a term would pair other layers, or states of another width, on another tape.
    """
    found: dict[str, tuple[Term, str]] = {}
    for name, task in tasks_of(recipe).items():
        for term in resolve_terms(recipe.terms.active(task.terms), tapes[name], student_layers):
            before, where = found.setdefault(term.name, (term, name))
            if before != term:
                raise UsageError(
                    f"terms.{term.name} {_reads(before)} on the tape of task {where!r} and "
                    f"{_reads(term)} on that of {name!r}: give each task a term of its own, "
                    f"[terms.{term.name}-{name}], and say which in tasks.{name}.terms"
                )
    if unused := [name for name in recipe.terms.active() if name not in found]:
        raise UsageError(f"terms.{unused[0]}: no task computes it; add it to a task, or leave it")
    return tuple(found[name][0] for name in recipe.terms.active())


def _reads(term: Term) -> str:
    if term.labels:
        judged = "each by itself" if term.multi_label else "against each other"
        shown = ", ".join(term.labels[:6]) + ", ..." * (len(term.labels) > 6)
        return f"has {len(term.labels)} classes ({shown}), judged {judged},"
    if not term.pairs:
        return f"has an embedding of width {term.teacher_width}"
    pairs = " ".join(f"{student}:{teacher}" for student, teacher in term.pairs)
    return f"pairs layers {pairs} of width {term.teacher_width}"
