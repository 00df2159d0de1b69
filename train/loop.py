"""The training loop, on one screen: ``train_steps``.

A step is a set of rows within ``batch_tokens``. Each process runs its share in micro-batches; every
term is summed, divided once by its count over all processes, weighted, and backpropagated.
Gradients meet on each process's last micro-batch.

Shapes: M terms.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from audio_models.load import AudioLM
from cache_schema import Tape
from cache_schema.errors import TeachertapeError
from train.batch import Needs, TrainBatch, load_batches
from train.checkpoint import rng_state, save_checkpoint
from train.data import Example, divide_step, run_plan
from train.metrics import Reporter, StepMetrics, TermValue
from train.objective import Objective
from train.recipe import TrainRecipe
from train.ring import HostBuffer, Readers, prefetch
from train.rundir import RunDir
from train.settings import OptimRecipe
from train.states import damaged_states

STEPS_AHEAD = 2
"""Steps loaded while one is computed; each has a buffer of its own, and so has the computed one."""


class NonFiniteLossError(TeachertapeError):
    """The loss or its gradient became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything the loop works with.

    Attributes:
        lm: the student's processor and facts, for building inputs.
        tape: where rows come from.
        examples: the rows, in the tape's order.
        needs: what a batch reads from the tape.
        objective: student and losses, as ``Accelerator.prepare`` returned it.
        optimizer: likewise.
        accelerator: device, processes, precision.
        recipe: the resolved recipe.
        directory: where results go.
        total_steps: how long the run is.
    """

    lm: AudioLM
    tape: Tape
    examples: Sequence[Example]
    needs: Needs
    objective: Any
    optimizer: Any
    accelerator: Accelerator
    recipe: TrainRecipe
    directory: RunDir
    total_steps: int

    @property
    def unwrapped(self) -> Objective:
        """The objective without its data-parallel wrapper."""
        module: Objective = self.accelerator.unwrap_model(self.objective)
        return module


@dataclass(frozen=True, kw_only=True)
class StepLoad:
    """One process's share of a step; ``idle`` if it got no row and only joins in the reduction."""

    micro: list[TrainBatch]
    idle: bool


def train_steps(run: Run, done: int, reporter: Reporter | None) -> None:
    """Train from step ``done`` to the end, writing metrics and checkpoints.

    Args:
        run: what to train.
        done: steps already taken.
        reporter: where metrics go; ``None`` on all but the first process.

    Raises:
        NonFiniteLossError: with the step's terms and rows; the last checkpoint stays good.
    """
    accelerator, device = run.accelerator, run.accelerator.device
    terms = run.unwrapped.terms
    weights = [term.settings.weight for term in terms]
    weights_M = torch.tensor(weights, dtype=torch.float64, device=device)
    parameters = [p for p in run.objective.parameters() if p.requires_grad]
    with contextlib.closing(_loads(run, done)) as loads:
        for step in range(done + 1, run.total_steps + 1):
            began_s = time.perf_counter()
            load = next(loads)
            waited_s = time.perf_counter() - began_s
            lr = set_learning_rate(run.optimizer, run.recipe.optim, step, run.total_steps)
            share = 0.0 if load.idle else 1.0
            counts_M, tokens = _count(run, load, share)
            scale_M = (weights_M / counts_M * share * accelerator.num_processes).float()
            totals_M = torch.zeros_like(weights_M)
            norms: list[float | None] = [None] * len(terms)
            for index, batch in enumerate(load.micro):
                last = index == len(load.micro) - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(run.objective):
                    sums_M = run.objective(batch.to(device))
                    if index == 0 and _due(run.recipe.logging.gradient_norms_every, step):
                        norms = gradient_norms(sums_M, weights_M, run, batch, parameters)
                    accelerator.backward((sums_M * scale_M).sum())
                totals_M += sums_M.detach().double() * share
            values_M = accelerator.reduce(totals_M) / counts_M
            loss = float((values_M * weights_M).sum())
            limit = run.recipe.optim.clip_norm or math.inf
            norm = float(accelerator.clip_grad_norm_(parameters, limit))
            _require_finite(run, step, loss, norm, values_M)
            run.optimizer.step()
            run.optimizer.zero_grad()
            spent_s = time.perf_counter() - began_s
            if reporter is not None:
                each = zip(terms, values_M, counts_M, norms, strict=True)
                reporter.step(
                    StepMetrics(
                        step=step,
                        loss=loss,
                        terms={
                            term.name: TermValue(
                                value=float(value),
                                weight=term.settings.weight,
                                count=int(count),
                                gradient_norm=of_term,
                            )
                            for term, value, count, of_term in each
                        },
                        lr=lr,
                        grad_norm=norm,
                        tokens=tokens,
                        tokens_per_s=tokens / spent_s,
                        step_s=spent_s,
                        loader_wait_s=waited_s,
                    )
                )
            if _due(run.recipe.checkpoints.every, step) or step == run.total_steps:
                checkpoint(run, step)


def checkpoint(run: Run, step: int) -> None:
    """Write a checkpoint on the first process, while the others wait."""
    rng_states = gather_object([rng_state()])
    if run.accelerator.is_main_process:
        save_checkpoint(
            run.directory.checkpoints,
            step,
            run.unwrapped,
            run.optimizer,
            {"total_steps": run.total_steps},
            rng_states,
            run.recipe.checkpoints.keep,
        )
    run.accelerator.wait_for_everyone()


def learning_rate_factor(recipe: OptimRecipe, step: int, total: int) -> float:
    """Return the share of the peak at ``step`` (from 1): linear warm-up, then a cosine."""
    warmup = math.ceil(recipe.warmup_fraction * total)
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    floor = recipe.final_lr_fraction
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: Any, recipe: OptimRecipe, step: int, total: int) -> float:
    """Set every group's rate for ``step`` and return the student's."""
    factor = learning_rate_factor(recipe, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return recipe.lr * factor


def gradient_norms(
    sums_M: Tensor, weights_M: Tensor, run: Run, batch: TrainBatch, parameters: list[Tensor]
) -> list[float | None]:
    """Return each weighted term's gradient norm on one micro-batch, a backward pass each."""
    counts_M = run.unwrapped.counts(batch).to(weights_M)
    norms: list[float | None] = []
    for index in range(len(weights_M)):
        scaled = sums_M[index] * float(weights_M[index] / counts_M[index])
        found = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
        squares = [grad.double().square().sum() for grad in found if grad is not None]
        norms.append(float(torch.stack(squares).sum().sqrt()))
    return norms


def _loads(run: Run, done: int) -> Generator[StepLoad, None, None]:
    """Yield this process's shares of the steps that are left, loaded ahead.

    A share's states are valid until the next one is asked for.
    """
    loop, accelerator = run.recipe.loop, run.accelerator
    plan = run_plan(run.examples, loop.batch_tokens, loop.seed)

    def load(readers: Readers, step: list[Example], buffer: HostBuffer) -> StepLoad:
        rank, ranks = accelerator.process_index, accelerator.num_processes
        shares = divide_step(step, rank, ranks, loop.micro_tokens)
        rows = [[(e.sample_id, e.trace_index) for e in share] for share in shares or [step[:1]]]
        micro = load_batches(run.lm, run.tape, rows, run.needs, buffer, readers)
        return StepLoad(micro=micro, idle=not shares)

    buffers = [HostBuffer(accelerator.device) for _ in range(STEPS_AHEAD + 1)]
    with Readers() as readers:
        steps = itertools.islice(plan, done, run.total_steps)
        yield from prefetch((functools.partial(load, readers, step) for step in steps), buffers)


def _count(run: Run, load: StepLoad, share: float) -> tuple[Tensor, int]:
    """Return every term's positions, float64 [M], and the input positions, over all processes."""
    counted = [
        torch.cat([run.unwrapped.counts(batch), torch.tensor([batch.num_tokens]).double()])
        for batch in load.micro
    ]
    local = torch.stack(counted).sum(0) * share
    total = run.accelerator.reduce(local.to(run.accelerator.device))
    return total[:-1], int(total[-1])


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _require_finite(run: Run, step: int, loss: float, norm: float, values_M: Tensor) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    terms = ", ".join(
        f"{term.name} {float(value):g}"
        for term, value in zip(run.unwrapped.terms, values_M, strict=True)
    )
    loop = run.recipe.loop
    plan = run_plan(run.examples, loop.batch_tokens, loop.seed)
    rows = next(itertools.islice(plan, step - 1, None))
    shown = ", ".join(example.sample_id for example in rows[:8]) + ", ..." * (len(rows) > 8)
    ids = [(example.sample_id, example.trace_index) for example in rows]
    damaged = damaged_states(run.tape, ids, run.needs.states)
    advice = "try a lower --lr, or leave the term out."
    if damaged:
        more = f" (and {len(damaged) - 1} more)" * (len(damaged) > 1)
        advice = f"but the tape is not: {damaged[0]}{more}. Record it again, or leave the term out."
    raise NonFiniteLossError(
        f"step {step}: loss {loss:g}, gradient norm {norm:g} ({terms}), on rows {shown}. The last "
        f"checkpoint is good; {advice}"
    )
