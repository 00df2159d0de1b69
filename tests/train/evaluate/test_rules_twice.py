"""MMAU-Pro's rules against a second reading of the published script (``mmau_pro_again``).

The figures in ``TRAPS`` were worked out by hand from ``evaluate_aif_sample`` of
github.com/sonalkum/MMAUPro, evaluate_mmau_pro_comprehensive.py at 960e93a415e2. That function
itself, run over them and over 12,000 drawn responses to every task when this was written, said the
same as the rule and as the second reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmau_pro_again import COUNTS, QUESTION, second

from train.evaluate.rules import mmau_pro
from train.evaluate.rules.instructions import CHECKS, NEEDS_NLTK, constraint_text
from train.evaluate.types import Item, Response


def told_item(task: str, told: Mapping[str, Any]) -> Item:
    answer = constraint_text(task, told, QUESTION)
    groups = {"category": "instruction following"}
    return Item(sample_id="a", question="?", answer=answer, groups=groups)


def official(asked: Item, text: str) -> float | None:
    """What the rule says of a response, ``None`` where it is not counted."""
    verdict = mmau_pro.judge_official(
        asked, Response(sample_id="a", text=text, num_tokens=1, finish="stop")
    )
    return verdict.value if verdict.counted else None


FREQUENT, SPLIT = {"keyword": "C++", "N": 1}, {"N": 2, "section_splitter": " -"}
TRAPS: list[tuple[str, dict[str, Any], str, int]] = [
    ("Include Keywords", {}, "", 1),  # the keyword '' is in everything
    ("Include Keywords", {"keywords": "a,b"}, "a and b", 0),  # apart only by comma and space
    ("Include Keywords", {"keywords": "dog, "}, "hotdogs", 1),
    ("Include Keywords", {"keywords": "stra\u00dfe"}, "STRASSE", 0),  # lower case, not folded
    ("Forbidden Words", {}, "", 0),
    ("Forbidden Words", {"forbidden_words": "I"}, "\u0130", 0),  # in lower case: i and a dot
    ("Keyword Frequency", FREQUENT, "I like C++ a lot", 0),  # a word must begin behind '+'
    ("Keyword Frequency", FREQUENT, "C++11", 1),
    ("Keyword Frequency", {"keyword": "cat", "N": 1}, "cat_1 cat's", 1),
    ("Keyword Frequency", {"keyword": "cat", "N": 1}, "\u732bcat", 0),  # a letter all the same
    ("Keyword Frequency", {"keyword": "", "N": 4}, "two words", 1),  # both edges of both
    ("Keyword Frequency", {"keyword": "a a", "N": 1}, "a a a", 1),  # never overlapping
    ("Number Paragraphs", {"N": 0}, " *** \n", 1),
    ("Number Paragraphs", {"N": 2}, "a****b", 1),  # the second is '*b'
    ("Number Words (at least)", {}, "", 1),
    ("Number Words (at most)", {"N": 1}, "a\u200bb", 1),  # no white space
    ("Number Words (range)", {"N1": 2}, "a\u00a0b", 1),
    ("Number Words (range)", {"N1": 2}, "a " * 999, 1),
    ("Number Words (range)", {"N1": 2}, "a " * 1000, 0),  # the most where none is told: 999
    ("Number Words (at least)", {"N": 1.5}, "a", 0),
    ("Postscript", {"postscript_marker": "P.S."}, "two lamps", 1),
    ("Postscript", {"postscript_marker": "P.S."}, "\uff30\uff33", 0),  # of wide letters none
    ("Postscript", {"postscript_marker": "..."}, "", 1),
    ("Number Placeholder", {"N": 1}, "[[]", 1),
    ("Number Placeholder", {"N": 1}, "[]]", 0),
    ("Number Placeholder", {"N": 2}, "[a\nb][ ]", 1),
    ("Number Bullets", {"N": 2}, "* a\n* b", 1),
    ("Number Bullets", {"N": 2}, "* \n* b", 0),  # the first takes the line's end
    ("Number Bullets", {"N": 1}, "a\n\n \t*\nb", 1),
    ("Number Bullets", {"N": 1}, "a\n*", 0),
    ("Number Bullets", {"N": 1}, "a\r* b", 0),  # no line ends there
    ("Title", {}, "<<<>>", 1),
    ("Title", {}, "<<a>b>>", 0),
    ("Title", {}, "<<\n>>>", 1),
    ("Minimum Number Highlighted Section", {"N": 1}, "* a\n* b", 1),  # bullets are stars too
    ("Minimum Number Highlighted Section", {"N": 2}, "*a*b*", 0),
    ("Minimum Number Highlighted Section", {"N": 1}, "****", 0),
    ("Multiple Sections", {"N": 2}, " a b ", 1),  # no splitter: every letter is a section
    ("Multiple Sections", SPLIT, "a - -", 1),  # the white is taken, so '-' splits nothing
    ("Multiple Sections", SPLIT, "a -b", 1),
    ("Multiple Sections", {"N": 1, "section_splitter": "."}, "ab", 1),  # a point, no pattern
    ("Multiple Sections", {"N": 1, "section_splitter": "- "}, "- ", 1),  # '-' once it is stripped
    ("Repeat Prompt", {}, "\n say the dog's name, twice", 1),
    ("Repeat Prompt", {}, "SAY THE DOG'S NAME, TWICEx", 1),
    ("Repeat Prompt", {}, '"Say the dog\'s name, twice"', 0),
    ("Two Responses", {}, "******", 0),
    ("Two Responses", {}, "a ******", 1),  # the other is empty
    ("Two Responses", {}, "a*******a", 1),  # seven: the second is '*a'
    ("Two Responses", {}, "a************b", 0),  # twelve: three
    ("All Uppercase", {}, "\u01c5", 0),  # neither
    ("All Uppercase", {}, "A \u4e2d 1", 1),
    ("All Lowercase", {}, "\u00aa", 1),
    ("All-capital Words (at least)", {"N": 1}, "I am", 1),
    ("All-capital Words (at most)", {"N": 0}, "A1 b", 0),
    ("All-capital Words (range)", {"N1": 1, "N2": 1}, "U.S. 12 --", 1),
    ("Start Checker", {"start_phrase": "Well, then"}, " Well then", 0),  # spaces stay
    ("Start Checker", {"start_phrase": "Well, then"}, "1. Well then", 0),
    ("Start Checker", {"start_phrase": "Well, then"}, "Well,\nthen", 0),
    ("Start Checker", {"start_phrase": "\u597d"}, "no", 1),  # nothing is left of it
    ("End Checker", {"end_phrase": "The end."}, "The end. \n", 0),
    ("End Checker", {"end_phrase": "The end."}, "Legend: the end\n!?", 1),
    ("Quotation", {}, "", 0),
    ("Quotation", {}, '"', 1),
    ("Quotation", {}, "\u201ca\u201d", 0),
    ("No Commas", {}, "a\u3001b\uff0c1\u060c", 1),
    ("No Commas", {}, '{"a": 1, "b": 2}', 0),
]  # fmt: skip


@pytest.mark.parametrize(("task", "told", "text", "value"), TRAPS)
def test_traps_of_the_script(task: str, told: dict[str, Any], text: str, value: int) -> None:
    assert official(told_item(task, told), text) == value
    assert second(task, told, text) == bool(value)


SCRAPS = (
    *"  \n\n\t\u00a0\u2028\x1c\u200b**-[]>\"',.\\{_07\u0663\u00b2Ia\u00e9\u0301\u00df\u017f",
    *"\u212a\u0130\u03a3\u03c3\u01c5\u00aa\u732b",
    *("* ", "\n* ", "***", "******", "[a]", "<<", ">>", ", ", "dog", "Dog", "DOG", "the end"),
    *("P.S.", "ps", QUESTION, QUESTION.upper()),
)
SCRAP = st.sampled_from(SCRAPS)
AROUND = st.sampled_from((("", ""), ("", ""), ('"', '"'), ("<<", ">>"), (" ", "\n")))
TEXT = st.lists(SCRAP | st.characters(), max_size=12).map("".join)
PHRASE = st.lists(SCRAP, max_size=3).map("".join)
PHRASES = ("keyword", "keywords", "forbidden_words", "postscript_marker", "section_splitter",
           "start_phrase", "end_phrase")  # fmt: skip
JUDGED = sorted(task for task in CHECKS if not task.startswith(NEEDS_NLTK))


@given(phrase=PHRASE, text=TEXT, around=AROUND, data=st.data())
def test_instructions_twice(
    phrase: str, text: str, around: tuple[str, str], data: st.DataObject
) -> None:
    text = text.join(
        data.draw(st.sampled_from((("", ""), ("", phrase), (phrase, ""), (phrase,) * 2)))
    )
    text = text.join(around)
    known = data.draw(st.sets(st.sampled_from((*PHRASES, "N", "N1", "N2")), min_size=6))
    beside = data.draw(st.sampled_from((-1, 0, 0, 1)))  # numbers near what is there
    for task in JUDGED:
        told: dict[str, Any] = {name: phrase for name in PHRASES if name in known}
        near = COUNTS.get(task.partition(" (")[0], lambda *_: 0)(text, told) + beside
        told |= {name: near for name in ("N", "N1", "N2") if name in known}
        right = official(told_item(task, told), text)
        assert right == second(task, told, text), task


def test_an_instruction_is_what_the_table_calls_it() -> None:
    """The script looks at its own columns whatever the settings hold; names are whole."""
    told = {"task": "All Uppercase", "question": "B", "N": None}
    assert official(told_item("No Commas", told), "a") == 1
    assert official(told_item("Repeat Prompt", told), QUESTION) == 1
    assert official(told_item("Number Sentences", told), "A. B.") == 0
    assert official(told_item("no commas", {}), "a") == 0


CHOICE = st.sampled_from(("dog", "Dog", "dog.", "a dog", "", "d\u00f6g", "do\u0308g", "dog\n"))


@given(choices=st.lists(CHOICE, max_size=4), right=CHOICE, text=CHOICE)
def test_choices_twice(choices: list[str], right: str, text: str) -> None:
    """Among two or more, the one of exactly these letters is the nearest; else nobody knows."""
    groups = {"category": "sound"}
    asked = Item(sample_id="a", question="?", choices=tuple(choices), answer=right, groups=groups)
    nearest = [choice for choice in choices if list(choice) == list(text)]
    expected = float(nearest[0] == right) if nearest and choices[1:] else None
    assert official(asked, text) == expected
