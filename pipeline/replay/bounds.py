"""How far a replay may be from the tape: one table, with reasons.

The same weights give other last bits on another machine, in another batch or with another kernel:
sums are taken in another order. How much that is follows from the dtype a teacher computes in.
What another teacher or another prompt gives is orders of magnitude beyond.

"Measured" below: the worst of 48 to 288 positions of a Qwen3 of 24 layers, width 768 and random
weights (so flat distributions, the hard case), in a padded batch against alone (bfloat16, float32)
or against float32 (float16); a bound is some 4 to 30 times that, for models that are deeper. A
value changed by less than its bound is not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cache_schema.maker import GroupInfo, recorded


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is told from rounding.

    Attributes:
        kl_max: nats between recorded and replayed distribution, over the kept ids and the rest, at
            the worst position.
        rel_l2: norm of the difference over that of the recorded values: of one row's states of a
            layer, its logits or its embedding.
        drawn_moved: share of a row's drawn tokens that are others, the first one not counted.
        tie_nats: a greedy trace may turn off where the tape gives both tokens probabilities no
            further apart.
        logprob: nats a token that a trace's log-probability may differ.
        redraws: whether a sampled trace may turn off at a token the tape gives some probability:
            a random number near a border decides otherwise after rounding.
    """

    kl_max: float
    rel_l2: float
    drawn_moved: float
    tie_nats: float
    logprob: float
    redraws: bool


COMPUTED: Mapping[str, Bounds] = {
    # 24 bits. Measured: KL 9e-12, states 1e-6.
    "float32": Bounds(
        kl_max=1e-5, rel_l2=1e-4, drawn_moved=0.01, tie_nats=1e-3, logprob=1e-3, redraws=False
    ),
    # 11 bits, 5e-4 a rounding. Measured: KL 3e-5, states 2e-3, log-probabilities 0.02.
    "float16": Bounds(
        kl_max=1e-3, rel_l2=1e-2, drawn_moved=0.05, tie_nats=0.05, logprob=0.02, redraws=True
    ),
    # 8 bits, 4e-3 a rounding. Measured: KL 5e-3, states 2e-2, log-probabilities 0.11; one position
    # of 35 had another most probable token.
    "bfloat16": Bounds(
        kl_max=5e-2, rel_l2=8e-2, drawn_moved=0.2, tie_nats=0.3, logprob=0.1, redraws=True
    ),
}
"""Dtype a teacher computes in -> what its rounding may do."""

STORED_REL_L2 = {"float32": 0.0, "float16": 3e-4, "bfloat16": 2e-3}
"""Dtype states are stored in -> what one last bit of it more or less is, of all values at most."""

COMPACT_KL = 1e-4
"""Compact top-k is within this of what was recorded (FORMAT.md, 9)."""

LOSSY_FACTOR = 4.0
"""A row's error of ``lossy2x`` may be so many times its shard's: that is a mean over the rows, of
channels brought to one scale."""


def bounds_of(info: GroupInfo) -> Bounds:
    """Return the bounds of a source; one that names no known dtype is held to those of float32."""
    bounds = COMPUTED.get(str(info.identity.get("dtype")), COMPUTED["float32"])
    facts = recorded(info)
    stored = STORED_REL_L2.get(_fact(facts, "hidden", "dtype"), 0.0)
    compact = "compact" in (_fact(facts, "topk", "codec"), _fact(facts, "lens", "codec"))
    return replace(
        bounds,
        rel_l2=max(bounds.rel_l2, stored),
        kl_max=max(bounds.kl_max, COMPACT_KL if compact else 0.0),
    )


def _fact(facts: Mapping[str, Mapping[str, Any]], signal: str, name: str) -> str:
    return str(facts.get(signal, {}).get(name, ""))
