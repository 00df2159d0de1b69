"""Which parts of the student a stage trains."""

from __future__ import annotations

from torch import Tensor

from train.parts import Run
from train.stages import Stage
from train.student import part_of

_ADAPTED = "base_model.model."
"""What peft puts before the names of a model it adapts."""


def train_parts(run: Run, stage: Stage) -> list[Tensor]:
    """Let the stage's parameters get gradient, and no others; return them.

    Of those that the run trains at all: what ``student.freeze`` names never is.
    """
    objective = run.unwrapped
    found: list[Tensor] = []
    for name, parameter in objective.named_parameters():
        if name not in objective.trained:
            continue
        own = name.removeprefix("model.").removeprefix(_ADAPTED)
        parameter.requires_grad_(part_of(own, run.lm.family) not in stage.freeze)
        if parameter.requires_grad:
            found.append(parameter)
    return found
