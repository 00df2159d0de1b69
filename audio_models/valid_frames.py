"""Which positions of a padded batch stand for the recordings, and taking them without waiting.

The positions are worked out on the CPU and sent ahead of the pass as numbers: a mask on the device
would have to be counted there, and the host would wait for it at every layer.

Shapes: B rows, F positions of a row, padding included; N valid positions of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cache_schema.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class ValidFrames:
    """The valid frames of a batch, the first ones of each row.

    Attributes:
        counts: valid frames of each row.
        rows_N: int64 [N], on the device.
        columns_N: int64 [N], on the device.
    """

    counts: Sequence[int]
    rows_N: Tensor  # noqa: N815
    columns_N: Tensor  # noqa: N815

    @classmethod
    def first(cls, counts: Sequence[int], device: torch.device) -> ValidFrames:
        """Return the first ``counts`` frames of each row, their numbers on the device."""
        counts_B = torch.tensor(list(counts))
        rows_N = torch.repeat_interleave(torch.arange(len(counts)), counts_B)
        columns_N = torch.cat([torch.arange(count) for count in counts])
        return cls(counts=counts, rows_N=sent(rows_N, device), columns_N=sent(columns_N, device))

    def take(self, values: Tensor) -> Tensor:
        """Return a copy [N, ...] of the valid frames of [B, F, ...], row after row.

        Raises:
            ModelError: there are fewer.
        """
        if values.shape[1] < max(self.counts):
            raise ModelError(
                f"{values.shape[1]} frames were made where the configuration says "
                f"{max(self.counts)}"
            )
        return values[self.rows_N, self.columns_N]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; CUDA is not waited for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
