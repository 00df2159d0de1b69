"""Published rules against a second reading of each script, written another way.

The expected figures in the tables were read off the scripts named in the rules' ``source`` by hand;
the same scripts, run over these and random answers when this was written, said the same.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.evaluate.benchmarks.lettered import lettered
from train.evaluate.rules.letters import (
    AIR_BENCH_OFFICIAL,
    MMSU_OFFICIAL,
    judge_air_bench,
    judge_mmsu,
)
from train.evaluate.rules.token_sets import MMAR_OFFICIAL, MMAU_OFFICIAL, judge_words, matches
from train.evaluate.types import Item, Response

WORDS = (
    "dog",
    "cat",
    "the dog",
    "a cat",
    "barking dog",
    "Dog-house",
    "caf\u00e9",
    "x_1",
    "7",
    "no",
)


def item(answer: str, *choices: str) -> Item:
    return Item(sample_id="a", question="?", choices=choices, answer=answer)


def said(text: str, answer: str | None = None, finish: str = "stop") -> Response:
    answer = text if answer is None else answer
    return Response(sample_id="a", text=text, answer=answer, num_tokens=1, finish=finish)


def words_by_letter(text: str) -> list[str]:
    """The words of a text, found letter by letter; nothing here is shared with the rule."""
    words, word = [], ""
    for letter in text.lower() + " ":
        if letter.isalnum() or letter == "_":
            word += letter
        elif word:
            words.append(word)
            word = ""
    return words


def second_mmau(answer: str, prediction: str, choices: tuple[str, ...]) -> bool:
    given_words, wanted = words_by_letter(prediction), words_by_letter(answer)
    if not given_words or any(word not in given_words for word in wanted):
        return False
    for choice in choices:
        for word in words_by_letter(choice):
            if word not in wanted and word in given_words:
                return False
    return True


MMAU_TABLE = [  # choices Man, Woman, A child; the answer is Woman
    ("Woman", 1),
    ("woman", 1),
    ("WOMAN.", 1),
    ("(B) Woman", 1),  # b is in no choice
    ("(A) Woman", 0),  # 'a' is a word of 'A child'
    ("B", 0),
    ("The answer is Woman", 1),
    ("I hear a woman", 0),  # the article again
    ("not Woman", 1),  # a set of words knows no negation
    ("Man or Woman", 0),
    ("Woman, not Man", 0),
    ("Women", 0),
    ("Woman_", 0),  # the underscore is part of a word
    ("", 0),
    ("...", 0),
    ("\u00e9\u00e9 Woman", 1),
    ("Wo\u0301man", 0),  # a combining accent cuts the word
]


@pytest.mark.parametrize(("text", "value"), MMAU_TABLE)
def test_mmau_by_hand(text: str, value: int) -> None:
    verdict = judge_words(item("Woman", "Man", "Woman", "A child"), said(text))
    assert (verdict.value, verdict.counted) == (value, True)
    assert (verdict.predicted == "Woman") == bool(value)
    assert second_mmau("Woman", text, ("Man", "Woman", "A child")) == bool(value)


def test_mmau_choices_inside_each_other() -> None:
    inside = ("dog", "barking dog", "no dog")
    # Wrong: every word of 'dog' is in the prediction, and 'barking' is of a wrong choice only.
    assert not matches("dog", "barking dog", inside)
    # The longer answer has the shorter choice's words, so the shorter one cannot contradict it.
    assert matches("barking dog", "barking dog", inside)
    assert not matches("barking dog", "dog", inside)
    # Words of the answer in another order are the answer.
    assert matches("C major", "major C", ("C major", "A minor"))
    # A choice of the same words is no wrong one.
    assert matches("one two", "two one", ("one two", "two one"))


def test_mmau_predicted_is_the_only_other_choice_that_would_be_right() -> None:
    asked = item("Woman", "Man", "Woman", "A child")
    assert judge_words(asked, said("a man's voice")).predicted == ""
    assert judge_words(asked, said("man")).predicted == "Man"
    assert judge_words(asked, said("?")).predicted == ""


def test_mmau_reads_the_answer_or_else_all_of_the_text() -> None:
    asked = item("Woman", "Man", "Woman")
    trace = "<THINK> Man? No. </THINK><RESPONSE>Woman</RESPONSE>"
    assert judge_words(asked, said(trace, "Woman")).value == 1
    assert judge_words(asked, said("it is a Woman", "")).value == 1
    assert judge_words(asked, said(trace, "")).value == 0


def test_mmau_skips_what_was_never_made_and_what_is_withheld() -> None:
    assert not judge_words(item("Woman", "Man", "Woman"), said("", finish="error")).counted
    assert not judge_words(item("", "Man", "Woman"), said("Woman")).counted
    assert judge_words(item("Woman", "Man", "Woman"), said("")).counted
    for rule, name in ((MMAU_OFFICIAL, "Sakshi113/MMAU"), (MMAR_OFFICIAL, "ddlBoJack/MMAR")):
        assert rule.name == "official"
        assert name in rule.source
        assert "skipped" in rule.source


texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join) | st.text(max_size=12)


@given(st.lists(texts, min_size=1, max_size=5), texts, st.integers(0, 4))
def test_mmau_twice(choices: list[str], prediction: str, right: int) -> None:
    answer = choices[right % len(choices)]
    expected = second_mmau(answer, prediction, tuple(choices))
    assert matches(answer, prediction, choices) == expected
    if answer:
        verdict = judge_words(item(answer, *choices), said(prediction))
        assert verdict.value == expected


def by_letter(right: str, *texts: str) -> Item:
    row = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), texts, strict=False))
    choices, answer = lettered({**row, "answer_gt": right})
    return item(answer, *choices)


LETTER_TABLE = [  # four choices, B is right: (text, MMSU, AIR-Bench); None is not counted
    ("B", 1, 1),
    ("B.", 1, 1),
    ("B. cat", 1, 1),
    ("b", None, None),  # lower case, one character: another form
    ("(B)", 1, 1),  # the last character but one
    ("(A) dog", None, None),
    ("The answer is B.", 1, 1),
    ("The answer is B", None, None),
    ("the answer is b.", None, None),
    ("A or B", 0, 0),
    ("Based on the audio it is A.", 1, 1),  # 'Based' begins with B
    ("Dog", 0, 0),  # begins with D
    ("cat", None, None),
    ("", 0, None),  # MMSU counts nothing said as wrong, AIR-Bench leaves it out
    ("None", 0, None),
    ("\nB\n", 1, 1),
    ("A\nB", 0, 0),
    ("\u00c4pfel", None, None),
    ("E", None, None),
    ("xB!", 1, 1),
]


@pytest.mark.parametrize(("text", "mmsu", "air"), LETTER_TABLE)
def test_letters_by_hand(text: str, mmsu: int | None, air: int | None) -> None:
    asked = by_letter("cat", "dog", "cat", "cow", "hen")
    for judge, expected in ((judge_mmsu, mmsu), (judge_air_bench, air)):
        verdict = judge(asked, said(text))
        assert (verdict.value if verdict.counted else None) == expected
    unmade = judge_mmsu(asked, said(text, finish="error"))  # record.get("response", "")
    assert unmade.counted
    assert unmade.value == 0
    assert not judge_air_bench(asked, said(text, finish="error")).counted


def second_letters(choices: dict[str, str], right: str, text: str, air: bool) -> bool | None:
    """Follow the scripts line by line, returning ``None`` where they go on to the next record."""
    predict = "".join(part for part in text.strip().split("\n"))
    named = None
    if predict not in ("None", ""):
        for place in (0, -2):
            if len(predict) >= (1 if place == 0 else 2) and predict[place] in "ABCD":
                named = predict[place]
                break
        if named is None:
            return None
    elif air:
        return None
    if air:
        return named == next(letter for letter in "ABCD" if choices.get(letter) == right)
    return named is not None and choices.get(named) == right


@given(
    st.lists(st.sampled_from(("dog", "cat", "A", "B", "D. x")), min_size=2, max_size=4),
    st.integers(0, 3),
    st.text("ABCDEab .()\n\u00c4", max_size=8) | st.sampled_from(("None", "The answer is A.")),
)
def test_letters_twice(choices: list[str], right: int, text: str) -> None:
    answer = choices[right % len(choices)]
    asked = by_letter(answer, *choices)
    named = dict(zip("ABCD", choices, strict=False))
    for judge, air in ((judge_mmsu, False), (judge_air_bench, True)):
        verdict = judge(asked, said(text))
        assert (bool(verdict.value) if verdict.counted else None) == second_letters(
            named, answer, text, air
        )


def test_letters_of_a_choice_given_twice() -> None:
    twice = by_letter("cat", "dog", "cat", "cat")
    assert [judge_mmsu(twice, said(letter)).value for letter in "ABCD"] == [0, 1, 1, 0]
    assert [judge_air_bench(twice, said(letter)).value for letter in "ABCD"] == [0, 1, 0, 0]


def test_letters_say_where_they_come_from() -> None:
    assert "dingdongwang/MMSU" in MMSU_OFFICIAL.source
    assert "OFA-Sys/AIR-Bench" in AIR_BENCH_OFFICIAL.source
    assert "gpt-3.5-turbo" in AIR_BENCH_OFFICIAL.source
