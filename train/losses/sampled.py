"""Cross-entropy against tokens drawn from the teacher: unbiased, whatever the vocabulary's size.

Shapes: N positions, U unique drawn tokens.
"""

from __future__ import annotations

from torch import Tensor

from train.losses.vocabulary import NO_TOKEN


def sampled_cross_entropy(
    logits_NU: Tensor, token_ids_NU: Tensor, shares_NU: Tensor, log_total_N: Tensor
) -> Tensor:
    """Return [N]: ``sum_i (count_i / n) (-log q_i)`` (Sparse Logit Sampling, arXiv 2503.16870).

    ``count_i / n`` estimates ``p_i`` without bias, so value and gradient are unbiased estimates of
    those of the cross-entropy ``-sum_i p_i log q_i = KL(p || q) + H(p)``. The gradient is the KL's;
    the value is larger by the teacher's entropy ``H(p)``, a constant the tape does not hold: it
    does not go to 0, and is compared with itself only. Draws are at T = 1, and so is the student.

    Drawn tokens the student lacks (``NO_TOKEN``) add nothing: what is estimated is the sum over the
    tokens both have.

    Args:
        logits_NU: the student's, of the drawn tokens.
        token_ids_NU: which these are.
        shares_NU: ``count_i / n``.
        log_total_N: ``logsumexp`` of all its logits.
    """
    log_q_NU = logits_NU - log_total_N[:, None]
    return -(shares_NU.masked_fill(token_ids_NU == NO_TOKEN, 0) * log_q_NU).sum(-1)
