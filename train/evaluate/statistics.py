"""Intervals and tests by resampling items: what a figure could be on other items like these.

A resample of N items with replacement holds every kind of verdict so often as N draws say. With few
kinds the counts are drawn at once (multinomial), with many the items are; the two are the same
distribution. Memory is bounded by ``CELLS`` numbers, whatever the number of items.

Resampling says nothing of what no item shows. Where all items are right, or all wrong, every
resample is the same, so the open end is Wilson's instead (``_unseen``); an error rate of 0 keeps an
interval without width. And a handful of items on which two runs differ is resampled as if it were
certain: whatever they are, chance gives the same sign to all of m of them in 2 / 2^m of all cases,
so no p value is smaller, and below ``FEWEST`` of them an interval reaches no difference (``able``).
B resamples, K kinds, N items.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from train.evaluate.measures import KERNELS, Counts, Floats, Key, Kinds, kinds_of, tabulate
from train.evaluate.types import Measure, Verdict

RESAMPLES = 10_000
LEVEL = 0.95

FEWEST = 6
"""Items on which two runs must differ before a difference can be told: 2 / 2^5 is more than 5 %."""

_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

CELLS = 4_000_000
"""Numbers of one array held at a time: 32 MB."""

_FEW = 8
"""Counts are drawn at once where there are so many times fewer kinds than items."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and its interval; NaN where no item counts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure of one run minus that of another, over the items both were asked.

    Attributes:
        value: first minus second.
        low: lower end of its 95 % interval, items resampled in pairs.
        high: upper end.
        p_value: two-sided, of the paired bootstrap: how often a resample is on the other side of 0;
            at least 2 / 2^m where the runs differ on m items.
        exact_p_value: two-sided, of McNemar's exact test, which is of the share of right items
            whatever the measure; ``None`` where verdicts are not right or wrong, and for error
            rates.
        count: items of both.
        only_first: items that only the first run has; they have no part.
        only_second: items that only the second has.
    """

    value: float
    low: float
    high: float
    p_value: float
    exact_p_value: float | None
    count: int
    only_first: int
    only_second: int


def interval(
    verdicts: Sequence[Verdict], measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return a measure over the verdicts that count, with its 95 % percentile bootstrap interval.

    Args:
        verdicts: in any order; the result does not depend on it.
        measure: one of ``measures``; any other is computed once a resample, which is slow.
        resamples: B.
        seed: of the draws.
    """
    kernel = KERNELS.get(measure.name)
    if kernel is None:
        return _slowly(verdicts, measure, resamples, seed)
    kinds, counts_K = tabulate(verdicts, kernel)
    drawn = [kernel.formula(kinds, part) for part in _drawn(counts_K, resamples, seed)]
    found = middle(float(kernel.formula(kinds, counts_K[None])[0]), drawn)
    return _unseen(found, measure, kinds, counts_K)


def difference(
    first: Sequence[Verdict],
    second: Sequence[Verdict],
    measure: Measure,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compare two runs over the same items.

    Items are drawn in pairs, so what makes an item hard for both runs cancels. An item that a rule
    counts in one run only has a part in that run's figure, as in the published figures. Where fewer
    than ``FEWEST`` items differ, the interval reaches no difference.

    Raises:
        KeyError: the measure is none of ``measures``.
    """
    kernel = KERNELS[measure.name]
    ones = {verdict.sample_id: verdict for verdict in first}
    others = {verdict.sample_id: verdict for verdict in second}
    shared = sorted(ones.keys() & others.keys())
    pairs = Counter(
        tuple(kernel.key(v) if v.counted else None for v in (ones[i], others[i])) for i in shared
    )
    keys = sorted(pairs, key=repr)
    counts_K = np.array([pairs[key] for key in keys], dtype=np.int64)
    sides = [_side([key[side] for key in keys]) for side in (0, 1)]

    def minus(part: Counts) -> Floats:
        one, other = (kernel.formula(kinds, part * is_in) for kinds, is_in in sides)
        return one - other

    drawn = [minus(part) for part in _drawn(counts_K, resamples, seed)]
    found = middle(float(minus(counts_K[None])[0]), drawn)
    differing = sum(differ([ones[i], others[i]]) for i in shared)
    found, p_value = able(found, two_sided(drawn), differing)
    return Difference(
        value=found.value,
        low=found.low,
        high=found.high,
        p_value=p_value,
        exact_p_value=(
            exact_p_value([(ones[i], others[i]) for i in shared])
            if measure.higher_is_better
            else None
        ),
        count=len(shared),
        only_first=len(ones) - len(shared),
        only_second=len(others) - len(shared),
    )


def exact_p_value(pairs: Sequence[tuple[Verdict, Verdict]]) -> float | None:
    """Return McNemar's exact two-sided p value: right by one run only, against the other only.

    Of the items on which the runs disagree, each is as likely to be won by either if they are
    equally good: binomial with 1/2. Items that do not count in both runs are left out.

    Returns:
        ``None`` where a verdict is neither right nor wrong.
    """
    counted = [(a.value, b.value) for a, b in pairs if a.counted and b.counted]
    if any(value not in (0.0, 1.0) for pair in counted for value in pair):
        return None
    won, lost = counted.count((1.0, 0.0)), counted.count((0.0, 1.0))
    tosses = won + lost
    ways = total = 1
    for heads in range(min(won, lost)):  # integers: exact, however many
        ways = ways * (tosses - heads) // (heads + 1)
        total += ways
    return min(1.0, 2 * total / (1 << tosses))


def _side(keys: Sequence[Key | None]) -> tuple[Kinds, Counts]:
    """Return the kind of one run in every pair, and int64 [K], 1 where it counts."""
    known = sorted({key for key in keys if key is not None})
    if not known:
        known = [(0.0, 1.0, "", "")]  # nothing counts: any kind does, it is never counted
    place: Mapping[Key | None, int] = {key: number for number, key in enumerate(known)}
    index_K = np.array([place.get(key, 0) for key in keys], dtype=np.int64)
    is_in_K = np.array([key is not None for key in keys], dtype=np.int64)
    return kinds_of(known).take(index_K), is_in_K


def _drawn(counts_K: Counts, resamples: int, seed: int) -> Iterator[Counts]:
    """Yield the counts of resamples, int64 [some, K], ``resamples`` of them together."""
    items, kinds = int(counts_K.sum()), len(counts_K)
    if not items:
        return
    rng = np.random.default_rng(seed)
    few = kinds * _FEW <= items
    rows = max(1, CELLS // (kinds if few else items))
    kind_of_N = np.repeat(np.arange(kinds), counts_K)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        if few:
            yield rng.multinomial(items, counts_K / items, size=size)
            continue
        drawn = kind_of_N[rng.integers(items, size=(size, items), dtype=np.int32)]
        drawn += kinds * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * kinds).reshape(size, kinds)


def middle(value: float, drawn: Sequence[Floats]) -> Interval:
    """Return the middle 95 % of the resamples; those in which nothing counts are left out."""
    known = _known(drawn)
    if not len(known):
        return Interval(value=value, low=math.nan, high=math.nan)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def differ(verdicts: Sequence[Verdict]) -> bool:
    """Whether the runs' verdicts on one item are not all the same."""
    return len({(verdict.counted, verdict.value) for verdict in verdicts}) > 1


def able(found: Interval, p_value: float, differing: int) -> tuple[Interval, float]:
    """Return a difference's interval and p value as far as so many differing items can tell.

    Were the runs equally good, each item would favour either with the same chance, so all of m
    items favour one run in 2 / 2^m of all cases: a p value of any paired test is at least that.
    """
    least_p = 2.0 ** (1 - differing)
    if differing < FEWEST:
        found = replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))
    return found, min(max(p_value, least_p), 1.0)  # in this order NaN stays NaN


def _unseen(found: Interval, measure: Measure, kinds: Kinds, counts_K: Counts) -> Interval:
    """Return an interval with Wilson's end where all that count are right, or all are wrong.

    Wilson's interval of n of n is n / (n + z^2) to 1 (E. B. Wilson, JASA 22, 1927). The widths of
    recalls add up to that of their mean as squares do (Zou and Donner, Stat. Med. 27, 2008).
    Transcripts are no counts of right and wrong: their interval stays as it is.
    """
    seen = {float(value) for value in kinds.values}
    if not measure.higher_is_better or seen not in ({0.0}, {1.0}):
        return found
    by_class = measure.name == "unweighted_accuracy"
    classes_K = kinds.expected if by_class else np.zeros_like(kinds.expected)
    items_C = np.bincount(classes_K, weights=counts_K)
    widths_C = _Z**2 / (items_C[items_C > 0] + _Z**2)
    width = float(np.sqrt((widths_C**2).sum())) / len(widths_C)
    if seen == {1.0}:
        return replace(found, low=found.value - width)
    return replace(found, high=found.value + width)


def two_sided(drawn: Sequence[Floats]) -> float:
    """Return the bootstrap's p value of differences: how often one is on the other side of 0."""
    known = _known(drawn)
    if not len(known):
        return math.nan
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(known) + 1))


def _known(drawn: Sequence[Floats]) -> Floats:
    values = np.concatenate(drawn) if drawn else np.empty(0)
    known: Floats = values[~np.isnan(values)]
    return known


def _slowly(verdicts: Sequence[Verdict], measure: Measure, resamples: int, seed: int) -> Interval:
    """Resample the items themselves, for a measure that is not known by its formula."""
    counted = sorted((v for v in verdicts if v.counted), key=lambda v: v.sample_id)
    if not counted:
        return Interval(value=math.nan, low=math.nan, high=math.nan)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(counted), size=len(counted)) for _ in range(resamples))
    values = np.array([measure.compute([counted[i] for i in draw]) for draw in draws])
    return middle(measure.compute(counted), [values])
