"""How large each term's gradient is: terms of other scales can be told apart (``report.md``).

Measured on micro-batches of the first process, in passes of their own: gradients, random numbers
and so the training are what they are without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audio_models.memory import free_memory, is_out_of_memory
from cache_schema.commands.console import say
from train.batch.build import TrainBatch
from train.checkpoint import restore_rng, rng_state
from train.parts import Run
from train.sharding import Shards, square_sum
from train.steps.loads import StepLoad
from train.steps.stages import Stage

Norms = list[float | None]
"""Of every term; ``None`` where it was not measured."""


def norms_due(run: Run, stage: Stage, step: int) -> bool:
    """Whether norms are measured in a step: in a stage's first one, and every so many after it.

    Where tasks alternate, in as many steps as there are tasks: each has terms of its own.
    """
    every = run.recipe.logging.gradient_norms_every
    turns = len(stage.tasks) if run.recipe.mix.by == "alternate" else 1
    return every > 0 and (step - 1 - stage.first) % every < turns


def measured_norms(run: Run, load: StepLoad, parameters: Sequence[Tensor]) -> Norms:
    """Return every weighted term's norm on the step's first micro-batch that has it.

    What does not fit the memory is not measured, which is said.
    """
    before = rng_state()
    names = [term.name for term in run.unwrapped.terms]
    norms: Norms = [None] * len(names)
    try:
        for batch in load.own:
            left = [n for n, name in enumerate(names) if norms[n] is None and name in batch.terms]
            if left:
                for number, norm in _norms_on(run, batch, left, parameters).items():
                    norms[number] = norm
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say("gradient norms of terms: out of memory, not measured in this step")
        free_memory()
    restore_rng(before)
    return norms


def _norms_on(
    run: Run, batch: TrainBatch, numbers: Sequence[int], parameters: Sequence[Tensor]
) -> dict[int, float]:
    """Return the norms of some terms on one micro-batch, a backward pass each."""
    scale_M = _scale(run, batch)
    sums_M = run.objective(batch.to(run.accelerator.device))
    norms = {}
    for number in numbers:
        found = torch.autograd.grad(
            sums_M[number] * scale_M[number], parameters, retain_graph=True, allow_unused=True
        )
        squares = [grad.double().square().sum() for grad in found if grad is not None]
        norms[number] = float(sum(squares, torch.zeros_like(sums_M[0]).double()).sqrt())
    return norms


def _scale(run: Run, batch: TrainBatch) -> list[float]:
    """Return each term's weight over its positions in a micro-batch."""
    counts_M = run.unwrapped.counts(batch).to(run.weights_M).clamp(min=1)
    scales: list[float] = (run.weights_M / counts_M).tolist()
    return scales


def sharded_norms(
    run: Run, shards: Shards, batch: TrainBatch, parameters: Sequence[Tensor]
) -> Norms:
    """Return the norms of a student in shards, on one micro-batch: a whole pass a term.

    Every process takes part; what is not the first one's counts nothing. There must be no gradient
    yet: none is left.
    """
    mine = float(run.accelerator.is_main_process)
    before = rng_state()
    norms: Norms = []
    for number, scale in enumerate(_scale(run, batch)):
        restore_rng(before)
        sums_M = run.objective(batch.to(run.accelerator.device))
        run.accelerator.backward(sums_M[number] * scale * mine)
        norms.append(float(square_sum(p.grad for p in parameters).sqrt()))
        run.optimizer.zero_grad()
    restore_rng(before)
    shards.forget()
    there = [term.name in batch.terms for term in run.unwrapped.terms]
    return [norm if known else None for norm, known in zip(norms, there, strict=True)]
