"""Readable references of every term: the oracles of the tests, in value and gradient.

Each forms probabilities outright over the whole vocabulary, and needs [N, V] memory several times
over.

Shapes: N positions, n of one row, V vocabulary, D, E widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def dense_cross_entropy(logits_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    """Return [N]: ``-log softmax(logits)[target]``."""
    return -logits_NV.log_softmax(-1)[torch.arange(len(target_ids_N)), target_ids_N]


def dense_forward_kl(teacher_NV: Tensor, student_NV: Tensor, temperature: float) -> Tensor:
    """Return [N]: KL of ``softmax(logits / T)``, teacher against student."""
    p_NV = (teacher_NV / temperature).softmax(-1)
    q_NV = (student_NV / temperature).softmax(-1)
    return (p_NV * (p_NV / q_NV).log()).sum(-1)


def dense_reverse_kl(teacher_NV: Tensor, student_NV: Tensor, temperature: float) -> Tensor:
    """Return [N]: KL of ``softmax(logits / T)``, student against teacher."""
    return dense_forward_kl(student_NV, teacher_NV, temperature)


def dense_jensen_shannon(
    teacher_NV: Tensor, student_NV: Tensor, temperature: float, beta: float = 0.5
) -> Tensor:
    """Return [N]: Jensen-Shannon divergence, the teacher's share beta in the mixture."""
    p_NV = (teacher_NV / temperature).softmax(-1)
    q_NV = (student_NV / temperature).softmax(-1)
    m_NV = beta * p_NV + (1 - beta) * q_NV
    to_p_N = (p_NV * (p_NV / m_NV).log()).sum(-1)
    to_q_N = (q_NV * (q_NV / m_NV).log()).sum(-1)
    return beta * to_p_N + (1 - beta) * to_q_N


def dense_total_variation(teacher_NV: Tensor, student_NV: Tensor, temperature: float) -> Tensor:
    """Return [N]: half the sum of ``|p - q|`` of ``softmax(logits / T)``."""
    p_NV = (teacher_NV / temperature).softmax(-1)
    q_NV = (student_NV / temperature).softmax(-1)
    return (p_NV - q_NV).abs().sum(-1) / 2


DENSE: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "kl": dense_forward_kl,
    "reverse_kl": dense_reverse_kl,
    "jsd": dense_jensen_shannon,
    "tv": dense_total_variation,
}
"""Name in a recipe -> (teacher's logits, student's logits, T) -> [N], not multiplied by T^2."""


def dense_buckets(probabilities_NV: Tensor, token_ids_NK: Tensor) -> Tensor:
    """Return probabilities [N, K + 1]: those of the tokens, and one minus their sum."""
    kept_NK = probabilities_NV.gather(-1, token_ids_NK)
    return torch.cat([kept_NK, 1 - kept_NK.sum(-1, keepdim=True)], dim=-1)


def dense_expected_cross_entropy(p_NV: Tensor, student_NV: Tensor) -> Tensor:
    """Return [N]: ``-sum_i p_i log q_i``, p any weights: probabilities, or shares of draws."""
    return -(p_NV * student_NV.softmax(-1).log()).sum(-1)


def lens_of_linear_readout(
    states_ND: Tensor, norm: Callable[[Tensor], Tensor], unembedding_VD: Tensor
) -> Tensor:
    """Return [N, V]: states of any layer through the final norm and the unembedding."""
    return norm(states_ND) @ unembedding_VD.T


def cosine_of_each(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: one minus the cosine of each pair of states."""
    pairs = zip(student_ND, teacher_ND, strict=True)
    return torch.stack([1 - (s @ t) / (s.norm() * t.norm()) for s, t in pairs])


def relative_mse_of_each(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return [N]: the squared distance of each pair of states, of the teacher's squared norm."""
    pairs = zip(student_ND, teacher_ND, strict=True)
    return torch.stack([((s - t) ** 2).sum() / (t**2).sum() for s, t in pairs])


def feature_cka(student_nD: Tensor, teacher_nE: Tensor) -> Tensor:
    """Return the linear CKA of one row by its definition over features: ``|Y'X|^2 / ...``."""
    x_nD, y_nE = student_nD - student_nD.mean(0), teacher_nE - teacher_nE.mean(0)
    shared = (y_nE.T @ x_nD).square().sum()
    cka: Tensor = shared / ((x_nD.T @ x_nD).norm() * (y_nE.T @ y_nE).norm())
    return cka


def dense_binary_kl(teacher_NC: Tensor, student_NC: Tensor, temperature: float) -> Tensor:
    """Return [N]: the KL of ``sigmoid(logits / T)`` of each class and its opposite, summed."""
    p_NC, q_NC = (teacher_NC / temperature).sigmoid(), (student_NC / temperature).sigmoid()
    yes_NC, no_NC = p_NC * (p_NC / q_NC).log(), (1 - p_NC) * ((1 - p_NC) / (1 - q_NC)).log()
    return (yes_NC + no_NC).sum(-1)


def mean_over_time(values_FC: Tensor, recorded_s: Tensor, own_s: tuple[float, float]) -> Tensor:
    """Return [C]: the mean of what was recorded over a span of time, each second alike."""
    first, last = own_s
    common_F = recorded_s[:, 1].clamp(max=last) - recorded_s[:, 0].clamp(min=first)
    common_F = common_F.clamp(min=0)
    return (values_FC * common_F[:, None]).sum(0) / common_F.sum()


def attentive_statistics(row_FD: Tensor, scores_F: Tensor) -> Tensor:
    """Return [2 D]: mean and standard deviation of a row's frames, weighted by ``softmax(s)``."""
    weights_F = scores_F.exp() / scores_F.exp().sum()
    mean_D = sum(w * h for w, h in zip(weights_F, row_FD, strict=True))
    square_D = sum(w * h * h for w, h in zip(weights_F, row_FD, strict=True))
    return torch.cat([torch.as_tensor(mean_D), (square_D - mean_D * mean_D).sqrt()])
