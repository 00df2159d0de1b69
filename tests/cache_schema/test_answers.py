"""Verdicts: by text, by letter, by number; what is right, and above all what is not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.answers.quantity import Number, parse_number
from cache_schema.answers.questions import (
    JUDGES,
    answer_key,
    choice_index,
    is_correct,
    normalize_answer,
)
from cache_schema.errors import UsageError

COLOURS = ("red", "blue", "dark blue")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("b", True),
        ("(b)", True),
        ("[B]", True),
        ("B.", True),
        ("**B**", True),
        ("B) blue", True),
        ("B: Blue.", True),
        ("B - blue", True),
        ("A. blue", True),  # the text decides: no letters stand beside the choices
        ("The answer is B", True),
        ("So the final answer is: (b) blue.", True),
        ("Answer: blue", True),
        ("Option B", True),
        ("C", False),
        ("dark blue", False),
        ("The answer is not B", False),
        ("B or C", False),
        ("blue or red", False),
        ("B, because it is blue", False),
        ("(B) red", False),
        ("A blue", False),
        ("Because", False),
        ("bb", False),
        ("D", False),
        ("z", False),
        ("", False),
    ],
)
def test_choices(answer: str, verdict: bool) -> None:
    assert is_correct(answer, "blue", COLOURS) is verdict
    assert is_correct(answer, "blue", COLOURS, "choice") is verdict


def test_choices_given_in_other_ways() -> None:
    assert is_correct("blue", "B", COLOURS) is True
    assert is_correct("B", "B", COLOURS) is True
    assert is_correct("red", "B", COLOURS) is False
    labelled = ("(A) red", "(B) blue")
    assert [choice_index(text, labelled) for text in ("(B) blue", "B")] == [1, 1]
    assert choice_index("seven", ("5", "7")) == choice_index("7.0", ("5", "7")) == 1
    assert choice_index("7", ("7", "7.0", "8")) == 0
    assert choice_index("7.00", ("7", "7.0", "8")) is None, "two choices it might be"
    assert choice_index("b", ("b", "a")) == 0, "a choice that is a letter is no label"


@pytest.mark.parametrize(
    ("answer", "expected", "verdict"),
    [
        ("7.0", "7", True),
        ("7.", "7", True),
        ("**7**.", "7", True),
        ("`7`.", "7", True),
        ('"seven."', "7", True),
        ("(7).", "7", True),
        ("1e1.", "10", True),
        ("+7", "7", True),
        ("seven", "7", True),
        ("7", "Seven", True),
        ("The answer is 7.", "7", True),
        ("1,000", "1000", True),
        ("twenty-one", "21", True),
        ("a hundred and five", "105", True),
        ("3/4", "0.75", True),
        ("50 percent", "50%", True),
        ("50%", "50", True),
        ("7 seconds", "7", True),
        ("7 second", "7 seconds", True),
        ("50%", "0.5", False),
        ("7 minutes", "7 seconds", False),
        ("$5", "5 percent", False),
        ("-7", "7", False),
        (".5", "5", False),
        ("7 or 8", "7", False),
        ("between 7 and 8", "7", False),
        ("one two", "3", False),
        ("1,5", "1.5", False),
        ("75", "7", False),
        ("7e99", "7", False),
        ("no", "7", False),
        ("", "7", False),
    ],
)
def test_numbers(answer: str, expected: str, verdict: bool) -> None:
    assert is_correct(answer, expected) is verdict
    assert is_correct(answer, expected, judge="numeric") is verdict


def test_nothing_to_compare_with() -> None:
    for judge in JUDGES:
        assert is_correct("x", "", ("x",), judge) is None
    assert is_correct("7", "many", judge="numeric") is None
    assert is_correct("red", "green", COLOURS, "choice") is None
    assert is_correct("red", "green", COLOURS) is False, "auto then compares the texts"
    assert is_correct("7.0", "7", judge="exact") is False
    with pytest.raises(UsageError, match="did you mean 'exact'"):
        is_correct("a", "b", judge="exat")


def test_normalisation_keeps_a_leading_point() -> None:
    assert normalize_answer(" (.5). ") == ".5"
    assert normalize_answer(' "A  Dog." ') == "a dog"


def test_answers_that_say_the_same_share_a_key() -> None:
    assert answer_key("(B) blue", COLOURS) == answer_key("b", COLOURS)
    assert answer_key("7.0") == answer_key("seven") != answer_key("8")
    assert answer_key("A Dog") == answer_key("a dog.") != answer_key("a cat")
    assert answer_key("The answer is 7.") == answer_key("7")
    assert answer_key("So the answer is: a dog") == answer_key("A dog")


ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
numbers = st.integers(-(10**9), 10**9)


@given(value=numbers, places=st.integers(0, 4))
def test_digits_are_read_exactly(value: int, places: int) -> None:
    exact = Fraction(value, 10**places)
    text = f"{value / 10**places:,.{places}f}" if abs(value) < 10**6 else str(value)
    wanted = exact if abs(value) < 10**6 else Fraction(value)
    assert parse_number(text) == Number(value=wanted, unit="")
    assert parse_number(f" {text}. ") == Number(value=wanted, unit="")


@given(st.integers(0, 999_999))
def test_words_are_read(value: int) -> None:
    assert parse_number(in_words(value)) == Number(value=Fraction(value), unit="")


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=20), st.lists(st.text(max_size=10), max_size=4))
def test_any_text_has_a_verdict(answer: str, expected: str, choices: list[str]) -> None:
    for judge in JUDGES:
        verdict = is_correct(answer, expected, choices, judge)
        assert verdict in (True, False, None)
        assert expected or verdict is None
    assert is_correct(expected, expected, choices, "exact") is (True if expected else None)


@given(st.sampled_from(COLOURS), st.sampled_from(COLOURS), st.sampled_from("\"'*. "))
def test_a_choice_is_right_only_if_it_is_the_right_one(said: str, right: str, mark: str) -> None:
    letter = "ABC"[COLOURS.index(said)]
    for answer in (said, letter, f"({letter})", f"{letter}) {said}", f"{mark}{said}{mark}"):
        assert is_correct(answer, right, COLOURS) is (said == right)


def in_words(value: int) -> str:
    """English words of a number below a million, written apart from the reader."""
    if value >= 1000:
        rest = f" {in_words(value % 1000)}" if value % 1000 else ""
        return f"{in_words(value // 1000)} thousand{rest}"
    if value >= 100:
        rest = f" and {in_words(value % 100)}" if value % 100 else ""
        return f"{ONES[value // 100]} hundred{rest}"
    if value >= 20:
        return TENS[value // 10] + (f"-{ONES[value % 10]}" if value % 10 else "")
    return ONES[value]
