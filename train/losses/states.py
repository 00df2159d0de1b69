"""Distances between hidden states. Shapes: N positions, n positions of a row, D, E widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-8

Distance = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""(student [N, D], teacher [N, D], positions of each row) -> [N]."""


def cosine_distance(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: ``1 - cos(h_S, h_T)``, which ignores the scale of either (arXiv 1910.01108)."""
    return 1 - F.cosine_similarity(student_ND, teacher_ND, dim=-1, eps=_TINY)


def relative_mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: ``|h_S - h_T|^2 / |h_T|^2`` (after FitNets, arXiv 1412.6550).

    Relative to each position's own energy: a few positions of a language model (the first, some
    separators) carry states hundreds of times larger, and would be all a plain mean sees.
    """
    energy_N = teacher_ND.square().sum(-1).clamp(min=_TINY)
    return (student_ND - teacher_ND).square().sum(-1) / energy_N


def cosine_and_mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: the sum of both distances."""
    return cosine_distance(student_ND, teacher_ND) + relative_mse(student_ND, teacher_ND)


def linear_cka(student_nD: Tensor, teacher_nE: Tensor) -> Tensor:
    """Return the linear centred kernel alignment of two sets of n states (arXiv 1905.00414).

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` (Frobenius norms, columns centred), 0 to 1, 1 for states that are
    equal up to a rotation and a scale; D and E may differ. Computed from the n x n matrices
    ``K = XX'`` and ``L = YY'``, as ``<K, L> / (|K| |L|)``: n is a few hundred, D thousands.
    """
    kernel_nn, other_nn = (_centred_kernel(each) for each in (student_nD, teacher_nE))
    squares = kernel_nn.square().sum() * other_nn.square().sum()
    return (kernel_nn * other_nn).sum() / squares.clamp(min=_TINY**2).sqrt()


def _centred_kernel(states_nD: Tensor) -> Tensor:
    """Return [n, n], of a scale near 1: squares of large states leave float32's range."""
    centred_nD = states_nD - states_nD.mean(0)
    energy = centred_nD.square().sum().clamp(min=_TINY)
    return centred_nD @ centred_nD.T / energy


def cka_distance(student_ND: Tensor, teacher_NE: Tensor, rows: Sequence[int]) -> Tensor:
    """Return [N]: ``1 - CKA`` of the row a position belongs to.

    CKA over all positions of a micro-batch is no sum over them, so a token's weight would depend on
    what it is batched with. Within a row it is: the term is ``sum_r n_r (1 - CKA_r)``, each row
    weighted by its positions. A row of one position relates to nothing: it counts, at distance 0.
    CKA of few positions is biased upwards (of two it is always 1).
    """
    shares = []
    # a matrix product of autocast would round to bfloat16
    with torch.autocast(student_ND.device.type, enabled=False):
        for one_nD, other_nE in zip(
            student_ND.split(list(rows)), teacher_NE.split(list(rows)), strict=True
        ):
            related = len(one_nD) > 1
            distance = 1 - linear_cka(one_nD, other_nE) if related else one_nD.sum() * 0
            shares.append(distance.expand(len(one_nD)))
    return torch.cat(shares)


def _each(distance: Callable[[Tensor, Tensor], Tensor]) -> Distance:
    """Return a distance of single positions, which minds no rows."""

    def of_positions(student_ND: Tensor, teacher_ND: Tensor, _rows: Sequence[int]) -> Tensor:
        return distance(student_ND, teacher_ND)

    return of_positions


DISTANCES: Mapping[str, Distance] = {
    "cosine": _each(cosine_distance),
    "mse": _each(relative_mse),
    "cosine_mse": _each(cosine_and_mse),
    "cka": cka_distance,
}
"""Name in a recipe -> distance."""

ANY_WIDTH = ("cka",)
"""Distances that need no equal widths, so no projector."""
