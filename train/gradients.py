"""The gradients of one whole step: accumulated over micro-batches that fit, summed over processes.

Gradients meet once a step, after every process has said that its micro-batches fitted; data
parallelism that sends them during the last backward pass could not take a step back. What is given
up is that overlap; what is saved is a second copy of all gradients in its buckets. A student in
shards (``train.sharding``) meets in every pass instead, and cannot take a step back.

Shapes: M terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from audio_models.memory import free_memory, is_out_of_memory
from train.batch import TrainBatch
from train.checkpoint import restore_rng, rng_state
from train.loads import Feed, MicroSize, StepLoad
from train.memory import agree_on_size, stuck_shortage
from train.parts import Run
from train.sharding import Shards, square_sum

BUCKET_BYTES = 64 * 2**20
"""Gradients that travel together."""


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """What a step came to, over all processes; its gradients lie with the parameters.

    Attributes:
        values_M: every term's mean over its positions, float64.
        counts_M: those positions, float64.
        tokens: input positions without padding.
        norms: every term's gradient norm, ``None`` where it was not measured.
    """

    values_M: Tensor  # noqa: N815
    counts_M: Tensor  # noqa: N815
    tokens: int
    norms: list[float | None]


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """What this process's passes left: sums and norms, or what did not fit."""

    sums_M: Tensor  # noqa: N815
    norms: list[float | None]
    failed: MicroSize | None = None


def trained_parameters(run: Run) -> list[Tensor]:
    """Return the parameters that are trained."""
    return [p for p in run.objective.parameters() if p.requires_grad]


def step_gradients(run: Run, feed: Feed, step: int, measure_norms: bool) -> StepSums:
    """Leave the current step's gradients with the parameters, in smaller passes if need be.

    Raises:
        StudentMemoryError: a single row does not fit.
    """
    parameters = trained_parameters(run)
    counts_M, tokens = count_positions(run, feed.load)
    while True:
        before = rng_state()
        passes = _accumulate(run, feed.load, counts_M, measure_norms, parameters)
        if passes.failed and run.shards:
            raise stuck_shortage(passes.failed, run.accelerator.process_index, f"step {step}")
        smaller = agree_on_size(run.accelerator, passes.failed, feed.micro_tokens, f"step {step}")
        if smaller is None:
            break
        run.optimizer.zero_grad()
        del passes
        free_memory()
        restore_rng(before)
        feed.again(smaller)
    if run.shards:
        run.shards.drop_untouched()
    else:
        sum_gradients(parameters, run.accelerator.num_processes)
    return StepSums(
        values_M=run.accelerator.reduce(passes.sums_M) / counts_M.clamp(min=1),
        counts_M=counts_M,
        tokens=tokens,
        norms=passes.norms,
    )


def count_positions(run: Run, load: StepLoad) -> tuple[Tensor, int]:
    """Return every term's positions, float64 [M], and the input positions, over all processes."""
    local = torch.zeros(len(run.unwrapped.terms) + 1, dtype=torch.float64)
    for batch in load.own:
        local[:-1] += run.unwrapped.counts(batch)
        local[-1] += batch.num_tokens
    total = run.accelerator.reduce(local.to(run.accelerator.device))
    return total[:-1], int(total[-1])


def _accumulate(
    run: Run,
    load: StepLoad,
    counts_M: Tensor,
    measure_norms: bool,
    parameters: Sequence[Tensor],
) -> _Passes:
    """Add up this process's gradients; stop at a micro-batch that does not fit."""
    scale_M = (run.weights_M / counts_M.clamp(min=1)).float()  # a term may have no position
    totals_M = torch.zeros_like(counts_M)
    norms: list[float | None] = [None] * len(totals_M)
    if measure_norms and run.shards:
        norms = sharded_norms(run, run.shards, load.micro[0], parameters)
    for index, (batch, size) in enumerate(zip(load.micro, load.sizes, strict=True)):
        try:
            counted = float(index < len(load.own))
            scaled_M = scale_M * counted
            there = batch.to(run.accelerator.device)
            if index == 0 and measure_norms and not run.shards:
                sums_M = run.objective(there)
                norms = gradient_norms(sums_M, run, batch, parameters)
                loss = (sums_M * scaled_M).sum()
            else:
                loss, sums_M = run.objective(there, scaled_M)
            run.accelerator.backward(loss)
            totals_M += sums_M.detach().double() * counted
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return _Passes(sums_M=totals_M, norms=norms, failed=size)
    return _Passes(sums_M=totals_M, norms=norms)


def gradient_norms(
    sums_M: Tensor, run: Run, batch: TrainBatch, parameters: Sequence[Tensor]
) -> list[float | None]:
    """Return each weighted term's gradient norm on one micro-batch, a backward pass each."""
    weights_M = run.weights_M
    counts_M = run.unwrapped.counts(batch).to(weights_M).clamp(min=1)
    norms: list[float | None] = []
    for index in range(len(weights_M)):
        scaled = sums_M[index] * float(weights_M[index] / counts_M[index])
        found = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
        squares = [grad.double().square().sum() for grad in found if grad is not None]
        norms.append(float(sum(squares, torch.zeros_like(scaled).double()).sqrt()))
    return norms


def sharded_norms(
    run: Run, shards: Shards, batch: TrainBatch, parameters: Sequence[Tensor]
) -> list[float | None]:
    """Return ``gradient_norms`` of the first process's micro-batch, a whole pass a term.

    Every process takes part with a micro-batch of its own, which counts nothing; gradients and
    random numbers are left as they were found.
    """
    counts_M = run.unwrapped.counts(batch).to(run.weights_M).clamp(min=1)
    scale_M = run.weights_M / counts_M * float(run.accelerator.is_main_process)
    before = rng_state()
    norms: list[float | None] = []
    for index, scale in enumerate(scale_M.tolist()):
        restore_rng(before)
        sums_M = run.objective(batch.to(run.accelerator.device))
        run.accelerator.backward(sums_M[index] * scale)
        norms.append(float(square_sum(p.grad for p in parameters).sqrt()))
        run.optimizer.zero_grad()
    restore_rng(before)
    shards.forget()
    return norms


def clip_gradients(run: Run, parameters: Sequence[Tensor], limit: float) -> float:
    """Scale all gradients down to a norm, over all of them; return what it was."""
    norm = run.accelerator.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def sum_gradients(parameters: Sequence[Tensor], num_processes: int) -> None:
    """Sum gradients over processes, in place; a parameter without any on all of them stays so.

    A process without a row, or without a term at some parameter, adds zeros: a parameter no process
    has a gradient for must not get zeros, which weight decay would act on.
    """
    if num_processes == 1:
        return
    held = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    held = held.to(parameters[0].device)
    distributed.all_reduce(held)
    shared = [p for p, count in zip(parameters, held.tolist(), strict=True) if count]
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in shared if p.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        distributed.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a sequence into runs of one type, within ``BUCKET_BYTES`` unless one alone is larger."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        full = bucket and filled + tensor.nbytes > BUCKET_BYTES
        if full or (bucket and bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket
