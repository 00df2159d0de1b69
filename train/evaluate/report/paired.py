"""A model against another on the same items: differences, intervals, p values.

One run against one is ``evaluate.comparison``. Of several runs a side (seeds), the figures are
means over the runs, and the runs answer the same resampled items: an interval then holds what other
items would change, not what other seeds would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cache_schema.errors import UsageError
from train.evaluate.comparison import Comparison, compare
from train.evaluate.measures import KERNELS, Counts, Floats, kinds_of
from train.evaluate.report.reading import Evaluation
from train.evaluate.same_items import check_same_items
from train.evaluate.statistics import CELLS, RESAMPLES, able, differ, middle, two_sided
from train.evaluate.types import Measure, Verdict

SEED = 0

Comparisons = Mapping[tuple[str, str, str], Comparison]
"""(rule, measure, group) -> how a figure compares with the baseline's."""


def compared(these: Sequence[Evaluation], bases: Sequence[Evaluation]) -> Comparisons:
    """Return how runs of a model compare with runs of another, all of one benchmark.

    Groups are compared only where there is one run a side.

    Raises:
        UsageError: they have no item in common, or are of different data.
    """
    ids = [set(one.responses) for one in (*these, *bases)]
    if not set.intersection(*ids):
        raise UsageError(
            f"{these[0].directory} and {bases[0].directory} share no item; "
            "compare evaluations of the same data"
        )
    first = bases[0]
    for each in (*these, *bases[1:]):
        check_same_items(
            each.verdicts.get("strict", {}).values(),
            first.verdicts.get("strict", {}).values(),
            (each.directory, first.directory),
        )
    if len(these) == len(bases) == 1:
        one, other = (
            {rule: list(of.values()) for rule, of in side[0].verdicts.items()}
            for side in (these, bases)
        )
        found = compare(these[0].benchmark, one, other)
    else:
        found = [
            _of_means(these, bases, rule, measure)
            for rule in these[0].rules
            for measure in these[0].benchmark.measures
        ]
    return {(one.rule, one.measure, one.group): one for one in found}


def _of_means(
    these: Sequence[Evaluation], bases: Sequence[Evaluation], rule: str, measure: Measure
) -> Comparison:
    runs = [[one.verdicts.get(rule, {}) for one in side] for side in (these, bases)]
    every = [run for side in runs for run in side]
    shared = sorted(set.intersection(*(set(run) for run in every)))
    sides = [[_Run(measure, [run[one] for one in shared]) for run in side] for side in runs]
    value, baseline = (_mean(side, np.ones((1, len(shared)), dtype=np.int64))[0] for side in sides)
    rng = np.random.default_rng(SEED)
    rows = max(1, CELLS // max(1, len(shared)))
    drawn = []
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), len(shared))
        times = rng.multinomial(shape[1], np.full(shape[1], 1 / shape[1]), size=shape[0])
        drawn.append(_mean(sides[0], times) - _mean(sides[1], times))
    found, p_value = able(
        middle(float(value - baseline), drawn),
        two_sided(drawn),
        sum(differ([run[one] for run in every]) for one in shared),
    )
    fell = found.high < 0 if measure.higher_is_better else found.low > 0
    benchmark = these[0].benchmark
    headline = measure.name == benchmark.measures[0].name
    return Comparison(
        rule=rule,
        measure=measure.name,
        group="",
        value=float(value),
        baseline=float(baseline),
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=p_value,
        exact_p_value=None,
        count=len(shared),
        left_out=len(set.union(*(set(run) for run in every))) - len(shared),
        fell=fell,
        forgotten=fell and headline and benchmark.ability == "hearing",
    )


class _Run:
    """One run's verdicts; its figure where every item is taken several times."""

    def __init__(self, measure: Measure, verdicts: Sequence[Verdict]) -> None:
        self._kernel = KERNELS[measure.name]
        self._kinds = kinds_of([self._kernel.key(one) for one in verdicts])
        self._counted = np.array([one.counted for one in verdicts], dtype=np.int64)

    def figure(self, times: Counts) -> Floats:
        """Return the figure, float64 [resamples], of int64 [resamples, items]."""
        return self._kernel.formula(self._kinds, times * self._counted)


def _mean(runs: Sequence[_Run], times: Counts) -> Floats:
    return np.asarray(np.mean([run.figure(times) for run in runs], axis=0))
