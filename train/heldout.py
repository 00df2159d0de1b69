"""Rows held out of training, and the objective on them.

Shapes: M terms.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_models.memory import free_memory, is_out_of_memory
from cache_schema.errors import UsageError
from train.data import Example
from train.memory import agree_on_size, stuck_shortage
from train.parts import Run
from train.steps.loads import MicroSize, loads
from train.steps.order import cut_to_budget
from train.steps.stages import PlannedStep

_HASH_BYTES = 8
_HASHES = 2.0 ** (8 * _HASH_BYTES)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The objective on the held-out rows.

    Attributes:
        values_M: every term's mean over its positions, float64.
        counts_M: those positions, float64.
        unknown_M: the teacher's mean mass there on tokens the student lacks, float64.
        loss: weighted sum of the values.
        tokens: input positions without padding.
        spent_s: how long it took.
        micro_tokens: padded tokens of one forward pass that fitted.
    """

    values_M: Tensor  # noqa: N815
    counts_M: Tensor  # noqa: N815
    unknown_M: Tensor  # noqa: N815
    loss: float
    tokens: int
    spent_s: float
    micro_tokens: int


def is_held_out(sample_id: str, fraction: float) -> bool:
    """Whether a sample is held out: by its id alone, so every trace of it is, in every tape."""
    digest = hashlib.sha256(sample_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big") < fraction * _HASHES


def split(
    examples: Sequence[Example], fraction: float, task: str = ""
) -> tuple[list[Example], list[Example]]:
    """Return the rows to train on and those held out, each in the tape's order.

    Args:
        examples: all of them.
        fraction: about which share is held out.
        task: whose they are, for the message.

    Raises:
        UsageError: one of the two is empty.
    """
    trained = [e for e in examples if not is_held_out(e.sample_id, fraction)]
    held_out = [e for e in examples if is_held_out(e.sample_id, fraction)]
    if not trained or not held_out:
        what = "none is left to train on; lower" if held_out else "none is held out; raise"
        raise UsageError(
            f"eval.fraction {fraction:g} of {len(examples)} rows{f' of task {task!r}' * bool(task)}"
            f": {what} it, or set eval.every=0"
        )
    return trained, held_out


def evaluate(run: Run, micro_tokens: int, step: int) -> HeldOut:
    """Return the objective on the held-out rows of a step's stage, on every process alike.

    The student is in evaluation mode meanwhile: no dropout, no random number is drawn.

    Raises:
        StudentMemoryError: a single row does not fit.
    """
    began_s = time.perf_counter()
    stage = run.stage_of(step)
    ordered = sorted(stage.held_out, key=lambda e: (e.num_tokens, e.sample_id, e.trace_index))
    portions = cut_to_budget(ordered, run.recipe.loop.batch_tokens)
    steps = [PlannedStep(stage=stage, rows=rows) for rows in portions]
    run.unwrapped.eval()
    while True:
        what = f"evaluation after step {step}"
        sums_M, counts_M, unknown_M, tokens, failed = _pass(run, steps, micro_tokens)
        if failed and run.shards:
            raise stuck_shortage(failed, run.accelerator.process_index, what)
        smaller = agree_on_size(run.accelerator, failed, micro_tokens, what)
        if smaller is None:
            break
        free_memory()
        micro_tokens = smaller
    run.unwrapped.train()
    if run.shards:
        run.shards.settle()
    sums_M, counts_M, unknown_M = map(run.accelerator.reduce, (sums_M, counts_M, unknown_M))
    values_M = sums_M / counts_M.clamp(min=1)
    return HeldOut(
        values_M=values_M,
        counts_M=counts_M,
        unknown_M=unknown_M / counts_M.clamp(min=1),
        loss=float((values_M * run.weights_M).sum()),
        tokens=int(run.accelerator.reduce(tokens)),
        spent_s=time.perf_counter() - began_s,
        micro_tokens=micro_tokens,
    )


@torch.no_grad()
def _pass(
    run: Run, steps: Sequence[PlannedStep], micro_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, MicroSize | None]:
    """Return this process's sums, counts and unknown mass, float64 [M], tokens, what did not fit.

    No sum is exchanged between processes in here.
    """
    device = run.accelerator.device
    sums_M = torch.zeros(len(run.unwrapped.terms), dtype=torch.float64, device=device)
    counts_M, unknown_M = torch.zeros_like(sums_M), torch.zeros_like(sums_M)
    tokens = torch.zeros((), dtype=torch.int64, device=device)
    with contextlib.closing(loads(run, steps, micro_tokens)) as shares:
        for share in shares:
            for index, (batch, size) in enumerate(zip(share.micro, share.sizes, strict=True)):
                try:
                    found_M = run.objective(batch.to(device)).double()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    return sums_M, counts_M, unknown_M, tokens, size
                if index >= len(share.own):
                    continue
                sums_M += found_M
                counts_M += run.unwrapped.counts(batch).to(device)
                unknown_M += run.unwrapped.unknown(batch).to(device)
                tokens += batch.num_tokens
    return sums_M, counts_M, unknown_M, tokens, None
