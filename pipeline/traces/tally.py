"""What came of all traces of a run, counted, for one line at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.traces.candidate import TRUNCATED, Candidate
from pipeline.traces.outcome import Outcome


@dataclass(kw_only=True)
class Tally:
    """Counts over the samples recorded in a run; failed ones are counted where they are named.

    Attributes:
        traces: traces of each origin, the rejected ones included.
        kept: those that are on the tape with their signals.
        rejected: reason -> traces.
        untold: reason -> samples whose answer was not told where it should have been.
        truncated: traces cut at the longest they may be.
        judged: traces that have a verdict,
        right: and those whose answer is right.
        astray: traces that lack a part of the prompt's form.
        without: samples none of whose traces was kept.
    """

    traces: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    untold: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    judged: int = 0
    right: int = 0
    astray: int = 0
    without: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count what came of one sample."""
        self.kept += len(outcome.kept)
        self.without += not outcome.kept
        if outcome.untold:
            self.untold[outcome.untold] += 1
        for candidate in outcome.kept:
            self._add(candidate)
        for candidate, reason in outcome.rejected:
            self._add(candidate)
            self.rejected[reason] += 1

    def _add(self, candidate: Candidate) -> None:
        self.traces[candidate.origin] += 1
        self.truncated += candidate.finish_reason == TRUNCATED
        self.judged += candidate.correct is not None
        self.right += candidate.correct is True
        self.astray += not candidate.in_form

    def line(self, form: str) -> str:
        """Return the line.

        Args:
            form: of the prompt; a plain one has no parts to lack.
        """
        origins = f" ({_counted(self.traces)})" if self.traces.keys() - {"free"} else ""
        parts = [
            f"{self.kept} of {self.traces.total()} traces{origins} kept",
            f"{self.right} of {self.judged} judged right",
            f"{self.truncated} truncated",
        ]
        if form != "plain":
            parts.append(f"{self.astray} not of the form {form}")
        if self.rejected:
            parts.append(f"rejected: {_counted(self.rejected)}")
        if self.without:
            parts.append(f"{self.without} samples without a kept trace")
        if self.untold:
            parts.append(f"samples whose answer was not told: {_counted(self.untold)}")
        return "; ".join(parts)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
