"""Which parts of the student a stage trains, and that each of its tasks trains something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from audio_models.families import Family
from cache_schema.errors import UsageError
from train.objective import Objective
from train.parts import Run
from train.settings import StudentRecipe
from train.steps.stages import Stage
from train.student import part_of

_ADAPTED = "base_model.model."
"""What peft puts before the names of a model it adapts."""

_HEARS = ("audio_tower", "projector")
"""Parts that a row without audio never meets."""


def train_parts(run: Run, stage: Stage) -> list[Tensor]:
    """Let the stage's parameters get gradient, and no others; return them.

    Of those that the run trains at all: what ``student.freeze`` names never is.
    """
    found: list[Tensor] = []
    for name, parameter, part in _trained(run.unwrapped, run.lm.family):
        parameter.requires_grad_(part not in stage.freeze or _is_new(name))
        if parameter.requires_grad:
            found.append(parameter)
    return found


def check_trained(
    objective: Objective, stages: Sequence[Stage], family: Family, recipe: StudentRecipe
) -> None:
    """Refuse a task that trains nothing in a stage, before anything is trained.

    Raises:
        UsageError: naming them, and what is frozen.
    """
    trained = list(_trained(objective, family))
    parts = {part for name, _, part in trained if not _is_new(name)}
    new = {name.split(".")[1] for name, _, _ in trained if _is_new(name)}
    for stage in stages:
        for task in stage.tasks:
            met = parts - set(stage.freeze)
            if task.needs.reads == "description":
                met -= set(_HEARS)
            if met or any(_term_of(name) in task.needs.terms for name in new):
                continue
            where = f"stages.{stage.name}, " * bool(stage.name)
            where += f"task {task.name!r}, " * bool(task.name)
            frozen = dict.fromkeys((*recipe.freeze, *stage.freeze))
            adapted = ", beside adapters of the language model alone" * bool(recipe.lora_rank)
            raise UsageError(
                f"{where}which reads the {task.needs.reads}: nothing that it meets is trained "
                f"(frozen: {', '.join(frozen) or 'none'}{adapted}); take a part out of "
                "student.freeze or of the stage's freeze, or leave the task out of the stage"
            )


def check_in_shards(objective: Objective, stages: Sequence[Stage], family: Family) -> None:
    """Refuse a stage whose passes go back through the blocks in some processes alone.

    Those that gather the blocks on the way back to an audio tower would wait for one that reads
    a description, and trains nothing below its projectors.

    Raises:
        UsageError: naming the stage.
    """
    parts = {part for name, _, part in _trained(objective, family) if not _is_new(name)}
    for stage in stages:
        met = parts - set(stage.freeze)
        reads = {task.needs.reads for task in stage.tasks}
        if len(reads) > 1 and met and met <= set(_HEARS):
            where = f"stages.{stage.name}: " * bool(stage.name)
            raise UsageError(
                f"{where}with student.sharding=full, tasks that hear and tasks that read cannot be "
                "mixed while the language model is frozen; give them stages of their own, train a "
                "part of the language model, or leave the student whole"
            )


def _trained(objective: Objective, family: Family) -> Iterator[tuple[str, Tensor, str]]:
    """Yield name, parameter and part of all that the run trains, in one stage or another."""
    for name, parameter in objective.named_parameters():
        if name in objective.trained:
            own = name.removeprefix("model.").removeprefix(_ADAPTED)
            yield name, parameter, part_of(own, family)


def _is_new(name: str) -> bool:
    """Whether a parameter is no part of the student: a projector's, a head's."""
    return name.startswith("projectors.")


def _term_of(name: str) -> str:
    """Return whose module it is: heads are named as terms, projectors have their layers behind."""
    term, *layers = name.rsplit("-", 2)
    return term if len(layers) == 2 and all(map(str.isdecimal, layers)) else name
