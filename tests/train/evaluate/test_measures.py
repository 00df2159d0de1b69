"""Measures against figures worked out by hand and a second, plain implementation."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.evaluate.measures import (
    ACCURACY,
    KERNELS,
    UNWEIGHTED_ACCURACY,
    WEIGHTED_ACCURACY,
    WEIGHTED_F1,
    WORD_ERROR_RATE,
    confusion,
)
from train.evaluate.types import Measure, Verdict

MEASURES = (ACCURACY, UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1, WORD_ERROR_RATE)


def labelled(pairs: Sequence[tuple[str, str]], counted: bool = True) -> list[Verdict]:
    return [
        Verdict(
            sample_id=str(number),
            value=float(right == said),
            expected=right,
            predicted=said,
            counted=counted,
        )
        for number, (right, said) in enumerate(pairs)
    ]


def transcribed(*wrong_and_words: tuple[int, int]) -> list[Verdict]:
    return [
        Verdict(sample_id=str(number), value=wrong / words, weight=words)
        for number, (wrong, words) in enumerate(wrong_and_words)
    ]


# Ten utterances: 6 neutral (5 right, 1 said joy), 3 joy (1 right, 1 neutral, 1 no answer), 1 anger
# (said 'rage', which is no class).
TEN = [("neutral", "neutral")] * 5 + [
    ("neutral", "joy"),
    ("joy", "joy"),
    ("joy", "neutral"),
    ("joy", ""),
    ("anger", "rage"),
]


def test_ten_utterances_by_hand() -> None:
    verdicts = labelled(TEN)
    assert ACCURACY.compute(verdicts) == pytest.approx(0.6)
    assert WEIGHTED_ACCURACY.compute(verdicts) == pytest.approx(0.6)
    # recalls 5/6, 1/3, 0
    assert UNWEIGHTED_ACCURACY.compute(verdicts) == pytest.approx((5 / 6 + 1 / 3) / 3)
    # neutral: 2 x 5 / (6 + 6), joy: 2 x 1 / (3 + 2), anger 0; weighted by 6, 3, 1
    assert WEIGHTED_F1.compute(verdicts) == pytest.approx((6 * 10 / 12 + 3 * 2 / 5) / 10)


def test_word_errors_are_summed_before_the_division() -> None:
    assert WORD_ERROR_RATE.compute(transcribed((1, 2), (0, 8))) == pytest.approx(0.1)
    assert WORD_ERROR_RATE.compute(transcribed((3, 2), (3, 2))) == pytest.approx(1.5)
    assert [m.name for m in MEASURES if not m.higher_is_better] == ["word_error_rate"]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_nothing_that_counts(measure: Measure) -> None:
    assert math.isnan(measure.compute([]))
    assert math.isnan(measure.compute(labelled(TEN, counted=False)))
    with_others = labelled(TEN) + labelled([("joy", "neutral")] * 9, counted=False)
    assert measure.compute(with_others) == measure.compute(labelled(TEN))


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_the_order_of_items_does_not_matter_to_the_last_bit(measure: Measure) -> None:
    draw = random.Random(0)
    verdicts = labelled([(draw.choice("abc"), draw.choice("abcd")) for _ in range(97)])
    if measure is WORD_ERROR_RATE:
        verdicts = transcribed(*((draw.randint(0, 9), draw.randint(1, 7)) for _ in range(97)))
    first = measure.compute(verdicts)
    for _ in range(5):
        draw.shuffle(verdicts)
        assert measure.compute(verdicts) == first


def second(name: str, pairs: Sequence[tuple[str, str]]) -> Fraction:
    """Each figure from its definition, in fractions, item by item."""
    classes = sorted({right for right, _ in pairs})
    right = {c: sum(a == b == c for a, b in pairs) for c in classes}
    there = {c: sum(a == c for a, _ in pairs) for c in classes}
    said = {c: sum(b == c for _, b in pairs) for c in classes}
    if name == "unweighted_accuracy":
        return sum((Fraction(right[c], there[c]) for c in classes), Fraction()) / len(classes)
    if name == "weighted_f1":
        total = Fraction()
        for c in classes:
            precision = Fraction(right[c], said[c]) if said[c] else Fraction()
            recall = Fraction(right[c], there[c])
            if precision + recall:
                total += there[c] * 2 * precision * recall / (precision + recall)
        return total / len(pairs)
    return Fraction(sum(right.values()), len(pairs))


pairs_drawn = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(("a", "b", "c", "d", ""))), min_size=1
)


@given(pairs_drawn)
def test_classes_twice(pairs: list[tuple[str, str]]) -> None:
    for measure in MEASURES:
        assert measure.compute(labelled(pairs)) == pytest.approx(float(second(measure.name, pairs)))


@given(pairs_drawn)
def test_confusion_counts_every_item_once(pairs: list[tuple[str, str]]) -> None:
    classes, table = confusion(labelled(pairs))
    assert classes == tuple(sorted({right for right, _ in pairs}))
    assert table.shape == (len(classes), len(classes) + 1)
    assert table.sum() == len(pairs)
    for number, name in enumerate(classes):
        assert table[number, number] == sum(a == b == name for a, b in pairs)
        assert table[number, -1] == sum(a == name and b not in classes for a, b in pairs)


def test_every_measure_has_its_formula() -> None:
    assert {measure.name for measure in MEASURES} == set(KERNELS)
