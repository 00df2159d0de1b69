"""MMAU-Pro's rules of instruction following: what a response must look like, task by task.

A constraint is what the published table gives in ``task_identifier`` and ``kwargs``; an item keeps
it as JSON in its answer. The checks are those of the published script, its oddities kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Constraint = Mapping[str, Any]
Check = Callable[[str, Constraint], bool]

NEEDS_NLTK = "Number Sentences"
"""Tasks whose published check counts sentences by a trained model of NLTK (punkt), which is not
part of this project: their official verdict is not known."""

_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"')\]]*(?=\s|$)")


def constraint_text(task: str, settings: Mapping[str, Any], question: str) -> str:
    """Return a constraint as an item's answer holds it: JSON, keys in order.

    A setting that is called as one of ours (``task``, ``question``) does not replace it; one that
    is ``None`` was not told.
    """
    kept = {key: value for key, value in settings.items() if value is not None}
    return json.dumps({**kept, "task": task, "question": question}, sort_keys=True)


def constraint_of(answer: str) -> Constraint:
    """Return the constraint an answer holds; empty if it holds none."""
    try:
        found = json.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "task" in found else {}


def fulfils(response: str, constraint: Constraint) -> bool:
    """Whether a response does as it was told; an unknown task never does, as published."""
    check = CHECKS.get(str(constraint.get("task", "")))
    return check is not None and check(response, constraint)


def count_sentences(text: str) -> int:
    """Count sentences by their marks; text behind the last mark is one more. Not NLTK's count."""
    ends = list(_SENTENCE_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return len(ends) + bool(rest.strip())


def _number(constraint: Constraint, key: str, default: int = 0) -> float:
    return float(constraint.get(key, default))


def _words(text: str) -> int:
    return len(text.split())


def _capitals(text: str) -> int:
    return sum(word.isupper() for word in text.split())


def _paragraphs(text: str) -> int:
    return sum(bool(part.strip()) for part in text.split("***"))


def _parts(text: str, constraint: Constraint) -> list[str]:
    splitter = re.escape(str(constraint.get("section_splitter", "")))
    return [part for part in re.split(rf"\s*{splitter}\s*", text.strip()) if part.strip()]


def _listed(constraint: Constraint, key: str) -> list[str]:
    return str(constraint.get(key, "")).lower().split(", ")


def _letters(text: str, spaces: bool = True) -> str:
    return re.sub("[^a-zA-Z ]" if spaces else "[^a-zA-Z]", "", text).lower()


def _frequency(text: str, constraint: Constraint) -> bool:
    keyword = str(constraint.get("keyword", "")).lower()
    found = re.findall(rf"\b{re.escape(keyword)}\b", text.lower())
    return len(found) == _number(constraint, "N")


def _two_responses(text: str, _: Constraint) -> bool:
    parts = [part.lower().strip() for part in text.split("******")]
    return len(parts) == 2 and parts[0] != parts[1]


def _starts(text: str, constraint: Constraint) -> bool:
    return _letters(text).startswith(_letters(str(constraint.get("start_phrase", ""))))


def _ends(text: str, constraint: Constraint) -> bool:
    return _letters(text).endswith(_letters(str(constraint.get("end_phrase", ""))))


def _repeats(text: str, constraint: Constraint) -> bool:
    prompt = str(constraint.get("question", "")).strip().lower()
    return text.strip().lower().startswith(prompt)


def _quoted(text: str, _: Constraint) -> bool:
    return text.strip().startswith('"') and text.strip().endswith('"')


def _postscript(text: str, constraint: Constraint) -> bool:
    marker = _letters(str(constraint.get("postscript_marker", "")), spaces=False)
    return marker in _letters(text, spaces=False)


def _found(pattern: str) -> Callable[[str], int]:
    return lambda text: len(re.findall(pattern, text))


def _exactly(count: Callable[[str], int]) -> Check:
    return lambda text, constraint: count(text) == _number(constraint, "N")


def _at_least(count: Callable[[str], int]) -> Check:
    return lambda text, constraint: count(text) >= _number(constraint, "N")


def _at_most(count: Callable[[str], int]) -> Check:
    return lambda text, constraint: count(text) <= _number(constraint, "N")


def _between(count: Callable[[str], int]) -> Check:
    return lambda text, constraint: (
        _number(constraint, "N1") <= count(text) <= _number(constraint, "N2", 999)
    )


CHECKS: dict[str, Check] = {
    "Include Keywords": lambda t, c: all(word in t.lower() for word in _listed(c, "keywords")),
    "Keyword Frequency": _frequency,
    "Forbidden Words": lambda t, c: (
        not any(word in t.lower() for word in _listed(c, "forbidden_words"))
    ),
    "Number Paragraphs": _exactly(_paragraphs),
    "Number Words (at least)": _at_least(_words),
    "Number Words (at most)": _at_most(_words),
    "Number Words (range)": _between(_words),
    f"{NEEDS_NLTK} (at least)": _at_least(count_sentences),
    f"{NEEDS_NLTK} (at most)": _at_most(count_sentences),
    f"{NEEDS_NLTK} (range)": _between(count_sentences),
    "Postscript": _postscript,
    "Number Placeholder": _at_least(_found(r"\[[^\]]+\]")),
    "Number Bullets": _exactly(_found(r"(?:^|\n)\s*\*\s+")),
    "Title": lambda t, _: re.search("<<[^>]+>>", t) is not None,
    "Minimum Number Highlighted Section": _at_least(_found(r"\*([^*]+)\*")),
    "Multiple Sections": lambda t, c: len(_parts(t, c)) == _number(c, "N"),
    "Repeat Prompt": _repeats,
    "Two Responses": _two_responses,
    "All Uppercase": lambda t, _: t.isupper(),
    "All Lowercase": lambda t, _: t.islower(),
    "All-capital Words (at least)": _at_least(_capitals),
    "All-capital Words (at most)": _at_most(_capitals),
    "All-capital Words (range)": _between(_capitals),
    "Start Checker": _starts,
    "End Checker": _ends,
    "Quotation": _quoted,
    "No Commas": lambda t, _: "," not in t,
}
"""Task -> whether a response fulfils it."""
