"""How the transformers engine chooses a next token: greedily, or with one random stream a row.

Steps and their order are vLLM's: repetition penalty, temperature, min-p, top-k, top-p.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.teachers.base import Sampling


def choose(
    logits_BV: Tensor,
    seen_BV: Tensor | None,
    draws: Sequence[torch.Generator],
    sampling: Sampling,
) -> Tensor:
    """Return the next token of each row, int64 [B].

    Args:
        logits_BV: float32 on the CPU.
        seen_BV: which tokens the row's prompt or trace has, if there is a repetition penalty.
        draws: one random stream a row, so that a row does not depend on its batch.
        sampling: how; temperature 0 takes the most probable token. So does a row whose
            probabilities are no numbers: its signals are none either, and no other row is held up.
    """
    if seen_BV is not None:
        penalty = sampling.repetition_penalty
        penalised_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = torch.where(seen_BV, penalised_BV, logits_BV)
    if sampling.temperature == 0.0:
        return logits_BV.argmax(dim=-1)
    probabilities_BV = _narrowed(logits_BV / sampling.temperature, sampling)
    usable = probabilities_BV.isfinite().all(dim=-1).tolist()
    chosen = logits_BV.nan_to_num(nan=-torch.inf).argmax(dim=-1)
    for index, draw in enumerate(draws):
        if usable[index]:
            chosen[index] = torch.multinomial(probabilities_BV[index], 1, generator=draw)[0]
    return chosen


def _narrowed(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Return probabilities with those of excluded tokens zero."""
    if sampling.min_p > 0.0:
        probabilities_BV = torch.softmax(logits_BV, dim=-1)
        least_B1 = sampling.min_p * probabilities_BV.amax(dim=-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(probabilities_BV < least_B1, -torch.inf)
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        smallest_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_B1, -torch.inf)
    probabilities_BV = torch.softmax(logits_BV, dim=-1)
    if sampling.top_p < 1.0:
        probabilities_BV = _nucleus(probabilities_BV, sampling.top_p)
    return probabilities_BV


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most probable tokens that hold ``top_p`` of the probability."""
    ordered, order = probabilities_BV.sort(dim=-1, descending=True)
    # A token stays while the ones before it hold less than top_p: the first always does.
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order, kept)
