"""All items, and the groups that scores are also given by."""

from __future__ import annotations

from collections.abc import Sequence

from train.evaluate.types import Benchmark, Verdict


def groups_of(benchmark: Benchmark, verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Return the verdicts of all items (``""``), then of each group (``grouping=value``)."""
    found: dict[str, list[Verdict]] = {"": list(verdicts)}
    for grouping in benchmark.groups:
        values = sorted({v.groups[grouping] for v in verdicts if grouping in v.groups})
        for value in values:
            found[f"{grouping}={value}"] = [v for v in verdicts if v.groups.get(grouping) == value]
    return found
