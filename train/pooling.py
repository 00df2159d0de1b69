"""Frames of recordings made one vector each; what is batched together does not matter.

Shapes: B rows, F frames of one, N of all of them in order, D width, H width of the attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ATTENTION_WIDTH = 128
_LEAST_VARIANCE = 1e-6


def row_means(values_ND: Tensor, counts: Sequence[int]) -> Tensor:
    """Return [B, D]: the mean of each row's values; there must be one at least.

    Row by row, so that a mean is the same, bit for bit, whatever is beside it.
    """
    return torch.stack([row_FD.mean(0) for row_FD in values_ND.split(list(counts))])


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling (Okabe et al., arXiv 1803.10963): [N, D] to [B, 2 D].

    ``a_t = softmax_t(v tanh(W h_t + b))``, then ``m = sum_t a_t h_t`` beside
    ``sqrt(sum_t a_t (h_t - m)^2)``.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, ATTENTION_WIDTH)
        self.score = nn.Linear(ATTENTION_WIDTH, 1, bias=False)

    def forward(self, frames_ND: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the weighted mean and standard deviation of each row."""
        scores_N1 = self.score(self.hidden(frames_ND).tanh())
        pooled = []
        for row_FD, scores_F1 in zip(
            frames_ND.split(list(counts)), scores_N1.split(list(counts)), strict=True
        ):
            weights_F1 = scores_F1.softmax(0)
            mean_D = (weights_F1 * row_FD).sum(0)
            variance_D = (weights_F1 * (row_FD - mean_D).square()).sum(0)
            # the slope of a root at 0, as of a single frame, is infinite
            pooled.append(torch.cat([mean_D, variance_D.clamp(min=_LEAST_VARIANCE).sqrt()]))
        return torch.stack(pooled)
