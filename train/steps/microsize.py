"""The size of one forward pass where the recipe leaves it open (``loop.micro_tokens = 0``)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from audio_models.memory import free_memory, is_out_of_memory
from cache_schema.commands.console import say
from train.checkpoint import restore_rng, rng_state
from train.data import Example
from train.gradients import trained_parameters
from train.memory import StudentMemoryError, largest_that_fits
from train.parts import Run
from train.steps.loads import loads
from train.steps.order import cut_to_budget, divide_step
from train.steps.stages import PlannedStep

DEFAULT_TOKENS = 8192
"""Where memory is not searched: a pass this long of a student of 7 B takes some 20 GB."""

SEARCHED_DEVICES = ("cuda",)
"""Devices that refuse what does not fit. A CPU swaps, or the system ends the process, instead."""

_MOMENTS = 2
"""Tensors AdamW keeps beside every trained parameter."""


def choose_micro_tokens(run: Run) -> int:
    """Return the padded tokens of one forward pass, the same on every process.

    Raises:
        StudentMemoryError: the longest row alone does not fit.
    """
    if run.recipe.loop.micro_tokens:
        return run.recipe.loop.micro_tokens
    found, how = DEFAULT_TOKENS, "the default"
    if run.accelerator.device.type in SEARCHED_DEVICES:
        found, how = _search(run), "the largest tried that fits"
    if run.accelerator.is_main_process:
        say(f"micro-batches: at most {found} tokens with padding in one pass, {how}")
    return found


def _search(run: Run) -> int:
    """Double the size from the longest row's up to a process's share of a step."""
    accelerator = run.accelerator
    longest = max(e.num_tokens for stage in run.stages for e in stage.examples)
    limit = max(longest, run.recipe.loop.batch_tokens // accelerator.num_processes)
    mine = largest_that_fits(lambda tokens: _fits(run, tokens), longest, limit)
    sizes = accelerator.gather(torch.tensor([mine], device=accelerator.device)).tolist()
    if min(sizes) == 0:
        raise StudentMemoryError(
            f"out of memory with a single row of {longest} tokens. Set "
            "student.activation_checkpointing=true, a smaller loop.vocab_chunk, student.lora_rank, "
            f"or leave such rows out: data.max_tokens={longest - 1}"
        )
    return int(min(sizes))


def _fits(run: Run, tokens: int) -> bool:
    """Whether a step of micro-batches of the longest rows fits; it leaves nothing behind."""
    before = rng_state()
    try:
        _try(run, tokens)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        run.optimizer.zero_grad()
        free_memory()
        restore_rng(before)
    return True


def _try(run: Run, tokens: int) -> None:
    """Pass two micro-batches of every task through the student, forward and backward.

    The second one meets the gradients of the first; what the optimizer will need is held meanwhile.
    """
    steps = [
        PlannedStep(stage=stage, rows=longest_rows(task.examples, tokens))
        for stage in run.stages
        for task in stage.tasks
        for _ in range(2)
    ]
    moments = [torch.empty_like(p) for p in trained_parameters(run) for _ in range(_MOMENTS)]
    with contextlib.closing(loads(run, steps, tokens, alone=True)) as shares:
        for share in shares:
            batch = share.micro[0].to(run.accelerator.device)
            run.accelerator.backward(run.objective(batch, run.weights_M.float()).loss)
    del moments


def longest_rows(examples: Sequence[Example], tokens: int) -> list[Example]:
    """Return as many of the longest rows as one micro-batch of ``tokens`` holds."""
    ordered = sorted(examples, key=lambda e: (-e.num_tokens, e.sample_id, e.trace_index))
    return divide_step(cut_to_budget(ordered, tokens)[0], 0, 1, tokens)[0]
