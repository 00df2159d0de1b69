"""The strict rule: one whole choice, and a missing answer is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schema.answers.questions import normalize_answer
from train.evaluate.benchmarks import BENCHMARKS
from train.evaluate.rules.choices import (
    judge_strict,
    labels_of,
    named_choice,
    text_of,
    texts_of,
)
from train.evaluate.types import Item, Response

CHOICES = ("Man", "Woman", "A child", "Woman and child")


def item(answer: str, choices: tuple[str, ...] = CHOICES) -> Item:
    return Item(sample_id="a", question="?", choices=choices, answer=answer)


def said(answer: str, finish: str = "stop") -> Response:
    return Response(sample_id="a", text=answer, answer=answer, num_tokens=1, finish=finish)


TABLE = [  # the answer is Woman: what is said, what is understood
    ("Woman", "Woman"),
    ("woman.", "Woman"),
    ("**Woman**", "Woman"),
    ("(B) Woman", "Woman"),
    ("B", "Woman"),
    ("(b)", "Woman"),
    ("The answer is Woman", "Woman"),
    ("Answer: B.", "Woman"),
    ("Man", "Man"),
    ("A", "Man"),
    ("Woman and child", "Woman and child"),
    ("Woman or Man", ""),
    ("A or B", ""),
    ("not Woman", ""),
    ("a Woman", ""),
    ("Wom", ""),
    ("child", ""),
    ("E", ""),
    ("", ""),
    ("  ", ""),
    ("?", ""),
    ("\uff37oman", ""),  # a letter of another width is another letter
]


@pytest.mark.parametrize(("text", "named"), TABLE)
def test_one_choice_by_hand(text: str, named: str) -> None:
    verdict = judge_strict(item("Woman"), said(text))
    assert verdict.counted
    assert (verdict.predicted, verdict.value) == (named, float(named == "Woman"))


LETTERED = ("A. G", "B. A", "C. cat", "D. dog")

LETTERED_TABLE = [  # letters are printed: a letter is a letter, and must fit the text beside it
    ("A", "G"),
    ("(a)", "G"),
    ("A.", "G"),
    ("B", "A"),
    ("G", "G"),
    ("C. cat", "cat"),
    ("c) Cat", "cat"),
    ("cat", "cat"),
    ("The answer is C.", "cat"),
    ("Option D", "dog"),
    ("C. dog", ""),
    ("C or D", ""),
    ("E", ""),
    ("C, cat", ""),
    ("", ""),
]


@pytest.mark.parametrize(("text", "named"), LETTERED_TABLE)
def test_printed_letters_by_hand(text: str, named: str) -> None:
    assert named_choice(text, LETTERED) == named


def test_a_letter_that_no_choice_has_beside_it() -> None:
    without_c = ("A. dog", "B. cat", "D. hen")
    assert labels_of(without_c) == ("A", "B", "D")
    assert named_choice("D", without_c) == "hen"
    assert named_choice("C", without_c) == ""


@pytest.mark.parametrize(
    "choices",
    [("A:7/1", "B:7/1"), ("B. x", "A. y"), ("A. x", "y"), ("C. x", "D. y"), ("A.x", "B.y"), ()],
)
def test_what_only_looks_like_printed_letters(choices: tuple[str, ...]) -> None:
    assert labels_of(choices) == ()
    assert texts_of(choices) == choices


def test_choices_of_one_text_are_one_choice() -> None:
    twice = ("one", "ten", "fifteen", "fifteen")
    assert judge_strict(item("fifteen", twice), said("fifteen")).value == 1
    assert judge_strict(item("fifteen", twice), said("15")).value == 1
    assert judge_strict(item("fifteen", twice), said("C")).value == 1
    assert judge_strict(item("fifteen", twice), said("ten")).value == 0


def test_numbers_are_equal_in_digits_and_words() -> None:
    assert judge_strict(item("two", ("one", "two")), said("2")).value == 1
    assert judge_strict(item("two", ("one", "two")), said("1 or 2")).value == 0


def test_without_choices_the_answer_itself() -> None:
    assert judge_strict(item("no", ()), said("No.")).value == 1
    assert judge_strict(item("7", ()), said("seven")).value == 1
    assert judge_strict(item("no", ()), said("no, it is")).value == 0
    assert judge_strict(item("no", ()), said("")).value == 0


def test_missing_is_wrong_and_withheld_is_not_counted() -> None:
    for response in (said("", "stop"), said("", "length"), said("Woman", "error")):
        verdict = judge_strict(item("Woman"), response)
        assert (verdict.value, verdict.counted, verdict.predicted) == (0, True, "")
    assert not judge_strict(item(""), said("Woman")).counted


def test_the_text_around_an_answer_that_was_not_found_is_not_read() -> None:
    cut = Response(sample_id="a", text="Woman", answer="", num_tokens=9, finish="length")
    assert judge_strict(item("Woman"), cut).value == 0


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=5, unique=True), st.text())
def test_at_most_one_text_is_understood_whatever_is_said(choices: list[str], text: str) -> None:
    named = named_choice(text, choices)
    assert named in ("", *texts_of(choices))
    right = [c for c in choices if judge_strict(item(c, tuple(choices)), said(text)).value]
    assert len({normalize_answer(text_of(c, choices)) for c in right}) <= bool(named)


def test_every_benchmark_has_both_rules_and_a_missing_answer_is_wrong_in_strict() -> None:
    assert {name: [rule.name for rule in b.rules] for name, b in BENCHMARKS.items()} == {
        name: ["official", "strict"] for name in BENCHMARKS
    }
    for name, benchmark in BENCHMARKS.items():
        asked = Item(
            sample_id="a",
            question="?",
            choices=() if name in ("asr", "big_bench_audio") else ("yes", "no"),
            answer="yes",
            groups={"category": "navigate"},
        )
        official, strict = (
            rule.judge(asked, Response(sample_id="a", text="", num_tokens=0, finish="error"))
            for rule in benchmark.rules
        )
        assert official.counted == (name == "mmsu"), name  # whose script reads it as nothing said
        assert strict.counted, name
        assert strict.value == (1 if name == "asr" else 0), name  # all words are missing
        assert all(rule.source for rule in benchmark.rules)
