"""No text that is another number, or none, is ever judged right; every pair is tried."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.answers.quantity import parse_number
from cache_schema.answers.questions import choice_index, is_correct

SAME: tuple[tuple[str, ...], ...] = (
    ("0", "zero", "0.0", "-0"),
    ("1", "one", "+1"),
    ("2", "two", "2.0", "Two.", "2 seconds", "two speakers", "2 times"),
    ("-2", "minus two", "negative 2", "\u22122", "minus 2"),
    ("3", "three", "**3**", "3 dogs", "$3"),
    ("5", "five", "(5)", "5 people"),
    ("7", "seven", "7!", "7,"),
    ("-7", "minus seven"),
    ("6", "six"),
    ("24", "2 dozen", "two dozen", "twenty-four"),
    ("12", "a dozen"),
    ("20", "twenty", "twenty seconds"),
    ("400", "4 hundred", "four hundred"),
    ("5000", "5 thousand", "5,000", "five thousand", "5e3"),
    ("5000000", "5 million", "five million", "5.0 million"),
    ("5.5", "5 and a half", "five and a half"),
    ("2/3", "two thirds", "two-thirds", "2 thirds"),
    ("3/4", "0.75", ".75", "three quarters"),
    ("1/2", "0.5", "one half", "half", "a half"),
    ("1/3", "a third", "one third"),
)
ALONE = (
    "5k", "5K", "5G", "20s", "5S", "2\u00b2", "2\u00bd", "2^2", "10^5", "7 or", "7 or 8",
    "seven or eight",
    "not 7", "7 not", "7 to", "5-6", "5 - 6", "5 to 6", "five-six", "5:30", ":5", ",5", "1,5",
    "7th", "2nd", "seventh", "twenty second", "twenty third", "twenty-first", "6/8", "2/4", "4/4",
    "1/2/2020", "2020-01-02", "5 May", "5 pm", "5 lakh", "2 gross", "five fold", "5 bn", "5m",
    "-seven", "7 minus", "7 squared", "3 quarter", "two third", "half dozen", "half a million",
    "5 mW", "5 MW", "2 pair", "one two", "seven point five", "5 million 3", "5\u5341", "5.6.7",
)  # fmt: skip
"""Each says something else than any other text here, or nothing."""


def test_every_pair_of_texts() -> None:
    texts = [(text, number) for number, group in enumerate(SAME) for text in group]
    texts += [(text, -1 - number) for number, text in enumerate(ALONE)]
    for (answer, said), (expected, meant) in itertools.product(texts, repeat=2):
        if said != meant:
            for judge in ("auto", "numeric"):
                assert not is_correct(answer, expected, judge=judge), (answer, expected, judge)


def test_numbers_that_are_understood() -> None:
    for group in SAME:
        numbers = [parse_number(text) for text in group]
        assert len({number.value for number in numbers if number}) == 1, group
        assert None not in numbers, group
        assert all(is_correct(text, group[0]) for text in group), group


@pytest.mark.parametrize("text", ALONE)
def test_none_of_these_is_a_bare_number(text: str) -> None:
    number = parse_number(text)
    assert number is None or number.unit, text


def test_choices_are_not_taken_for_their_first_word() -> None:
    assert choice_index("three quarters", ("3", "0.75")) == 1
    assert choice_index("5 million", ("5", "6")) is None
    assert choice_index("6/8", ("3/4", "4/4")) is None
    assert choice_index("6/8", ("3/4", "6/8")) == 1
    assert choice_index(",5", ("5", "0.5")) is None


UNITS = (
    "",
    " seconds",
    " people",
    "%",
    " k",
    " or",
    " th",
    " lakh",
    " hundred",
    " dozen",
    " thirds",
)
SCALE = {" hundred": Fraction(100), " dozen": Fraction(12)}


@settings(deadline=None, max_examples=300)
@given(
    st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 12), st.integers(1, 12),
    st.sampled_from(UNITS), st.sampled_from(UNITS),
)  # fmt: skip
def test_right_means_equal(
    a: int, b: int, below_a: int, below_b: int, unit_a: str, unit_b: str
) -> None:
    said, value = _written(a, below_a, unit_a)
    meant, other = _written(b, below_b, unit_b)
    if is_correct(said, meant, judge="numeric"):
        assert value == other
        named = {unit_a, unit_b} - {"", *SCALE, " thirds"}
        assert len(named) <= 1
        assert unit_a == unit_b or not named & {" k", " or", " th", " lakh"}


def _written(above: int, below: int, unit: str) -> tuple[str, Fraction]:
    value = Fraction(above, below) * SCALE.get(unit, 1) / (3 if unit == " thirds" else 1)
    return f"{above}{f'/{below}' if below > 1 else ''}{unit}", value
