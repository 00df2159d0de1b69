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
from cache_schema.errors import UsageError
from train.checkpoint import restore_rng, rng_state
from train.gradient_norms import Norms, measured_norms, sharded_norms
from train.memory import agree_on_size, stuck_shortage
from train.parts import Run
from train.sharding import Shards
from train.steps.loads import Feed, MicroSize, StepLoad

BUCKET_BYTES = 64 * 2**20
"""Gradients that travel together."""


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """What a step came to, over all processes; its gradients lie with the parameters.

    Attributes:
        values_M: every term's mean over its positions, float64.
        counts_M: those positions, float64.
        unknown_M: the teacher's mean mass there on tokens the student lacks, float64.
        tokens: input positions without padding.
        norms: every term's gradient norm, ``None`` where it was not measured.
    """

    values_M: Tensor  # noqa: N815
    counts_M: Tensor  # noqa: N815
    unknown_M: Tensor  # noqa: N815
    tokens: int
    norms: Norms


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """What this process's passes left: sums, or what did not fit."""

    sums_M: Tensor  # noqa: N815
    failed: MicroSize | None = None


def trained_parameters(run: Run) -> list[Tensor]:
    """Return the parameters that are trained."""
    return [p for p in run.objective.parameters() if p.requires_grad]


def step_gradients(run: Run, feed: Feed, step: int, measure_norms: bool) -> StepSums:
    """Leave the current step's gradients with the parameters, in smaller passes if need be.

    Raises:
        StudentMemoryError: a single row does not fit.
        UsageError: the terms of some rows meet nothing that is trained.
    """
    parameters = trained_parameters(run)
    counts_M, unknown_M, tokens = count_positions(run, feed.load)
    norms: Norms = [None] * len(counts_M)
    if measure_norms and run.shards:
        norms = _norms_in_shards(run, run.shards, feed.load, step, parameters)
    while True:
        before = rng_state()
        passes = _accumulate(run, feed.load, counts_M)
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
    if measure_norms and not run.shards:
        norms = measured_norms(run, feed.load, parameters)
    if run.shards:
        run.shards.drop_untouched()
    else:
        sum_gradients(parameters, run.accelerator.num_processes)
    return StepSums(
        values_M=run.accelerator.reduce(passes.sums_M) / counts_M.clamp(min=1),
        counts_M=counts_M,
        unknown_M=unknown_M / counts_M.clamp(min=1),
        tokens=tokens,
        norms=norms,
    )


def _norms_in_shards(
    run: Run, shards: Shards, load: StepLoad, step: int, parameters: Sequence[Tensor]
) -> Norms:
    try:
        return sharded_norms(run, shards, load.micro[0], parameters)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"step {step}, gradient norms of terms"
        raise stuck_shortage(load.sizes[0], run.accelerator.process_index, what) from error


def count_positions(run: Run, load: StepLoad) -> tuple[Tensor, Tensor, int]:
    """Return what is counted before a pass, over all processes.

    Returns:
        Every term's positions, its teacher's mass on tokens the student lacks (both float64 [M]),
        and the input positions.
    """
    M = len(run.unwrapped.terms)
    local = torch.zeros(2 * M + 1, dtype=torch.float64)
    for batch in load.own:
        local[:M] += run.unwrapped.counts(batch)
        local[M:-1] += run.unwrapped.unknown(batch)
        local[-1] += batch.num_tokens
    total = run.accelerator.reduce(local.to(run.accelerator.device))
    return total[:M], total[M:-1], int(total[-1])


def _accumulate(run: Run, load: StepLoad, counts_M: Tensor) -> _Passes:
    """Add up this process's gradients; stop at a micro-batch that does not fit."""
    scale_M = (run.weights_M / counts_M.clamp(min=1)).float()  # a term may have no position
    totals_M = torch.zeros_like(counts_M)
    for index, (batch, size) in enumerate(zip(load.micro, load.sizes, strict=True)):
        try:
            counted = float(index < len(load.own))
            loss, sums_M = run.objective(batch.to(run.accelerator.device), scale_M * counted)
            if not loss.requires_grad:
                raise UsageError(
                    f"{', '.join(batch.terms)}: nothing that is trained is in what they compare "
                    "(layers before the first adapter, or of frozen parts); leave them out, or "
                    "train more"
                )
            run.accelerator.backward(loss)
            totals_M += sums_M.detach().double() * counted
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return _Passes(sums_M=totals_M, failed=size)
    return _Passes(sums_M=totals_M)


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
        if len(bucket) == 1 and bucket[0].is_contiguous():  # embeddings: no copy of the largest
            distributed.all_reduce(bucket[0])
            continue
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
