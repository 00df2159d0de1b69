"""What does not fit the memory: told apart, agreed on by all processes, answered by smaller passes.

A process that ran out says so before any of them exchanges gradients, so none runs ahead. The step
then starts again in micro-batches of half the size that did not fit; its rows stay, and so do its
gradients, as every term is divided by its count in the whole step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

from audio_models.memory import is_out_of_memory
from cache_schema.commands.console import say
from cache_schema.errors import TeachertapeError
from train.steps.loads import MicroSize


class StudentMemoryError(TeachertapeError):
    """The student, or the smallest pass there is, that of one row, does not fit the memory."""


@contextlib.contextmanager
def named_shortage(what: str) -> Iterator[None]:
    """Give running out of memory where smaller passes would not help its name.

    Raises:
        StudentMemoryError: instead of the allocator's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise StudentMemoryError(
            f"{what}: out of memory. Weights, gradients and the optimizer's two moments of every "
            "trained parameter take 16 bytes each; train less: student.lora_rank, student.freeze"
        ) from error


def stuck_shortage(size: MicroSize, rank: int, what: str) -> StudentMemoryError:
    """Return what to raise where this process's pass did not fit, and others wait in theirs.

    Args:
        size: of the pass.
        rank: of this process.
        what: what was done, for messages, such as ``step 7``.
    """
    smaller = "" if size.rows == 1 else f"loop.micro_tokens={size.tokens // 2}, "
    return StudentMemoryError(
        f"{what}: out of memory with {size.rows} rows, {size.tokens} tokens with padding, in one "
        f"pass on process {rank}. Processes that hold parts of one student (student.sharding) wait "
        f"for each other within a pass, and cannot try a smaller one. Set {smaller}"
        "student.activation_checkpointing=true, a smaller loop.vocab_chunk or more processes; "
        "--resume goes on from the last checkpoint with another loop.micro_tokens"
    )


def agree_on_size(
    accelerator: Accelerator, failed: MicroSize | None, micro_tokens: int, what: str
) -> int | None:
    """Return the new size of micro-batches if any process ran out of memory, else ``None``.

    Every process calls this at the same point and gets the same answer.

    Args:
        accelerator: the processes.
        failed: this process's micro-batch that did not fit.
        micro_tokens: padded tokens of a micro-batch until now.
        what: what was done, for messages, such as ``step 7``.

    Raises:
        StudentMemoryError: a micro-batch of one row did not fit, on every process alike.
    """
    mine = (failed.rows, failed.tokens) if failed else (0, 0)
    if accelerator.num_processes == 1:
        everyone = [mine]
    else:
        sent = torch.tensor([mine], device=accelerator.device)
        everyone = [(int(rows), int(tokens)) for rows, tokens in accelerator.gather(sent).tolist()]
    short = [(tokens, rows, rank) for rank, (rows, tokens) in enumerate(everyone) if rows]
    if not short:
        return None
    tokens, rows, rank = min(short)
    where = f" on process {rank}" if accelerator.num_processes > 1 else ""
    if rows == 1:
        raise StudentMemoryError(
            f"{what}: out of memory with a single row of {tokens} tokens{where}. Set "
            "student.activation_checkpointing=true, a smaller loop.vocab_chunk, student.lora_rank, "
            f"or leave such rows out: data.max_tokens={tokens - 1}"
        )
    smaller = tokens // 2
    if accelerator.is_main_process:
        say(
            f"{what}: out of memory with {rows} rows, {tokens} tokens with padding, in one pass"
            f"{where}; at most {smaller} from here on (until now {micro_tokens}). The step starts "
            "again; its rows stay the same"
        )
    return smaller


def largest_that_fits(fits: Callable[[int], bool], first: int, limit: int) -> int:
    """Return the largest of ``first``, 2 ``first``, 4 ``first``, ... up to ``limit`` that fits.

    Returns:
        0 if not even ``first`` does.
    """
    found, size = 0, first
    while fits(size):
        found = size
        if size >= limit:
            break
        size = min(2 * size, limit)
    return found
