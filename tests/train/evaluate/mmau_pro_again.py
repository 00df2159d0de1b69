"""A second reading of MMAU-Pro's instruction following, to set beside the rule.

Written from the published script alone (``evaluate_aif_sample`` of github.com/sonalkum/MMAUPro,
evaluate_mmau_pro_comprehensive.py at 960e93a415e2) before the rule was read, letter by letter
instead of by patterns. Counts of sentences need NLTK and are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any
from unicodedata import category

QUESTION = "Say the dog's name, twice "
"""What is asked wherever a question is needed."""


def boundaries(text: str) -> list[bool]:
    """Whether each place between two letters, ends included, has a word on one side only."""
    inside = [False, *(c.isalnum() or c == "_" for c in text), False]
    return [left != right for left, right in pairwise(inside)]


def spaced(text: str) -> list[str]:
    """White and other runs of a text, turn about; the first is white, perhaps empty."""
    runs = [""]
    for letter in text:
        if letter.isspace() == (len(runs) % 2 == 1):
            runs[-1] += letter
        else:
            runs.append(letter)
    return runs


def words(text: str) -> list[str]:
    return spaced(text)[1::2]


def frequency(text: str, keyword: str) -> int:
    text, keyword = text.lower(), keyword.lower()
    edges, found, place = boundaries(text), 0, 0
    while place + len(keyword) <= len(text):
        end = place + len(keyword)
        hit = text[place:end] == keyword and edges[place] and edges[end]
        found += hit
        place = end if hit and keyword else place + 1
    return found


def paragraphs(text: str) -> int:
    found, blank = 0, True
    while text:
        if text[:3] == "***":
            found, blank, text = found + (not blank), True, text[3:]
        else:
            blank, text = blank and text[0].isspace(), text[1:]
    return found + (not blank)


def bullets(text: str) -> int:
    """Stars that stand alone and first in a line; one behind another star's white is missed."""
    runs, found, eaten = spaced(text), 0, False
    for index in range(1, len(runs), 2):
        opens = index == 1 or ("\n" in runs[index - 1] and not eaten)
        eaten = opens and runs[index] == "*" and index + 1 < len(runs)
        found += eaten
    return found


def highlights(text: str) -> int:
    found, inside = 0, None  # what is since the star that may begin one
    for letter in text:
        if letter != "*":
            inside = None if inside is None else inside + letter
        elif inside:
            found, inside = found + 1, None
        else:
            inside = ""
    return found


def placeholders(text: str) -> int:
    return sum("[" in piece[:-1] for piece in text.split("]")[:-1])


def titled(text: str) -> bool:
    pieces = text.split(">")
    return any("<<" in piece[:-1] and after == "" for piece, after in pairwise(pieces[:-1]))


def sections(text: str, splitter: str) -> int:
    text, found = text.strip(), 0
    if not splitter:
        return sum(map(len, words(text)))  # it is found before each letter
    while splitter in text:
        before, _, text = text.partition(splitter)
        found, text = found + bool(words(before)), text.lstrip()
    return found + bool(words(text))


def letters(text: str, also: str = "") -> str:
    return "".join(c for c in text if c.isascii() and (c.isalpha() or c in also)).lower()


def cases(text: str) -> set[str]:
    """Whether letters are (u)pper, (l)ower or title case (Lt); what has no case is left out."""
    kinds = {"u" if c.isupper() else "l" if c.islower() else category(c) for c in text}
    return kinds & {"u", "l", "Lt"}


def in_quotes(text: str) -> bool:
    kept = text.strip()
    return kept[:1] == '"' == kept[-1:]


def two_responses(text: str) -> bool:
    first, bar, second = text.partition("******")
    return bool(bar) and "******" not in second and first.strip().lower() != second.strip().lower()


def shouted(text: str) -> int:
    return sum(word.isupper() for word in words(text))


COUNTS: dict[str, Callable[[str, Mapping[str, Any]], int]] = {
    "Keyword Frequency": lambda text, told: frequency(text, told.get("keyword", "")),
    "Number Paragraphs": lambda text, _: paragraphs(text),
    "Number Words": lambda text, _: len(words(text)),
    "Number Placeholder": lambda text, _: placeholders(text),
    "Number Bullets": lambda text, _: bullets(text),
    "Minimum Number Highlighted Section": lambda text, _: highlights(text),
    "Multiple Sections": lambda text, told: sections(text, told.get("section_splitter", "")),
    "All-capital Words": lambda text, _: shouted(text),
}


def limits(task: str, told: Mapping[str, Any]) -> tuple[float, float]:
    """The fewest and the most a task wants."""
    if "(range)" in task:
        return told.get("N1", 0), told.get("N2", 999)
    number = told.get("N", 0)
    if "(at most)" in task:
        return 0, number
    least = "(at least)" in task or task in (
        "Number Placeholder",
        "Minimum Number Highlighted Section",
    )
    return number, float("inf") if least else number


def holds(text: str, listed: str) -> list[bool]:
    """Whether each of the things listed is somewhere in a text, in any case."""
    return [text.lower().find(word.lower()) >= 0 for word in listed.split(", ")]


def second(task: str, told: Mapping[str, Any], text: str) -> bool:
    """Whether a response does as it was told; the second reading of ``evaluate_aif_sample``."""
    count = COUNTS.get(task.partition(" (")[0])
    if count is not None:
        fewest, most = limits(task, told)
        return fewest <= count(text, told) <= most
    prompt, marker = QUESTION.strip().lower(), told.get("postscript_marker", "")
    plain, start = letters(text, " "), letters(told.get("start_phrase", ""), " ")
    end = letters(told.get("end_phrase", ""), " ")
    return {
        "Include Keywords": lambda: all(holds(text, told.get("keywords", ""))),
        "Forbidden Words": lambda: not any(holds(text, told.get("forbidden_words", ""))),
        "Postscript": lambda: letters(marker) in letters(text),
        "Title": lambda: titled(text),
        "Repeat Prompt": lambda: text.strip().lower()[: len(prompt)] == prompt,
        "Two Responses": lambda: two_responses(text),
        "All Uppercase": lambda: cases(text) == {"u"},
        "All Lowercase": lambda: cases(text) == {"l"},
        "Start Checker": lambda: plain.find(start) == 0,
        "End Checker": lambda: plain[len(plain) - len(end) :] == end,
        "Quotation": lambda: in_quotes(text),
        "No Commas": lambda: list(text).count(",") == 0,
    }[task]()
