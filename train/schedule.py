"""Learning rates: a linear warm-up, then one of four curves down to a share of the peak.

With ``p`` the share of the steps after the warm-up that are done, from 0 to 1, and ``f`` the share
of the peak at the end (``optim.final_lr_fraction``), the rate is the peak times

| schedule | factor |
|---|---|
| cosine | ``f + (1 - f) (1 + cos(pi p)) / 2`` (arXiv 1608.03983, without restarts) |
| linear | ``f + (1 - f) (1 - p)`` |
| constant | ``1`` |
| wsd | ``1`` while ``p <= 1 - d``, then ``f + (1 - f) (1 - sqrt((p - 1 + d) / d))`` |

``wsd`` is warm-up, stable, decay (arXiv 2404.06395) with the 1-sqrt decay of arXiv 2405.18392;
``d`` is ``optim.decay_fraction``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from train.settings import OptimRecipe


def _cosine(share: float, _recipe: OptimRecipe) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def _linear(share: float, _recipe: OptimRecipe) -> float:
    return 1 - share


def _wsd(share: float, recipe: OptimRecipe) -> float:
    decaying = share - (1 - recipe.decay_fraction)
    return 1.0 if decaying <= 0 else 1 - math.sqrt(decaying / recipe.decay_fraction)


CURVES: Mapping[str, Callable[[float, OptimRecipe], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "wsd": _wsd,
}
"""Schedule -> its way from 1 to 0; ``constant`` has none."""


def learning_rate_factor(recipe: OptimRecipe, step: int, total: int) -> float:
    """Return the share of the peak at ``step`` (from 1) of ``total``."""
    warmup = math.ceil(recipe.warmup_fraction * total)
    if step <= warmup:
        return step / warmup
    if recipe.schedule == "constant":
        return 1.0
    share = (step - warmup) / max(total - warmup, 1)
    floor = recipe.final_lr_fraction
    return floor + (1 - floor) * CURVES[recipe.schedule](share, recipe)


def set_learning_rate(optimizer: Any, recipe: OptimRecipe, step: int, total: int) -> float:
    """Set every group's rate for ``step`` and return the student's."""
    factor = learning_rate_factor(recipe, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return recipe.lr * factor
