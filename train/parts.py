"""What the loop, the loader and the evaluation of one run work with, and how far the run is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from audio_models.load import AudioLM
from train.objective import Objective
from train.recipe import TrainRecipe
from train.rundir import RunDir
from train.sharding import Shards
from train.steps.stages import PlannedStep, Stage, steps_from


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything the loop works with.

    Attributes:
        lm: the student's processor and facts, for building inputs.
        stages: what is trained on, part after part; one at least.
        objective: student and losses, as ``Accelerator.prepare_model`` returned it.
        optimizer: likewise.
        accelerator: device, processes, precision.
        recipe: the resolved recipe.
        directory: where results go.
        shards: the student's, where processes hold parts of it; ``None`` where each holds all.
    """

    lm: AudioLM
    stages: tuple[Stage, ...]
    objective: Any
    optimizer: Any
    accelerator: Accelerator
    recipe: TrainRecipe
    directory: RunDir
    shards: Shards | None = None

    @property
    def total_steps(self) -> int:
        """How long the run is."""
        return self.stages[-1].end

    def stage_of(self, step: int) -> Stage:
        """Return the stage of a step, from 1; that of step 0 is the first."""
        return next(stage for stage in self.stages if step <= stage.end)

    def steps_from(self, done: int) -> Iterator[PlannedStep]:
        """Yield the steps after the first ``done``."""
        return steps_from(self.stages, self.recipe.mix, self.recipe.loop, done)

    @property
    def unwrapped(self) -> Objective:
        """The objective itself."""
        module: Objective = self.accelerator.unwrap_model(self.objective)
        return module

    @property
    def weights_M(self) -> Tensor:  # noqa: N802
        """Every term's weight, float64 [M]."""
        weights = [term.settings.weight for term in self.unwrapped.terms]
        return torch.tensor(weights, dtype=torch.float64, device=self.accelerator.device)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; a checkpoint keeps it.

    Attributes:
        done: steps taken.
        micro_tokens: padded tokens of one forward pass; what did not fit has made it smaller. 0:
            not chosen yet.
        best_loss: lowest weighted total on the held-out rows, ``None`` before the first evaluation.
        best_step: the step it was measured after.
        since_best: evaluations after it.
        stopped: the run ended before its last step, for want of improvement.
    """

    done: int = 0
    micro_tokens: int
    best_loss: float | None = None
    best_step: int = 0
    since_best: int = 0
    stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; ``Progress(**values)`` reads it back."""
        return asdict(self)
