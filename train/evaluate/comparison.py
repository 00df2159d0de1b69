"""Two runs on the same items: what changed, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache_schema.errors import DatasetError
from train.evaluate.groups import groups_of
from train.evaluate.statistics import RESAMPLES, difference
from train.evaluate.types import Benchmark, Measure, Verdict

Verdicts = Mapping[str, Sequence[Verdict]]
"""Rule -> its verdicts."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of a run against the same figure of a baseline, over the items of both.

    Attributes:
        rule: by which rule.
        measure: of which measure.
        group: as of a ``Score``.
        value: the run's figure over the items of both.
        baseline: the baseline's.
        difference: run minus baseline.
        low: lower end of its 95 % interval, paired bootstrap.
        high: upper end.
        p_value: two-sided, paired bootstrap.
        exact_p_value: McNemar's exact test; ``None`` for error rates.
        count: items of both runs.
        left_out: items that only one of the runs has.
        fell: the run is worse and its interval does not reach no difference.
        forgotten: it fell, over all items, at hearing.
    """

    rule: str
    measure: str
    group: str
    value: float
    baseline: float
    difference: float
    low: float
    high: float
    p_value: float
    exact_p_value: float | None
    count: int
    left_out: int
    fell: bool
    forgotten: bool


def compare(
    benchmark: Benchmark,
    run: Verdicts,
    baseline: Verdicts,
    *,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """Compare a run with a baseline by every rule, measure and group both have.

    Forgetting is said of the benchmark's headline, its first measure, over all items.

    Raises:
        DatasetError: they share no item, so there is nothing to compare.
    """
    found = []
    for rule in benchmark.rules:
        ours = groups_of(benchmark, run[rule.name])
        theirs = groups_of(benchmark, baseline[rule.name])
        if not {v.sample_id for v in ours[""]} & {v.sample_id for v in theirs[""]}:
            raise DatasetError(
                f"{benchmark.name}: the run and its baseline share no item; both must be "
                "evaluated on the same data"
            )
        found += [
            _comparison(
                benchmark, rule.name, measure, group, (ours[group], theirs[group]), resamples
            )
            for group in ours
            if group in theirs
            for measure in benchmark.measures
        ]
    return found


def _comparison(
    benchmark: Benchmark,
    rule: str,
    measure: Measure,
    group: str,
    verdicts: tuple[Sequence[Verdict], Sequence[Verdict]],
    resamples: int,
) -> Comparison:
    found = difference(*verdicts, measure, resamples)
    shared = {v.sample_id for v in verdicts[0]} & {v.sample_id for v in verdicts[1]}
    value, baseline = (
        measure.compute([v for v in side if v.sample_id in shared]) for side in verdicts
    )
    fell = found.high < 0 if measure.higher_is_better else found.low > 0
    is_headline = not group and measure.name == benchmark.measures[0].name
    return Comparison(
        rule=rule,
        measure=measure.name,
        group=group,
        value=value,
        baseline=baseline,
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        exact_p_value=found.exact_p_value,
        count=found.count,
        left_out=found.only_first + found.only_second,
        fell=fell,
        forgotten=fell and is_headline and benchmark.ability == "hearing",
    )
