"""What losses ask of the student's logits, and what they see of them: all a loss gets to know.

A loss never touches the [N, V] logits: it names tokens beforehand, and sees their logits and the
log-sums of what lies between. So one code of every loss runs on two ways of looking: ``see``, with
autograd over whole logits (the reference), and ``train.losses.shortlist``, in place.

Shapes: N positions, n of a chunk, K tokens of one division, U tokens, V vocabulary, M losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.losses.vocabulary import log_masses


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of N positions, by names of the caller's choice.

    Attributes:
        buckets: name -> int64 [N, K], tokens (``NO_TOKEN``: none; else each once a position) that
            divide the vocabulary into themselves and a tail.
        tokens: name -> int64 [N, U], tokens (``NO_TOKEN``: none) whose logits are wanted.
    """

    buckets: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, where: slice) -> Asked:
        """Return what is wanted of some of the positions."""
        return Asked(
            buckets={name: ids[where] for name, ids in self.buckets.items()},
            tokens={name: ids[where] for name, ids in self.tokens.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The answer, part of an autograd graph if one is recorded.

    Attributes:
        log_total_N: ``logsumexp`` of all logits.
        log_masses: name -> [N, K + 1], ``logsumexp`` of each bucket's, the tail last.
        logits: name -> [N, U]; anything finite where no token was named.
    """

    log_total_N: Tensor  # noqa: N815
    log_masses: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]


ChunkLoss = Callable[[Seen, slice], Tensor]
"""(what is seen of n positions, which) -> losses [M], summed over the n."""


def see(logits_NV: Tensor, asked: Asked) -> Seen:
    """Return what is asked of whole logits, in float32 or wider."""
    masses = {name: log_masses(logits_NV, ids) for name, ids in asked.buckets.items()}
    # any buckets divide the vocabulary, so their sum is its sum: one pass over V less, which at V =
    # 152k on a CPU is 209 ms for value and gradient of 64 positions instead of 365
    log_total_N: Tensor = next(iter(masses.values()), logits_NV).logsumexp(-1)
    return Seen(
        log_total_N=log_total_N,
        log_masses=masses,
        logits={
            name: torch.gather(logits_NV, -1, ids.clamp(min=0))
            for name, ids in asked.tokens.items()
        },
    )
