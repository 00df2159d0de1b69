"""How a next token is drawn so that a row gets the same ones alone, in any batch and in any order.

A row's random numbers are settled before it is generated, by a seed and the row's own name: number
t decides token t, by inverting the distribution's cumulative sum. Nothing of a batch enters but
the logits, whose rounding may differ with the batch's shape: two float32 runs disagree on a token
where a number falls between two such sums, about one token in a million.

Shapes: B rows, V vocabulary, R response tokens, T input positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

_SEED_WORDS = 4
_BELOW_ONE = 1.0 - 2.0**-40
"""A number that rounds to the whole sum would choose no token."""


def draws_of(seed: int, keys: Sequence[str], count: int) -> Tensor:
    """Return the numbers of each row, float64 [B, count] on the CPU, from 0 to below 1.

    Args:
        seed: of all rows.
        keys: each row's name.
        count: how many; the first ones do not depend on it.
    """
    rows = [np.random.default_rng(_entropy(seed, key)).random(count) for key in keys]
    return torch.from_numpy(np.minimum(np.stack(rows), _BELOW_ONE))


def _entropy(seed: int, key: str) -> list[int]:
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return [int(word) for word in np.frombuffer(digest, dtype="<u8")[:_SEED_WORDS]]


class Drawn(LogitsProcessor):
    """Leaves one token a row: the one its number falls on.

    Args:
        draws_BR: as ``draws_of`` returned them.
        num_prompt: input positions before the first generated one.
    """

    def __init__(self, draws_BR: Tensor, num_prompt: int) -> None:
        self._draws_BR, self._num_prompt = draws_BR, num_prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores`` [B, V] with all but the drawn token at minus infinity."""
        step = input_ids.shape[1] - self._num_prompt
        # MPS has no float64
        scores_BV = scores.cpu() if scores.device.type == "mps" else scores
        sums_BV = torch.softmax(scores_BV.double(), dim=-1).cumsum(dim=-1)
        draws_B1 = self._draws_BR[:, step : step + 1].to(sums_BV.device)
        chosen_B1 = torch.searchsorted(sums_BV, draws_B1 * sums_BV[:, -1:], right=True)
        chosen_B1 = chosen_B1.clamp(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen_B1, 0.0)


class Watched(LogitsProcessor):
    """Leaves the logits as they are and notes where they are no numbers.

    Attributes:
        first_bad_B: int64 [B], the first step with a NaN, a large number where there was none.
    """

    NEVER = 1 << 40

    def __init__(self, num_rows: int, num_prompt: int, device: torch.device) -> None:
        self._num_prompt = num_prompt
        self.first_bad_B = torch.full((num_rows,), self.NEVER, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores`` [B, V]."""
        step = input_ids.shape[1] - self._num_prompt
        bad_B = torch.where(scores.isnan().any(dim=-1), step, self.NEVER)
        self.first_bad_B = torch.minimum(self.first_bad_B, bad_B)
        return scores
