"""What a replay found of one signal: rows, how far they are apart, and which are beyond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN = 5
"""Samples and problems of a signal that are told; the others are counted."""

EQUAL, WITHIN, BEYOND = "equal", "within", "beyond"


@dataclass
class Measure:
    """One measure over the rows of a signal.

    Attributes:
        worst: the largest value.
        worst_id: its sample.
        total: sum over the rows.
        rows: how many there are.
        bound: the largest that rounding explains, of the row that came nearest to its bound or
            went furthest beyond; ``None`` for what is only told.
    """

    worst: float = -1.0
    worst_id: str = ""
    total: float = 0.0
    rows: int = 0
    bound: float | None = None

    def add(self, sample_id: str, value: float, bound: float | None) -> None:
        """Add a row's value."""
        if value > self.worst:
            self.worst, self.worst_id, self.bound = value, sample_id, bound
        self.total += value
        self.rows += 1


@dataclass
class Found:
    """One signal of one source; a row is a sample's, or one trace's of it.

    Attributes:
        signal: its name.
        rows: rows compared.
        equal: those of which every number is the same, bit by bit.
        measures: name -> measure.
        ties: traces that turn off where rounding may decide, as lines.
        num_ties: how many there are.
        beyond: samples with something that rounding does not explain, the first few.
        num_beyond: rows of such samples.
        problems: what it is, as lines, the first few.
    """

    signal: str
    rows: int = 0
    equal: int = 0
    measures: dict[str, Measure] = field(default_factory=dict)
    ties: list[str] = field(default_factory=list)
    num_ties: int = 0
    beyond: list[str] = field(default_factory=list)
    num_beyond: int = 0
    problems: list[str] = field(default_factory=list)

    def add(
        self,
        sample_id: str,
        *,
        equal: bool,
        measures: Mapping[str, tuple[float, float | None]] | None = None,
        problem: str = "",
    ) -> None:
        """Add a row.

        Args:
            sample_id: whose.
            equal: whether every number is the same.
            measures: name -> (value, bound); a bound of ``None`` is never exceeded.
            problem: what no measure says.
        """
        self.rows += 1
        self.equal += equal
        told = [problem] if problem else []
        for name, (value, bound) in (measures or {}).items():
            self.measures.setdefault(name, Measure()).add(sample_id, value, bound)
            if bound is not None and not value <= bound:
                told.append(f"{name} {value:.3g}, expected at most {bound:.3g}")
        if told:
            self.refuse(sample_id, "; ".join(told))

    def refuse(self, sample_id: str, problem: str) -> None:
        """Count a row as beyond what rounding explains."""
        self.num_beyond += 1
        if len(self.beyond) < SHOWN:
            if sample_id not in self.beyond:
                self.beyond.append(sample_id)
            self.problems.append(f"{sample_id}: {problem}")

    def tie(self, line: str) -> None:
        """Count a trace that turned off where rounding may decide."""
        self.num_ties += 1
        if len(self.ties) < SHOWN:
            self.ties.append(line)

    @property
    def verdict(self) -> str:
        """``equal``, ``within`` what rounding explains, or ``beyond``."""
        if self.num_beyond:
            return BEYOND
        return EQUAL if self.equal == self.rows else WITHIN

    def values(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "signal": self.signal,
            "verdict": self.verdict,
            "rows": self.rows,
            "equal": self.equal,
            "measures": {
                name: {
                    "worst": one.worst,
                    "worst_sample": one.worst_id,
                    "mean": one.total / one.rows,
                    "bound": one.bound,
                }
                for name, one in self.measures.items()
            },
            "near_ties": {"count": self.num_ties, "first": self.ties},
            "beyond": {"count": self.num_beyond, "samples": self.beyond, "first": self.problems},
        }
