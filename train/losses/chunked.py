"""Vocabulary losses a chunk of tokens at a time, the logits recomputed in the backward pass.

At most ``chunk`` rows of logits live at one time, forward and backward; the unembedding is computed
twice instead. Shapes: N positions, n positions of a chunk, D width, V vocabulary, M losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from train.losses.precision import wide

ChunkLoss = Callable[[Tensor, slice], Tensor]
"""(logits [n, V], in float32 or wider, which positions) -> losses [M], summed over the n."""


def chunked_sums(
    readout_ND: Tensor, unembed: Callable[[Tensor], Tensor], losses: ChunkLoss, chunk: int
) -> Tensor:
    """Return [M]: every loss summed over the N positions.

    Args:
        readout_ND: inputs of the unembedding.
        unembed: [n, D] -> [n, V].
        losses: what to compute from a chunk's logits.
        chunk: positions at a time.
    """

    def one_chunk(readout_nD: Tensor, where: slice) -> Tensor:
        return losses(wide(unembed(readout_nD)), where)

    sums: Sequence[Tensor] = [
        checkpoint(one_chunk, readout_ND[start : start + chunk], slice(start, start + chunk),
                   use_reentrant=False)
        for start in range(0, len(readout_ND), chunk)
    ]  # fmt: skip
    return torch.stack(list(sums)).sum(0)
