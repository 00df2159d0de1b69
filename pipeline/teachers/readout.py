"""From logits to what is recorded of them: the k largest with their tail, and drawn tokens.

Both engines use these functions, inside vLLM's worker too.

Shapes: N positions, V vocabulary, k kept logits, n draws, M layers of the lens.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.teachers.base import Wanted

CHUNK_ROWS = 128
"""Positions unembedded or drawn from together: [128, 152 k] is 78 MB in float32."""


def of_logits(
    logits_NV: Tensor, target_N: Tensor, uniforms_N: Tensor, wanted: Wanted
) -> dict[str, Tensor]:
    """Return what is recorded of logits.

    Args:
        logits_NV: raw logits, any floating type; computed in float32.
        target_N: int64, the tokens that came next; negative where none is known.
        uniforms_N: float64, a random number a position, for ``wanted.draws``.
        wanted: which signals.

    Returns:
        Field of ``pipeline.teachers.records.record_dtype`` -> [N, ...]; ``target_logprob`` is NaN
        where no target is known.
    """
    logits_NV = logits_NV.float()
    target_logits_N = logits_NV.gather(1, target_N.clamp_min(0)[:, None])[:, 0]
    target_logprobs_N = target_logits_N - logits_NV.logsumexp(dim=-1)
    found = {"target_logprob": target_logprobs_N.masked_fill(target_N < 0, torch.nan)}
    if wanted.top_k:
        ids, logprobs, tail = top_entries(logits_NV, wanted.top_k)
        found |= {"topk_ids": ids, "topk_logprobs": logprobs, "tail": tail}
    if wanted.draws:
        found["drawn_ids"] = draw_tokens(logits_NV, uniforms_N, wanted.draws)
    return found


def of_lens(logits: Iterable[Tensor], k: int) -> dict[str, Tensor]:
    """Return what is recorded of the lens.

    Args:
        logits: [N, V] of each layer, one at a time.
        k: how many are kept.

    Returns:
        ``lens_ids`` and ``lens_logprobs`` [N, M, k] and ``lens_tail`` [N, M]; nothing without
        layers.
    """
    read = [top_entries(logits_NV, k) for logits_NV in logits]
    names = ("lens_ids", "lens_logprobs", "lens_tail")
    stacked = [torch.stack(values, dim=1) for values in zip(*read, strict=True)]
    return dict(zip(names, stacked, strict=True)) if read else {}


def top_entries(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest probabilities at temperature 1 and what is left.

    The tail is summed from the tokens outside the k, not taken as 1 minus the others: it is as
    exact at 1e-30 as at 0.5.

    Args:
        logits_NV: raw logits, any floating type; computed in float32.
        k: how many, at most V.

    Returns:
        Ids int32 [N, k], most probable first, their natural log-probabilities float32 [N, k], and
        the probability outside them, float32 [N].
    """
    logits_NV = logits_NV.float()
    total_N1 = logits_NV.logsumexp(dim=-1, keepdim=True)
    values_Nk, ids_Nk = logits_NV.topk(k, dim=-1)
    rest_N = logits_NV.scatter(-1, ids_Nk, -torch.inf).logsumexp(dim=-1)
    tail_N = (rest_N - total_N1[:, 0]).exp()
    return ids_Nk.int(), values_Nk - total_N1, tail_N


def draw_tokens(logits_NV: Tensor, uniforms_N: Tensor, draws: int) -> Tensor:
    """Draw tokens from the distribution at temperature 1, so that counts / n are unbiased.

    Systematic sampling: one uniform number u a position, and the tokens at (i + u) / n of the
    cumulative distribution for i = 0 .. n - 1. A token's expected count is n times its probability,
    as with n independent draws (Sparse Logit Sampling, arXiv 2503.16870), but its count is never
    more than one away from that: the variance is lower at every n.

    Args:
        logits_NV: raw logits, any floating type; summed in float64.
        uniforms_N: float64 [N], 0 <= u < 1, on any device.
        draws: n.

    Returns:
        int32 [N, n], ascending; -1, which is no id, where the logits are no distribution.
    """
    device = logits_NV.device
    if device.type == "mps":  # has no float64
        logits_NV = logits_NV.cpu()
    cumulative_NV = torch.softmax(logits_NV.double(), dim=-1).cumsum(dim=-1)
    steps_n = torch.arange(draws, dtype=torch.float64, device=cumulative_NV.device)
    offsets_N1 = uniforms_N.to(cumulative_NV.device)[:, None]
    points_Nn = (steps_n + offsets_N1) / draws * cumulative_NV[:, -1:]
    ids_Nn = torch.searchsorted(cumulative_NV, points_Nn, right=True)
    ids_Nn = ids_Nn.clamp_max(logits_NV.shape[-1] - 1)
    return ids_Nn.masked_fill(~cumulative_NV[:, -1:].isfinite(), -1).int().to(device)


def uniforms(seed: int, first: int, count: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) that depend on a seed and a place alone (SplitMix64).

    Args:
        seed: of the trace, 32 bits.
        first: place of the first number, 0 for the trace's first token.
        count: how many.
    """
    with np.errstate(over="ignore"):
        place = (np.uint64(seed & 0xFFFFFFFF) << np.uint64(32)) + np.arange(
            first + 1, first + count + 1, dtype=np.uint64
        )
        mixed = place * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
