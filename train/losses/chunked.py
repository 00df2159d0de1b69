"""Vocabulary losses a chunk of tokens at a time, the logits recomputed in the backward pass.

The reference of ``train.losses.fused``, and what is used where every loss's own gradient is asked
for, or where the weights are sharded. At most ``chunk`` rows of logits live at one time, forward
and backward; the unembedding is computed twice instead.

Shapes: N positions, n of a chunk, D width, M losses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from train.losses.asked import Asked, ChunkLoss, see
from train.losses.heads import Head
from train.losses.precision import wide


class Chunked:
    """Sums losses over positions, by autograd.

    Args:
        chunk: positions whose logits exist at one time.
    """

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def sums(
        self, inputs_ND: Tensor, head: Head, asked: Asked, losses: ChunkLoss, scale_M: Tensor
    ) -> Tensor:
        """Return [M]: every loss summed over the N positions.

        Args:
            inputs_ND: inputs of the unembedding.
            head: the unembedding.
            asked: what the losses see of the logits.
            losses: what to compute from it.
            scale_M: one number a loss; they are weighted where they are used.
        """
        total_M = torch.zeros_like(scale_M, dtype=wide(inputs_ND[:0]).dtype)

        def one_chunk(inputs_nD: Tensor, where: slice) -> Tensor:
            return losses(see(wide(head.read(inputs_nD)), asked.at(where)), where)

        for start in range(0, len(inputs_ND), self._chunk):
            where = slice(start, start + self._chunk)
            sums_M = checkpoint(one_chunk, inputs_ND[where], where, use_reentrant=False)
            total_M = total_M + sums_M
        return total_M

    def attach(self, total: Tensor) -> Tensor:
        """Return a total of losses: its gradients are in its graph."""
        return total
