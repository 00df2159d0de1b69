"""Losses over the vocabulary, per position.

A teacher recorded its k largest probabilities and the mass of the rest, so its distribution is
known over k + 1 buckets: the k tokens, and "anything else". The student's distribution is summed
into the same buckets, its ids beyond the teacher's vocabulary included in "anything else". Nothing
is renormalised over the k: mass the student moves to the tail costs, and tail logits get gradient.

By the data-processing inequality a divergence over buckets is at most that over the vocabulary; at
k = V they are equal. Shapes: N positions, K kept tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.batch import NO_TOKEN


def cross_entropy(logits_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    """Return [N]: ``-log q(target)``, the SFT loss on trace and answer tokens."""
    return logits_NV.logsumexp(-1) - logits_NV.gather(-1, target_ids_N[:, None])[:, 0]


def teacher_buckets(logprobs_NK: Tensor, tail_N: Tensor) -> Tensor:
    """Return the teacher's log-probabilities [N, K + 1], the tail last; absent mass is ``-inf``."""
    return torch.cat([logprobs_NK, tail_N.clamp(min=0).log()[:, None]], dim=-1)


def student_buckets(logits_NV: Tensor, token_ids_NK: Tensor) -> Tensor:
    """Return the student's log-probabilities [N, K + 1] in the teacher's buckets, the tail last.

    The tail is a log-sum over the other logits rather than ``log(1 - sum)``, which loses all digits
    (and its gradient) when the tail is small.
    """
    present_NK = token_ids_NK != NO_TOKEN
    num_tokens, vocab_size = logits_NV.shape
    column_NK = token_ids_NK.masked_fill(~present_NK, vocab_size)
    kept_NV = torch.zeros(
        num_tokens, vocab_size + 1, dtype=torch.bool, device=logits_NV.device
    ).scatter_(-1, column_NK, True)[:, :vocab_size]
    kept_logits_NK = logits_NV.gather(-1, token_ids_NK.clamp(min=0))
    kept_logits_NK = kept_logits_NK.masked_fill(~present_NK, -math.inf)
    tail_logit_N = logits_NV.masked_fill(kept_NV, -math.inf).logsumexp(-1)
    buckets_NB = torch.cat([kept_logits_NK, tail_logit_N[:, None]], dim=-1)
    return buckets_NB - logits_NV.logsumexp(-1)[:, None]


def temper(log_probs_NB: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities of the buckets at a temperature: ``softmax(log p / T)``.

    The tail is tempered as one token on both sides, so equal distributions stay equal. Exact for
    the k + 1 buckets; for the vocabulary it is exact at T = 1 or k = V, and no bound elsewhere.
    """
    if temperature == 1.0:
        return log_probs_NB
    return (log_probs_NB / temperature).log_softmax(-1)


def forward_kl(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """Return [N]: ``sum_b p_b (log p_b - log q_b)``, teacher p, student q (Hinton et al., 2015).

    A bucket without teacher mass adds nothing, nor does one that holds none of the student's tokens
    (a token it lacks, whose mass is in the tail; the tail at k = V, where rounding leaves a trace).
    """
    p_NB = log_p_NB.exp()
    counts_NB = (p_NB > 0) & ~torch.isneginf(log_q_NB)
    ratio_NB = log_p_NB.masked_fill(~counts_NB, 0) - log_q_NB.masked_fill(~counts_NB, 0)
    return (p_NB * ratio_NB).sum(-1)


def jensen_shannon(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    """Return [N]: ``(KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``; at most ``log 2``.

    ``L_top`` of arXiv 2509.18579: bounded, so single tokens the teacher finds impossible do not
    drown the others.
    """
    empty_NB = torch.isneginf(log_p_NB) & torch.isneginf(log_q_NB)
    log_p_NB = log_p_NB.masked_fill(empty_NB, 0)
    log_q_NB = log_q_NB.masked_fill(empty_NB, 0)
    log_m_NB = torch.logaddexp(log_p_NB, log_q_NB) - math.log(2)
    terms_NB = _p_log_ratio(log_p_NB, log_m_NB) + _p_log_ratio(log_q_NB, log_m_NB)
    return terms_NB.masked_fill(empty_NB, 0).sum(-1) / 2


def _p_log_ratio(log_p_NB: Tensor, log_m_NB: Tensor) -> Tensor:
    """Return ``p (log p - log m)``, 0 (value and gradient) where p is 0."""
    none_NB = torch.isneginf(log_p_NB)
    safe_NB = log_p_NB.masked_fill(none_NB, 0)
    return (safe_NB.exp() * (safe_NB - log_m_NB)).masked_fill(none_NB, 0)
