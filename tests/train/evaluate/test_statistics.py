"""Intervals and tests against exact distributions, on degenerate cases, and at full size."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from train.evaluate import statistics
from train.evaluate.measures import (
    ACCURACY,
    UNWEIGHTED_ACCURACY,
    WEIGHTED_ACCURACY,
    WEIGHTED_F1,
    WORD_ERROR_RATE,
)
from train.evaluate.statistics import FEWEST, difference, exact_p_value, interval
from train.evaluate.types import Measure, Verdict


def graded(values: Sequence[float], counted: Sequence[bool] | None = None) -> list[Verdict]:
    return [
        Verdict(
            sample_id=f"{number:05d}",
            value=value,
            expected="yes" if number % 3 else "no",
            predicted="yes" if value == bool(number % 3) else "no",
            counted=counted[number] if counted else True,
        )
        for number, value in enumerate(values)
    ]


def binomial_quantile(items: int, share: float, level: float) -> float:
    """The exact quantile of the share of right items in a resample."""
    total = 0.0
    for right in range(items + 1):
        total += math.comb(items, right) * share**right * (1 - share) ** (items - right)
        if total >= level:
            return right / items
    return 1.0


def test_an_interval_is_that_of_the_binomial() -> None:
    found = interval(graded([1.0] * 30 + [0.0] * 70), ACCURACY, resamples=40_000)
    assert found.value == 0.3
    # A step of the distribution is 1/100: the quantile of 40,000 draws is off by one at most.
    assert found.low == pytest.approx(binomial_quantile(100, 0.3, 0.025), abs=0.0101)
    assert found.high == pytest.approx(binomial_quantile(100, 0.3, 0.975), abs=0.0101)


def test_counts_drawn_at_once_and_items_drawn_are_one_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = graded([float(number % 4 == 0) for number in range(300)])
    at_once = interval(verdicts, UNWEIGHTED_ACCURACY, resamples=20_000)
    monkeypatch.setattr(statistics, "_FEW", 10**9)
    one_by_one = interval(verdicts, UNWEIGHTED_ACCURACY, resamples=20_000)
    assert at_once != one_by_one  # other random numbers
    assert at_once.value == one_by_one.value
    # The quantile's own error at 20,000 resamples is about 0.0005.
    assert at_once.low == pytest.approx(one_by_one.low, abs=0.003)
    assert at_once.high == pytest.approx(one_by_one.high, abs=0.003)


def test_every_resample_of_five_items() -> None:
    """Five items have 3,125 resamples, so the distribution can be written down."""
    verdicts = [
        Verdict(sample_id=str(n), value=wrong / words, weight=words)
        for n, (wrong, words) in enumerate(((1, 1), (0, 4), (2, 5), (3, 6), (9, 7)))
    ]
    every = [
        sum(v.value * v.weight for v in drawn) / sum(v.weight for v in drawn)
        for drawn in itertools.product(verdicts, repeat=5)
    ]
    found = interval(verdicts, WORD_ERROR_RATE, resamples=50_000)
    assert found.value == pytest.approx(15 / 23)
    # Values lie some 0.002 apart there, and 50,000 draws are off by a few of them.
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.01)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.01)


@pytest.mark.parametrize("measure", [ACCURACY, UNWEIGHTED_ACCURACY, WEIGHTED_F1, WORD_ERROR_RATE])
def test_seeded_and_free_of_order(measure: Measure) -> None:
    draw = random.Random(1)
    verdicts = graded([float(draw.random() < 0.4) for _ in range(150)])
    other = graded([float(draw.random() < 0.5) for _ in range(150)])
    found = interval(verdicts, measure, 500), difference(verdicts, other, measure, 500)
    draw.shuffle(verdicts)
    draw.shuffle(other)
    assert (interval(verdicts, measure, 500), difference(verdicts, other, measure, 500)) == found
    assert interval(verdicts, measure, 500, seed=1) != found[0]


def test_degenerate_intervals() -> None:
    for none in (graded([]), graded([1.0, 0.0], counted=[False, False])):
        empty = interval(none, ACCURACY, 100)
        assert all(math.isnan(value) for value in dataclasses.astuple(empty))


# Wilson's 95 % interval of n right of n begins at n / (n + 1.959964^2): 1 / 4.8415, 50 / 53.8415.
@pytest.mark.parametrize(("items", "low"), [(1, 0.206549), (3, 0.438503), (50, 0.928652)])
@pytest.mark.parametrize("measure", [ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1])
def test_all_right_and_all_wrong_are_not_certain(measure: Measure, items: int, low: float) -> None:
    right = interval(graded([1.0] * items), measure, 100)
    assert (right.value, right.high) == (1, 1)
    assert right.low == pytest.approx(low, abs=1e-6)
    wrong = interval(graded([0.0] * items), measure, 100)
    assert (wrong.value, wrong.low) == (0, 0)
    assert wrong.high == pytest.approx(1 - low, abs=1e-6)
    # what does not count says nothing
    more = graded([1.0] * items + [0.0] * 9, counted=[True] * items + [False] * 9)
    assert interval(more, ACCURACY, 100).low == pytest.approx(low, abs=1e-6)


def test_all_right_by_class() -> None:
    """Of 30 items 20 are 'yes' and 10 'no': z^2 / (n + z^2) is 0.161121 and 0.277539."""
    found = interval(graded([1.0] * 30), UNWEIGHTED_ACCURACY, 100)
    assert found.high == 1
    assert found.low == pytest.approx(1 - math.hypot(0.161121, 0.277539) / 2, abs=1e-5)
    one_class = interval(graded([1.0]), UNWEIGHTED_ACCURACY, 100)
    assert one_class.low == pytest.approx(0.206549, abs=1e-6)


def test_no_wrong_word_at_all_has_no_width() -> None:
    found = interval(graded([0.0] * 20), WORD_ERROR_RATE, 100)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("measure", [ACCURACY, UNWEIGHTED_ACCURACY, WEIGHTED_F1, WORD_ERROR_RATE])
@pytest.mark.parametrize("differing", [1, 5, 6])
def test_a_handful_of_items_cannot_tell_runs_apart(measure: Measure, differing: int) -> None:
    """Five items of one sign come by chance in 2 of 32 cases, six in 2 of 64."""
    base, other = graded([1.0] * 20), graded([0.0] * differing + [1.0] * (20 - differing))
    found = difference(other, base, measure, 2000)
    assert found.p_value >= 2 / 2**differing
    assert found.low <= found.value <= found.high
    assert (found.low <= 0 <= found.high) == (differing < FEWEST)
    alone = difference(other[:differing], base[:differing], measure, 2000)  # no resample differs
    assert (alone.low <= 0 <= alone.high) == (differing < FEWEST)


def test_a_measure_of_ones_own_is_resampled_item_by_item() -> None:
    median = Measure(name="median", compute=lambda vs: float(np.median([v.value for v in vs])))
    found = interval(graded([0.0, 1.0, 1.0]), median, 200)
    assert (found.value, found.low, found.high) == (1, 0, 1)
    assert math.isnan(interval([], median, 10).value)


# Won, lost, McNemar's exact two-sided p: twice the binomial tail with 1/2, worked out by hand.
MCNEMAR = [
    (0, 0, 1.0),
    (1, 0, 1.0),
    (5, 0, 2 / 32),
    (10, 2, 2 * (1 + 12 + 66) / 4096),
    (2, 10, 2 * (1 + 12 + 66) / 4096),
    (3, 3, 1.0),
    (8, 1, 2 * (1 + 9) / 512),
]


@pytest.mark.parametrize(("won", "lost", "p_value"), MCNEMAR)
def test_mcnemar_by_hand(won: int, lost: int, p_value: float) -> None:
    first = graded([1.0] * won + [0.0] * lost + [1.0, 0.0] * 20)
    second = graded([0.0] * won + [1.0] * lost + [1.0, 0.0] * 20)
    assert exact_p_value(list(zip(first, second, strict=True))) == pytest.approx(p_value)
    assert difference(first, second, ACCURACY, 100).exact_p_value == pytest.approx(p_value)


def test_mcnemar_of_many_and_of_what_is_not_right_or_wrong() -> None:
    pairs = list(zip(graded([1.0] * 5200), graded([0.0] * 2600 + [1.0] * 2600), strict=True))
    pairs += list(zip(graded([0.0] * 2500), graded([1.0] * 2500), strict=True))
    # z = 100 / sqrt(5100) = 1.40: p is near 0.166 with the correction for continuity
    assert exact_p_value(pairs) == pytest.approx(0.1657, abs=2e-4)
    rates = [(graded([0.5])[0], graded([0.5])[0])]
    assert exact_p_value(rates) is None
    left_out = [(graded([1.0], [False])[0], graded([0.0])[0])]
    assert exact_p_value(left_out) == 1.0


def test_differences_are_paired() -> None:
    """On the same hard and easy items a small change is certain; unpaired it would not be."""
    base = [1.0] * 200 + [0.0] * 200
    better = [1.0] * 212 + [0.0] * 188
    found = difference(graded(better), graded(base), ACCURACY, 4000)
    assert found.value == pytest.approx(0.03)
    assert 0 < found.low < 0.03 < found.high < 0.06
    assert found.p_value < 0.01
    assert found.exact_p_value == pytest.approx(2 / 2**12)
    unpaired = interval(graded(base), ACCURACY, 4000)
    assert unpaired.high - unpaired.low > 0.08
    back = difference(graded(base), graded(better), ACCURACY, 4000)
    assert (back.value, back.low, back.high) == (-found.value, -found.high, -found.low)


def test_no_difference() -> None:
    verdicts = graded([1.0, 0.0] * 20)
    same = difference(verdicts, verdicts, UNWEIGHTED_ACCURACY, 500)
    assert (same.value, same.low, same.high, same.p_value, same.exact_p_value) == (0, 0, 0, 1, 1)


def test_items_of_one_run_only_are_left_out_and_counted() -> None:
    first, second = graded([1.0, 1.0, 0.0, 0.0]), graded([0.0, 1.0, 0.0, 1.0])
    found = difference(first[:3], second[1:], ACCURACY, 200)
    assert (found.count, found.only_first, found.only_second) == (2, 1, 1)
    assert found.value == 0
    nothing = difference(first[:1], second[1:], ACCURACY, 200)
    assert nothing.count == 0
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.p_value)


def test_an_item_counted_in_one_run_has_a_part_in_that_run() -> None:
    """An official rule that skips answers gives each run its own published figure."""
    first = graded([1.0, 1.0, 0.0, 0.0], counted=[True, True, True, False])
    second = graded([1.0, 0.0, 0.0, 1.0], counted=[True, True, False, True])
    found = difference(first, second, ACCURACY, 200)
    assert found.value == pytest.approx(ACCURACY.compute(first) - ACCURACY.compute(second))
    assert found.value == pytest.approx(0)
    assert found.count == 4
    never = difference(first, graded([1.0] * 4, counted=[False] * 4), ACCURACY, 200)
    assert math.isnan(never.value)


def test_ten_thousand_items_in_bounded_memory() -> None:
    """Transcripts are the costly case: nearly every item is a kind of its own."""
    draw = random.Random(0)
    verdicts = [
        Verdict(sample_id=f"{n:05d}", value=draw.randint(0, 40) / words, weight=words)
        for n in range(10_000)
        for words in [draw.randint(1, 400)]
    ]
    tracemalloc.start()
    found = interval(verdicts, WORD_ERROR_RATE, resamples=1_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.low < found.value < found.high
    assert peak < 8 * 8 * statistics.CELLS  # a few arrays at a time
    # The interval of a ratio of sums by its linearised variance; 1,000 draws are within 8 %.
    value = np.array([v.value for v in verdicts])
    weight = np.array([v.weight for v in verdicts])
    spread = np.std(weight * (value - found.value)) / weight.mean() / math.sqrt(len(verdicts))
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.08)
