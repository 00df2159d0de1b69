"""Student, projectors and optimizer put together on the processes that train them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import distributed

from audio_models.load import AudioLM
from cache_schema.commands.console import say
from cache_schema.errors import TeachertapeError, UsageError
from train.freezing import check_in_shards, check_trained
from train.memory import named_shortage
from train.objective import Objective
from train.parts import Run
from train.recipe import TrainRecipe
from train.rundir import RunDir
from train.settings import OptimRecipe
from train.sharding import Shards, shard
from train.steps.stages import Stage
from train.terms.resolve import Term

_REPLICATED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
)
"""Ways of running several processes in which Accelerate leaves each the whole student.

Shards are ours (``train.sharding``): Accelerate's FSDP2 reduces means, in bfloat16, and knows
neither that losses read through the unembedding nor that processes have unequal shares.
"""

_ASKED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
}
"""What ``accelerate launch`` sets in the environment -> what its configuration asks for."""


class ProcessesDifferError(TeachertapeError):
    """Processes of one run see other rows, or other checkpoints, than each other."""


def make_accelerator(recipe: TrainRecipe, out: Path) -> Accelerator:
    """Return the accelerator: device, processes, precision and trackers.

    Raises:
        UsageError: the launcher asks for Accelerate's own way to shard; or the size of a pass is to
            be found by trying with a student in shards.
    """
    _refuse_launchers()
    if torch.backends.mps.is_available():
        say("training on the CPU: Apple's MPS has no float64, which sums of terms need")
    wanted = recipe.student.autocast
    bfloat16 = wanted == "bfloat16" or (wanted == "auto" and torch.cuda.is_available())
    accelerator = Accelerator(
        cpu=is_on_cpu(),
        mixed_precision="bf16" if bfloat16 else "no",
        log_with=list(recipe.logging.trackers) or None,
        project_dir=out / "trackers",
    )
    if accelerator.distributed_type not in _REPLICATED:
        raise _launcher_error(accelerator.distributed_type.value)
    if shares_student(recipe, accelerator) and not recipe.loop.micro_tokens:
        raise UsageError(
            "--batch-tokens auto (loop.micro_tokens=0) tries what fits until memory runs out, "
            "which processes with parts of one student (student.sharding=full) cannot: set "
            "loop.micro_tokens"
        )
    return accelerator


def _refuse_launchers() -> None:
    """Refuse what Accelerate would shard with; on a CPU, or alone, it would ignore it silently."""
    for variable, name in _ASKED.items():
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise _launcher_error(name)


def _launcher_error(name: str) -> UsageError:
    return UsageError(
        f"the launcher's configuration asks for {name}; launch with torchrun, or choose multi-GPU "
        "without FSDP, DeepSpeed or Megatron in accelerate config. For a student in shards (FSDP2) "
        "--set student.sharding=full"
    )


def shares_student(recipe: TrainRecipe, accelerator: Accelerator) -> bool:
    """Whether processes hold parts of the student; one alone holds all of it."""
    return recipe.student.sharding == "full" and accelerator.num_processes > 1


def is_on_cpu() -> bool:
    """Whether Accelerate must be told to take the CPU.

    Where a launcher started this process on a machine without CUDA, it would run every process as
    if it were alone; and Apple's MPS has no float64, in which terms are counted and summed.
    """
    launched = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    return launched or torch.backends.mps.is_available()


def require_alike(accelerator: Accelerator, seen: Mapping[str, Any], advice: str) -> None:
    """Refuse to go on where processes do not see the same: they would train on different rows.

    Args:
        accelerator: the processes.
        seen: what each of them must see alike.
        advice: why they may not.

    Raises:
        ProcessesDifferError: on every process alike.
    """
    if accelerator.num_processes == 1:
        return
    everyone: list[Mapping[str, Any]] = gather_object([dict(seen)])
    for rank, other in enumerate(everyone):
        differing = [
            f"{name} {value!r}, {other.get(name)!r}"
            for name, value in everyone[0].items()
            if other.get(name) != value
        ]
        if differing:
            raise ProcessesDifferError(
                f"processes 0 and {rank} do not see the same ({'; '.join(differing)}): {advice}. "
                "Nothing was trained; start again"
            )


def build_run(
    directory: RunDir,
    recipe: TrainRecipe,
    lm: AudioLM,
    terms: tuple[Term, ...],
    stages: tuple[Stage, ...],
    accelerator: Accelerator,
) -> Run:
    """Put student, projectors and optimizer together.

    Args:
        directory: where results go.
        recipe: the resolved recipe.
        lm: the student.
        terms: the objective.
        stages: what is trained on.
        accelerator: where it runs.

    Raises:
        UsageError: a task trains nothing in a stage, or in shards not as far as another one.
        StudentMemoryError: the student does not fit the device.
    """
    objective = Objective(
        lm.model,
        terms,
        lm.width,
        recipe.loop.vocab_chunk,
    )
    check_trained(objective, stages, lm.family, recipe.student)
    if shares_student(recipe, accelerator):
        check_in_shards(objective, stages, lm.family)
    if accelerator.num_processes > 1:
        _begin_alike(objective, accelerator.device)
    shards: Shards | None = None
    # not wrapped for data parallelism: gradients meet in train.gradients, once all are whole
    with named_shortage("moving the student to the device"):
        if shares_student(recipe, accelerator):
            autocast = accelerator.mixed_precision == "bf16"
            heard = all(task.needs.reads == "audio" for stage in stages for task in stage.tasks)
            objective.meets_all_blocks = True
            shards = shard(objective, lm, accelerator.device, autocast, heard)
        prepared = accelerator.prepare_model(objective, evaluation_mode=True)
    optimizer = torch.optim.AdamW(
        parameter_groups(objective, recipe.optim),
        lr=recipe.optim.lr,
        betas=(recipe.optim.betas[0], recipe.optim.betas[1]),
        eps=recipe.optim.eps,
        # by default torch computes a whole copy of a moment on CUDA: 20 bytes a parameter, not 16
        fused=accelerator.device.type == "cuda",
    )
    return Run(
        lm=lm,
        stages=stages,
        objective=prepared,
        optimizer=accelerator.prepare_optimizer(optimizer),
        accelerator=accelerator,
        recipe=recipe,
        directory=directory,
        shards=shards,
    )


@torch.no_grad()
def _begin_alike(objective: Objective, device: torch.device) -> None:
    """Give every process the first one's weights, one after another by way of the device."""
    for tensor in objective.state_dict().values():
        sent = tensor.contiguous().to(device)
        distributed.broadcast(sent, src=0)
        tensor.copy_(sent)


def parameter_groups(objective: Objective, recipe: OptimRecipe) -> list[dict[str, Any]]:
    """Return optimizer groups: matrices, vectors (no decay) and projectors (their own rate)."""
    student = [p for p in objective.model.parameters() if p.requires_grad]
    groups: Mapping[str, Any] = {
        "matrices": ([p for p in student if p.ndim > 1], recipe.lr, recipe.weight_decay),
        "vectors": ([p for p in student if p.ndim <= 1], recipe.lr, 0.0),
        "projectors": (list(objective.projectors.parameters()), recipe.projector_lr, 0.0),
    }
    return [
        {"params": params, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for params, lr, decay in groups.values()
        if params
    ]
