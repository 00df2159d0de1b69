"""Rules of which a part needs a model, of emotions, and of transcripts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.evaluate.measures import WORD_ERROR_RATE
from train.evaluate.rules import big_bench, emotions, mmau_pro, own, transcripts
from train.evaluate.rules.instructions import (
    CHECKS,
    NEEDS_NLTK,
    constraint_of,
    constraint_text,
    count_sentences,
    fulfils,
)
from train.evaluate.types import Item, Response


def said(answer: str, text: str | None = None, finish: str = "stop") -> Response:
    text = answer if text is None else text
    return Response(sample_id="a", text=text, answer=answer, num_tokens=1, finish=finish)


def item(answer: str, *choices: str, **groups: str) -> Item:
    return Item(sample_id="a", question="?", choices=choices, answer=answer, groups=groups)


def told(task: str, **settings: object) -> Item:
    answer = constraint_text(task, settings, "Say it again")
    return item(answer, category="instruction following")


# MMAU-Pro: task, its settings, responses that fulfil it, responses that do not (by hand, after
# evaluate_aif_sample of evaluate_mmau_pro_comprehensive.py at 960e93a415e2).
INSTRUCTIONS = [
    ("Include Keywords", {"keywords": "dog, Cat"}, ["a CAT and dogs"], ["dog", ""]),
    ("Keyword Frequency", {"keyword": "cat", "N": 2}, ["Cat cat"], ["cat cats", "cat"]),
    ("Forbidden Words", {"forbidden_words": "dog, cat"}, ["hen", ""], ["Dogs", "concat"]),
    ("Number Paragraphs", {"N": 2}, ["a *** b", "a***b***"], ["a\n\nb", "***"]),
    ("Number Words (at least)", {"N": 2}, ["a b", "a b c"], ["ab"]),
    ("Number Words (at most)", {"N": 2}, ["a b", ""], ["a b c"]),
    ("Number Words (range)", {"N1": 1, "N2": 2}, ["a", "a b"], ["", "a b c"]),
    ("Postscript", {"postscript_marker": "P.S."}, ["bye. ps: x", "keeps on"], ["p"]),
    ("Number Placeholder", {"N": 2}, ["[a] [b]", "[a][b][c]"], ["[a]", "[] []"]),
    ("Number Bullets", {"N": 2}, ["* a\n* b"], ["- a\n- b", "* a", "*a\n*b"]),
    ("Title", {}, ["<<T>> x"], ["<T>", "<<>>"]),
    ("Minimum Number Highlighted Section", {"N": 1}, ["*a*", "**b**"], ["* a", "a"]),
    ("Multiple Sections", {"N": 2, "section_splitter": "***"}, ["a *** b"], ["a", "a***b***c"]),
    ("Repeat Prompt", {}, ["say it AGAIN. ok", " Say it again"], ["Again", ""]),
    ("Two Responses", {}, ["a ****** b"], ["a ****** A", "a", "a******b******c"]),
    ("All Uppercase", {}, ["ABC 1"], ["ABc", "1", ""]),
    ("All Lowercase", {}, ["abc 1"], ["abC", ""]),
    ("All-capital Words (at least)", {"N": 1}, ["the DOG"], ["the Dog"]),
    ("All-capital Words (at most)", {"N": 1}, ["the DOG", ""], ["A DOG"]),
    ("All-capital Words (range)", {"N1": 1, "N2": 1}, ["the DOG"], ["the", "A DOG"]),
    ("Start Checker", {"start_phrase": "Well, then"}, ["well then! go"], ["so well then"]),
    ("End Checker", {"end_phrase": "the end."}, ["it is The End"], ["the end is"]),
    ("Quotation", {}, [' "a" ', '"'], ['"a', "'a'"]),
    ("No Commas", {}, ["a; b", ""], ["a, b"]),
]


@pytest.mark.parametrize(("task", "settings", "good", "bad"), INSTRUCTIONS)
def test_instructions_by_hand(
    task: str, settings: dict[str, object], good: list[str], bad: list[str]
) -> None:
    asked = told(task, **settings)
    for text, value in [(text, 1) for text in good] + [(text, 0) for text in bad]:
        assert fulfils(text, constraint_of(asked.answer)) == bool(value), text
        assert mmau_pro.judge_official(asked, said(text)).value == value
        # Strict: the same, but nothing said fulfils nothing.
        assert mmau_pro.judge_strictly(asked, said(text)).value == (value if text else 0)


def test_every_instruction_was_tried() -> None:
    tried = {task for task, *_ in INSTRUCTIONS}
    assert {task for task in CHECKS if not task.startswith(NEEDS_NLTK)} == tried


def test_sentences_are_counted_in_strict_only() -> None:
    asked = told("Number Sentences (at most)", N=2)
    assert not mmau_pro.judge_official(asked, said("One. Two.")).counted
    assert mmau_pro.judge_strictly(asked, said("One. Two!")).value == 1
    assert mmau_pro.judge_strictly(asked, said("One. Two. Three")).value == 0
    assert [count_sentences(t) for t in ("", "a", "a. b", "It is 3.5 m.", 'He said "no." So?')] == [
        0, 1, 2, 1, 2,
    ]  # fmt: skip


def test_an_instruction_nobody_knows() -> None:
    assert mmau_pro.judge_official(told("Sing"), said("la")).value == 0
    assert not mmau_pro.judge_official(
        item("?", category="instruction following"), said("a")
    ).counted
    assert json.loads(constraint_text("Title", {"N": None}, "q")) == {
        "task": "Title",
        "question": "q",
    }


def test_choices_of_mmau_pro_without_its_embeddings() -> None:
    asked = item("dog", "dog", "cat", category="sound")
    known = [(t, mmau_pro.judge_official(asked, said(t))) for t in ("dog", "cat", "Dog", "", "B")]
    assert [(t, v.value if v.counted else None) for t, v in known] == [
        ("dog", 1), ("cat", 0), ("Dog", None), ("", None), ("B", None),
    ]  # fmt: skip
    strict = [mmau_pro.judge_strictly(asked, said(t)).value for t in ("dog", "cat", "Dog", "", "A")]
    assert strict == [1, 0, 1, 0, 1]
    for judge in (mmau_pro.judge_official, mmau_pro.judge_strictly):
        assert not judge(item("it barks", category="open"), said("it barks")).counted
        assert not judge(item("dog", "dog", category="sound"), said("dog")).counted


@pytest.mark.parametrize(
    ("category", "right", "text", "official", "strict"),
    [
        ("formal_fallacies", "invalid", "invalid", 1, 1),
        ("formal_fallacies", "invalid", "Invalid.", 1, 1),
        ("formal_fallacies", "invalid", "valid", 0, 0),
        ("formal_fallacies", "invalid", "The argument is invalid", None, 0),
        ("formal_fallacies", "valid", "The answer is valid", 1, 1),
        ("formal_fallacies", "valid", "A", None, 0),  # no letters were given
        ("navigate", "Yes", "yes", 1, 1),
        ("navigate", "Yes", "Yes, you do", None, 0),
        ("navigate", "No", "yes", 0, 0),
        ("web_of_lies", "No", "no", 1, 1),
        ("web_of_lies", "No", "", None, 0),
        ("object_counting", "18", "18", 1, 1),
        ("object_counting", "18", "eighteen", 1, 1),
        ("object_counting", "18", "17", 0, 0),
        ("object_counting", "18", "You have 18 fruits", None, 0),
        ("object_counting", "18", "17 or 18", None, 0),
    ],
)
def test_big_bench_audio_by_hand(
    category: str, right: str, text: str, official: int | None, strict: int
) -> None:
    """The published judge is a model: counted is what it could not read in two ways."""
    asked = item(right, category=category)
    verdict = big_bench.judge_official(asked, said(text))
    assert (verdict.value if verdict.counted else None) == official
    assert big_bench.judge_strictly(asked, said(text)).value == strict


def test_emotions_letter_by_letter() -> None:
    asked = item("joy", "joy", "anger")
    cases = {"joy": 1, " joy\n": 1, "Joy": 0, "joy.": 0, "happiness": 0, "anger": 0, "": 0}
    for text, value in cases.items():
        verdict = emotions.judge_exact(asked, said(text))
        assert (verdict.value, verdict.predicted) == (value, text.strip())
        assert verdict.counted
    assert not emotions.judge_exact(asked, said("", finish="error")).counted


def test_own_data_is_judged_as_traces_are() -> None:
    assert own.judge_auto(item("no", "yes", "no"), said("b")).value == 1
    assert own.judge_auto(item("no", "yes", "no"), said("B")).predicted == "no"
    assert own.judge_auto(item("7"), said("", "seven")).value == 1  # all of the text
    assert own.judge_auto(item("7"), said("")).value == 0
    assert not own.judge_auto(item(""), said("x")).counted
    assert not own.judge_auto(item("maybe", "yes", "no"), said("x", finish="error")).counted


WER_TABLE = [  # reference, what was heard, errors, words; counted by hand after normalising
    ("The dog barks.", "the dog barks", 0, 3),
    ("the dog barks", "The cat, barks", 1, 3),
    ("the dog barks", "", 3, 3),
    ("the dog", "a the dog barks loudly", 3, 2),  # insertions: more than all of it
    ("twenty one dogs", "21 dogs", 0, 2),
    ("it's 5 dollars", "it is $5", 0, 3),  # contractions, numbers and currencies are unified
    ("um the dog", "the uh dog", 0, 2),  # fillers are dropped
    ("caf\u00e9 au lait", "cafe au lait", 0, 3),
    ("[laughs] hello", "hello", 0, 1),
]


@pytest.mark.parametrize(("reference", "heard", "errors", "words"), WER_TABLE)
def test_word_errors_by_hand(reference: str, heard: str, errors: int, words: int) -> None:
    for rule in (transcripts.OFFICIAL, transcripts.STRICT):
        verdict = rule.judge(item(reference), said(heard))
        assert verdict.weight == words
        assert verdict.value == pytest.approx(errors / words)


def test_languages_have_their_own_normaliser() -> None:
    french = item("vingt et un caf\u00e9s", language="fr")
    assert transcripts.judge_strictly(french, said("21 caf\u00e9s")).value == 3 / 4
    chinese = item("\u4f60\u597d\u5417", language="zh-CN")
    assert transcripts.judge_strictly(chinese, said("\u4f60\u597d")).value == pytest.approx(1 / 3)
    assert transcripts.judge_strictly(item("two", language="en_GB"), said("2")).value == 0


def test_transcripts_that_are_missing() -> None:
    asked = item("one word more")
    assert transcripts.judge_strictly(asked, said("", "one word more")).value == 1
    assert transcripts.judge_official(asked, said("", "one word more")).value == 0
    assert transcripts.judge_strictly(asked, said("x", finish="error")).value == 1
    assert not transcripts.judge_official(asked, said("x", finish="error")).counted
    for judge in (transcripts.judge_official, transcripts.judge_strictly):
        assert not judge(item("[noise]"), said("hello")).counted


def edits(reference: list[str], heard: list[str]) -> int:
    """Levenshtein's distance over words, row by row: nothing of jiwer's."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], number
        for at, other in enumerate(heard, 1):
            best = min(row[at] + 1, row[at - 1] + 1, diagonal + (word != other))
            diagonal, row[at] = row[at], best
    return row[-1]


words = st.lists(st.sampled_from(("dog", "cat", "hen", "cow")), max_size=6)


@given(st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=4))
def test_word_error_rate_twice(pairs: list[tuple[list[str], list[str]]]) -> None:
    verdicts = [
        transcripts.judge_strictly(item(" ".join(said_words)), said(" ".join(heard)))
        for said_words, heard in pairs
    ]
    wrong = sum(edits(said_words, heard) for said_words, heard in pairs)
    total = sum(len(said_words) for said_words, _ in pairs)
    assert WORD_ERROR_RATE.compute(verdicts) == pytest.approx(wrong / total)
