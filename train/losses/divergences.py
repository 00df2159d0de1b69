"""Divergences of two distributions over the same buckets, per position.

``p`` is the teacher's, ``q`` the student's, both as log-probabilities ``[N, B]``: the kept tokens,
and last the tail (see ``train.losses.vocabulary``). All of them are f-divergences, so by the
data-processing inequality a value over buckets is at most that over the vocabulary; at k = V they
are equal. A bucket that neither has adds nothing, in value and gradient.

Shapes: N positions, B = K + 1 buckets.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(log p [N, B], log q [N, B]) -> [N]."""

LOWEST = math.log(torch.finfo(torch.float32).tiny)
"""What stands for ``log p`` of a tail recorded as nothing, where a divergence divides by it."""


def temper(log_probs_NB: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities of the buckets at a temperature: ``softmax(log p / T)``.

    The tail is tempered as if it were one token, on both sides, so equal distributions stay equal.
    Exact over the k + 1 buckets; over the vocabulary exact at T = 1 or k = V. Elsewhere an
    approximation, and no bound: a tail of mass t gets ``t^(1/T)``, while its tokens together have
    ``sum p_i^(1/T)``, which is more for T > 1 and less for T < 1, and is not on the tape.
    """
    if temperature == 1.0:
        return log_probs_NB
    return (log_probs_NB / temperature).log_softmax(-1)


def forward_kl(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """Return [N]: ``sum_b p_b (log p_b - log q_b)`` (Hinton et al., arXiv 1503.02531).

    It asks the student for mass wherever the teacher has some. A bucket without teacher mass adds
    nothing, nor does one that holds none of the student's tokens (a token it lacks, whose mass is
    in the tail; the tail at k = V, where rounding leaves a trace).
    """
    p_NB = log_p_NB.exp()
    counts_NB = (p_NB > 0) & ~torch.isneginf(log_q_NB)
    ratio_NB = log_p_NB.masked_fill(~counts_NB, 0) - log_q_NB.masked_fill(~counts_NB, 0)
    return (p_NB * ratio_NB).sum(-1)


def reverse_kl(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """Return [N]: ``sum_b q_b (log q_b - log p_b)`` (MiniLLM, arXiv 2306.08543).

    It keeps the student from mass where the teacher has none. A tail that was recorded as nothing
    counts as float32's smallest normal number: the value stays finite.
    """
    kept_NK, tail_N1 = log_p_NB[:, :-1], log_p_NB[:, -1:].clamp(min=LOWEST)
    log_p_NB = torch.cat([kept_NK, tail_N1], dim=-1)
    none_NB = torch.isneginf(log_q_NB)
    safe_NB = log_q_NB.masked_fill(none_NB, 0)
    ratio_NB = safe_NB - log_p_NB.masked_fill(none_NB, 0)
    return (safe_NB.exp() * ratio_NB).masked_fill(none_NB, 0).sum(-1)


def jensen_shannon(log_p_NB: Tensor, log_q_NB: Tensor, beta: float = 0.5) -> Tensor:
    """Return [N]: ``b KL(p || m) + (1 - b) KL(q || m)`` with ``m = b p + (1 - b) q``.

    At b = 1/2 it is ``L_top`` of arXiv 2509.18579, at most ``log 2``: single tokens the teacher
    finds impossible do not drown the others. Other values are GKD's generalised form (arXiv
    2306.13649): divided by b it tends to the forward KL for b -> 0.
    """
    empty_NB = torch.isneginf(log_p_NB) & torch.isneginf(log_q_NB)
    log_p_NB = log_p_NB.masked_fill(empty_NB, 0)
    log_q_NB = log_q_NB.masked_fill(empty_NB, 0)
    log_m_NB = torch.logaddexp(log_p_NB + math.log(beta), log_q_NB + math.log(1 - beta))
    of_p_NB, of_q_NB = _p_log_ratio(log_p_NB, log_m_NB), _p_log_ratio(log_q_NB, log_m_NB)
    return (beta * of_p_NB + (1 - beta) * of_q_NB).masked_fill(empty_NB, 0).sum(-1)


def total_variation(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """Return [N]: ``sum_b |p_b - q_b| / 2`` (f-DISTILL, arXiv 2307.15190); at most 1.

    Its gradient does not fade as q nears p: it has a kink there.
    """
    return (log_p_NB.exp() - log_q_NB.exp()).abs().sum(-1) / 2


def _p_log_ratio(log_p_NB: Tensor, log_m_NB: Tensor) -> Tensor:
    """Return ``p (log p - log m)``, 0 (value and gradient) where p is 0."""
    none_NB = torch.isneginf(log_p_NB)
    safe_NB = log_p_NB.masked_fill(none_NB, 0)
    return (safe_NB.exp() * (safe_NB - log_m_NB)).masked_fill(none_NB, 0)


FUNCTIONS: Mapping[str, tuple[Divergence, int]] = {
    "kl": (forward_kl, 2),
    "reverse_kl": (reverse_kl, 2),
    "jsd": (jensen_shannon, 0),
    "tv": (total_variation, 0),
}
"""Name in a recipe -> divergence, and the power of T it is multiplied by.

T^2 keeps the scale of the KL's gradient (Hinton et al.; arXiv 2509.14930); the bounded ones keep
their bounds instead."""


def divergence_of(name: str, temperature: float = 1.0, beta: float = 0.5) -> Divergence:
    """Return the divergence of tempered buckets, scaled.

    Args:
        name: one of ``FUNCTIONS``.
        temperature: T.
        beta: the teacher's share, of ``jsd`` alone.
    """
    function, power = FUNCTIONS[name]
    if name == "jsd":
        function = functools.partial(jensen_shannon, beta=beta)

    def at_temperature(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
        tempered = (temper(each, temperature) for each in (log_p_NB, log_q_NB))
        return function(*tempered) * temperature**power

    return at_temperature
