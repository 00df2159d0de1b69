"""How the transformers engine chooses a next token: greedily, or with one random stream a row.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.teachers.base import Sampling


def choose(
    logits_BV: torch.Tensor, draws: Sequence[torch.Generator], sampling: Sampling
) -> torch.Tensor:
    """Return the next token of each row, int64 [B].

    Args:
        logits_BV: float32 on the CPU.
        draws: one random stream a row, so that a row does not depend on its batch.
        sampling: temperature (0 takes the most probable token) and nucleus threshold.
    """
    if sampling.temperature == 0.0:
        return logits_BV.argmax(dim=-1)
    probabilities_BV = torch.softmax(logits_BV / sampling.temperature, dim=-1)
    if sampling.top_p < 1.0:
        probabilities_BV = _nucleus(probabilities_BV, sampling.top_p)
    return torch.cat(
        [
            torch.multinomial(row, 1, generator=draw)
            for row, draw in zip(probabilities_BV, draws, strict=True)
        ]
    )


def stop_token_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a trace: the tokenizer's and the generation configuration's."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _nucleus(probabilities_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the fewest most probable tokens that hold ``top_p`` of the probability."""
    ordered, order = probabilities_BV.sort(dim=-1, descending=True)
    # A token stays while the ones before it hold less than top_p: the first always does.
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order, kept)
