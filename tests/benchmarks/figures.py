"""What a benchmark returns: figures, each a ratio or a size against its bar, all from one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: such as ``"x of memcpy"`` or ``"bytes an entry"``.
        bar: what it is held against; ``None`` for a figure that is only told.
        at_least: whether the bar is a lower bound, otherwise an upper one.
        note: the physical limit, the baseline, the spread.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    at_least: bool = True
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; ``None`` if there is none."""
        if self.bar is None:
            return None
        # a value of numpy would give a bool of its own, which JSON does not know
        return bool(self.value >= self.bar if self.at_least else self.value <= self.bar)


def interleaved(jobs: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, list[float]]:
    """Return each job's seconds, round by round, the jobs taking turns after one unmeasured round.

    Whatever else the machine does then meets all of them alike; compare medians.
    """
    taken_s: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            began_s = time.perf_counter()
            job()
            taken_s[name].append(time.perf_counter() - began_s)
    return taken_s


def ratio(baseline_s: list[float], measured_s: list[float]) -> float:
    """Return how many times as fast as the baseline: the median over paired rounds."""
    return statistics.median(b / m for b, m in zip(baseline_s, measured_s, strict=True))


def growth(
    name: str, costs: Mapping[int, float], told: Callable[[float], str], bar: float | None
) -> Figure:
    """Return the exponent e of cost ~ size^e, fitted by least squares to the logarithms.

    Args:
        name: what grows.
        costs: size -> cost, ascending.
        told: puts a cost into words.
        bar: the largest exponent allowed.
    """
    sizes, values = np.log(list(costs)), np.log(list(costs.values()))
    exponent, _ = np.polyfit(sizes, values, 1)
    (a, before), (b, last) = list(costs.items())[-2:]
    each = ", ".join(f"{size:,}: {told(cost)}" for size, cost in costs.items())
    return Figure(
        name=name, value=float(exponent), unit="exponent", bar=bar, at_least=False,
        note=f"{each}; the last {last / before / (b / a):.2f} of linear",
    )  # fmt: skip
