"""Big Bench Audio's labels and numbers against a second reading of what ``official`` promises.

Counted is only an answer on which the published judge (a model; its prompt is in
github.com/huggingface/blog, big-bench-audio-release.md at 110f24815a21) could not differ: a bare
label or number. The second reading knows the numbers to 130 by a list of how each is written.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.evaluate.rules import big_bench
from train.evaluate.types import Item, Response

LABELS = {
    "formal_fallacies": ["valid", "invalid"],
    "navigate": ["yes", "no"],
    "web_of_lies": ["yes", "no"],
    "object_counting": [],
}
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
        "nineteen"]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spellings(number: int) -> list[str]:
    """How a number is written, in lower case."""
    ways = [f"{number}", f"{number}.0", f"{number:03}", f"+{number}", f"{number}/1"]
    over, ones = divmod(number, 100)
    tens, left = divmod(ones, 10)
    small = [ONES[ones]] if ones < 20 else [TENS[tens]]
    if ones > 20 and left:
        small = [f"{TENS[tens]}{between}{ONES[left]}" for between in (" ", "-")]
    if not over:
        return ways + small
    hundreds = [f"{before} hundred" for before in ("one", "a")]
    if not ones:
        return ways + hundreds
    return ways + [f"{h}{joint}{s}" for h in hundreds for joint in (" ", " and ") for s in small]


NUMBERS = {way: number for number in range(131) for way in spellings(number)}
LEADS = ("the answer is ", "answer: ", "so the final answer is: ", "the correct answer is ")
QUOTES = " \n\"'`*("
ENDS = " \n\"'`*)!?.,:;"


def second(category: str, right: str, answer: str) -> float | None:
    """What ``official`` says of an answer, ``None`` where it does not count it."""
    kept = " ".join(answer.lower().split())
    for lead in LEADS:
        if kept.startswith(lead):
            kept = kept[len(lead) :]
            break
    kept = kept.lstrip(QUOTES).rstrip(ENDS)
    if LABELS[category]:
        return float(kept == right.lower()) if kept in LABELS[category] else None
    return float(NUMBERS[kept] == int(right)) if kept in NUMBERS else None


def official(category: str, right: str, answer: str) -> float | None:
    asked = Item(sample_id="a", question="?", answer=right, groups={"category": category})
    response = Response(sample_id="a", text=answer, num_tokens=1, finish="stop")
    verdict = big_bench.judge_official(asked, response)
    return verdict.value if verdict.counted else None


TABLE = [  # category, right answer, answer, official, strict
    ("formal_fallacies", "invalid", "**Invalid**", 1, 1),
    ("formal_fallacies", "invalid", "not valid", None, 0),
    ("formal_fallacies", "invalid", "in-valid", None, 0),
    ("formal_fallacies", "invalid", "The answer is B", None, 0),  # no letters were given
    ("formal_fallacies", "invalid", "(B) invalid", None, 0),
    ("formal_fallacies", "valid", "Option A", None, 0),
    ("formal_fallacies", "valid", "valid or invalid", None, 0),
    ("navigate", "No", "(y) no", None, 0),  # says both
    ("navigate", "No", "No. Yes.", None, 0),
    ("navigate", "No", "n", None, 0),
    ("web_of_lies", "Yes", "The correct answer is: yes!", 1, 1),
    ("object_counting", "18", "The answer is 18", 1, 1),  # as with labels
    ("object_counting", "18", "The answer is seventeen", 0, 0),
    ("object_counting", "18", "18 fruits", None, 0),  # a judge calls it right
    ("object_counting", "18", "18 animals", None, 1),  # a plain unit
    ("object_counting", "18", "18th", None, 0),
    ("object_counting", "18", "18%", None, 1),
    ("object_counting", "18", "1 8", None, 0),
    ("object_counting", "18", "-18", 0, 0),
    ("object_counting", "18", "\uff11\uff18", 1, 1),
    ("object_counting", "12", "a dozen", 1, 1),
]


@pytest.mark.parametrize(("category", "right", "text", "value", "strict"), TABLE)
def test_bare_or_not(category: str, right: str, text: str, value: int | None, strict: int) -> None:
    assert official(category, right, text) == value
    asked = Item(sample_id="a", question="?", answer=right, groups={"category": category})
    response = Response(sample_id="a", text=text, answer=text, num_tokens=1, finish="stop")
    assert big_bench.judge_strictly(asked, response).value == strict


OTHERS = (
    "A", "B", "(b)", "y", "N", "", "x", "B. valid", "a) 3", "not valid", "yes and no", "Yes, 7",
    "no 7", "17 or 18", "18 fruits", "18 cats", "18th", "about 18", "\u2248 18", "3,5", "7:30",
    "6/8", "1-2", "$7", "7 %", "7 = seven", "seven (7)", "7\n8", "\u4e03", "II", "nothing", "none",
    '{"answer": 7}', "\\boxed{7}",
)  # fmt: skip
BARE = {
    category: (*labels, *map(str.upper, labels), *map(str.capitalize, labels))
    or (*sorted(NUMBERS), "Seven", "TWO")
    for category, labels in LABELS.items()
}
LETTERS = st.text(alphabet="invaldyesno ", max_size=5)
BEFORE = st.sampled_from(("", "", '"', "**", " ", "(", "\n"))
BEHIND = st.sampled_from(("", "", '"', "**", " ", ")", "!", ".\n", "?", ":", ".*"))
OPENINGS = st.sampled_from(("", "", *LEADS, "The answer is ", "I say ", "not "))


@given(category=st.sampled_from(sorted(LABELS)), number=st.integers(0, 130), data=st.data())
def test_bare_answers_twice(category: str, number: int, data: st.DataObject) -> None:
    kinds = (LETTERS, st.sampled_from(OTHERS), st.sampled_from(BARE[category]))
    core = data.draw(st.one_of(*kinds, st.sampled_from(spellings(number))))
    answer = data.draw(OPENINGS) + data.draw(BEFORE) + core + data.draw(BEHIND)
    labels = LABELS[category]
    right = labels[number % 2].capitalize() if labels else str(number)
    assert official(category, right, answer) == second(category, right, answer)
