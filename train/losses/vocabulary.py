"""The student's distribution: of the target, and in the teacher's buckets; per position.

A teacher recorded its k largest probabilities and the mass of the rest, so its distribution is
known over k + 1 buckets: the k tokens, and "anything else". The student's distribution is summed
into the same buckets, its ids beyond the teacher's vocabulary included in "anything else". Nothing
is renormalised over the k: mass the student moves to the tail costs, and tail logits get gradient.

Shapes: N positions, K kept tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NO_TOKEN = -1
"""A kept or drawn token the student does not have; a kept one's mass is in the tail."""


def cross_entropy(target_logit_N: Tensor, log_total_N: Tensor) -> Tensor:
    """Return [N]: ``-log q(target)``, ``L_SFT`` of arXiv 2509.18579 on trace and answer tokens.

    Args:
        target_logit_N: the student's logit of the token.
        log_total_N: ``logsumexp`` of all its logits.
    """
    return log_total_N - target_logit_N


def teacher_buckets(logprobs_NK: Tensor, tail_N: Tensor) -> Tensor:
    """Return the teacher's log-probabilities [N, K + 1], the tail last; absent mass is ``-inf``."""
    return torch.cat([logprobs_NK, tail_N.clamp(min=0).log()[:, None]], dim=-1)


def log_masses(logits_NV: Tensor, token_ids_NK: Tensor) -> Tensor:
    """Return [N, K + 1]: the ``logsumexp`` of the student's logits in each of the buckets.

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
    return torch.cat([kept_logits_NK, tail_logit_N[:, None]], dim=-1)
