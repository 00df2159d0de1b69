"""Distilling from k tokens of the tape, or from drawn ones, against the teacher in memory.

The gaps in loss and gradient, on a teacher as peaked as language models are: ``kept_tokens`` says
how. The figures begin with what that comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from figures import Figure
from kept_tokens import BARS, DRAWS, Gap, from_draws, from_topk, make_pair, peakedness

VOCABULARY, POSITIONS = 151_936, 96
KEPT = (8, 32, 64)
NAMES = {"kl": "forward KL", "reverse_kl": "reverse KL", "jsd": "JSD"}


def measure() -> Iterator[Figure]:
    """Loss and gradient for each divergence and k, and for drawn tokens."""
    pair = make_pair(POSITIONS, VOCABULARY)
    for what, value in peakedness(pair).items():
        unit = "nats" if what == "entropy" else "of the mass"
        yield Figure(name=f"the teacher, V = {VOCABULARY:,}: {what}", value=value, unit=unit)
    cases: dict[str, Callable[[], Gap]] = {
        f"{title}, k = {k}": lambda name=name, k=k: from_topk(pair, name, k)  # type: ignore[misc]
        for name, title in NAMES.items()
        for k in KEPT
    }
    cases[f"forward KL, {DRAWS} drawn"] = lambda: from_draws(pair)
    bars = {f"{NAMES[name]}, k = 64": bar for name, bar in BARS.items()}
    for title, case in cases.items():
        gap = case()
        of_loss, of_gradient = bars.get(title, (None, None))
        yield Figure(name=f"{title}: loss", value=gap.loss, unit="below the online one",
                     bar=of_loss, at_least=False)  # fmt: skip
        yield Figure(name=f"{title}: gradient", value=gap.gradient, unit="of its length off",
                     bar=of_gradient, at_least=False, note=f"cosine {gap.cosine:.4f}")  # fmt: skip
