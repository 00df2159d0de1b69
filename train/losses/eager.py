"""Readable references over the whole vocabulary: the oracles of the tests, in value and gradient.

Each forms probabilities outright and needs [N, V] memory several times over.
"""

from __future__ import annotations

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


def dense_jensen_shannon(teacher_NV: Tensor, student_NV: Tensor, temperature: float) -> Tensor:
    """Return [N]: Jensen-Shannon divergence of ``softmax(logits / T)``."""
    p_NV = (teacher_NV / temperature).softmax(-1)
    q_NV = (student_NV / temperature).softmax(-1)
    m_NV = (p_NV + q_NV) / 2
    return ((p_NV * (p_NV / m_NV).log()).sum(-1) + (q_NV * (q_NV / m_NV).log()).sum(-1)) / 2


def dense_buckets(probabilities_NV: Tensor, token_ids_NK: Tensor) -> Tensor:
    """Return probabilities [N, K + 1]: those of the tokens, and one minus their sum."""
    kept_NK = probabilities_NV.gather(-1, token_ids_NK)
    return torch.cat([kept_NK, 1 - kept_NK.sum(-1, keepdim=True)], dim=-1)
