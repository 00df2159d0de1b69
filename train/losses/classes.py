"""Divergences between what two classifiers believe of the same recordings or frames.

A belief is a distribution over one of C classes or, where each class is judged by itself, C of them
over yes and no, which are independent: one row of probabilities either way, so that both are
compared by one sum.

Shapes: N recordings or frames, C classes, O outcomes: C, or 2 C.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def log_beliefs(logits_NC: Tensor, temperature: float, multi_label: bool) -> Tensor:
    """Return log-probabilities [N, O] at a temperature.

    ``log softmax(z / T)``, or ``log sigmoid(z / T)`` of every class and then that of its opposite.

    Args:
        logits_NC: raw.
        temperature: T.
        multi_label: whether each class is judged by itself.
    """
    tempered_NC = logits_NC / temperature
    if multi_label:
        return torch.cat([F.logsigmoid(tempered_NC), F.logsigmoid(-tempered_NC)], dim=-1)
    return tempered_NC.log_softmax(-1)


def belief_kl(p_NO: Tensor, log_q_NO: Tensor, temperature: float) -> Tensor:
    """Return [N]: ``T^2 sum_o p_o (log p_o - log q_o)`` (Hinton et al., arXiv 1503.02531).

    Of classes judged each by itself it is the sum of their binary KLs, which is the KL of their
    joint distribution: not a mean, so a term over many classes is larger. ``p`` is a probability
    and not its logarithm, since it may be a mean of several (``FrameTargets``).

    Args:
        p_NO: the teacher's, at temperature T.
        log_q_NO: the student's, at temperature T.
        temperature: T; its square keeps the scale of the gradient, as of the other KLs.
    """
    terms_NO = torch.xlogy(p_NO, p_NO) - p_NO * log_q_NO
    return temperature**2 * terms_NO.sum(-1)
