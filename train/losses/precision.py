"""In which precision losses are computed: float32, or more where more came in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """Return values as float32, float64 as it is."""
    return values if values.dtype == torch.float64 else values.float()
