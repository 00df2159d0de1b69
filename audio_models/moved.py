"""Whether padding moved values, or only how they were rounded.

Shapes: N rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far a dimension may move, of its own scale. Other shapes round otherwise: below 1e-5 in
float32. Group norms over padding moved states by 0.1 to 1."""

SPILLED = 0.01
"""Share of the tolerance that the largest dimension adds to that of all others: sums that it is a
part of are rounded to its size."""


def moved(values_ND: Tensor, other_ND: Tensor, dtype: torch.dtype) -> bool:
    """Return whether values differ from others by more than rounding.

    Each dimension is judged by its own scale, its largest value: models have dimensions a hundred
    times as large as the rest, and beside these nothing else would be seen to move. One that is
    all but zero is judged by the scale of the typical dimension. NaN has moved.

    Args:
        values_ND: values.
        other_ND: the same ones, computed otherwise.
        dtype: what they were computed in.
    """
    values, others = values_ND.float(), other_ND.float()
    scale_D = values.abs().amax(0)
    allowed_D = scale_D.clamp(min=scale_D.median()) + SPILLED * scale_D.amax()
    return not bool(((values - others).abs() <= TOLERANCE[dtype] * allowed_D).all())
