"""Distances between hidden states, per position. Shapes: N positions, D width."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-8


def cosine_distance(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: ``1 - cos(h_S, h_T)``, which ignores the scale of either."""
    return 1 - F.cosine_similarity(student_ND, teacher_ND, dim=-1, eps=_TINY)


def relative_mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: ``|h_S - h_T|^2 / |h_T|^2``.

    Relative to each position's own energy: a few positions of a language model (the first, some
    separators) carry states hundreds of times larger, and would be all a plain mean sees.
    """
    energy_N = teacher_ND.square().sum(-1).clamp(min=_TINY)
    return (student_ND - teacher_ND).square().sum(-1) / energy_N


def cosine_and_mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: the sum of both distances."""
    return cosine_distance(student_ND, teacher_ND) + relative_mse(student_ND, teacher_ND)


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_distance,
    "mse": relative_mse,
    "cosine_mse": cosine_and_mse,
}
"""Name in a recipe -> distance."""
