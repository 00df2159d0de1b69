"""Questions and answers as text: how one is put, where the answer stands, when it is right."""

from __future__ import annotations

import re
from collections.abc import Sequence

CHOICES_TEMPLATE = "{question}\nChoices: {choices}"
"""A question with its permitted answers, as teachers and student alike read it."""

_RESPONSE = re.compile(r"<response>(.*?)(?:</response>|$)", re.IGNORECASE | re.DOTALL)
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)", re.IGNORECASE | re.DOTALL)
_LETTER = re.compile(r"^\(?([A-Za-z])\s*[).:]\s*")


def question_text(question: str, choices: Sequence[str]) -> str:
    """Return the question, with a line of choices if there are any."""
    if not choices:
        return question
    return CHOICES_TEMPLATE.format(question=question, choices=", ".join(choices))


def parse_answer(text: str) -> str:
    """Return the answer part of a trace.

    The last ``<RESPONSE>`` block (CoTA form, arXiv 2503.02318) if there is one; otherwise what is
    left after the thinking blocks; tags are matched in any case. A trace cut inside its thinking
    has no answer: the empty string.
    """
    responses = _RESPONSE.findall(text)
    return (responses[-1] if responses else _THINKING.sub("", text)).strip()


def normalize_answer(text: str) -> str:
    """Return the answer for comparison: lower case, inner spaces single, outer punctuation gone."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`*()")


def is_correct(answer: str, expected: str, choices: Sequence[str] = ()) -> bool | None:
    """Judge a parsed answer.

    An answer is right when it equals the expected text after normalisation, or names it by its
    choice letter (``B``, ``(b)``, ``B. seven``).

    Returns:
        ``None`` when there is no expected answer to compare with.
    """
    if not expected:
        return None
    given, wanted = normalize_answer(answer), normalize_answer(expected)
    if given == wanted:
        return bool(wanted) or answer.strip() == expected.strip()
    options = [normalize_answer(choice) for choice in choices]
    if wanted not in options or given in options:
        return False
    letter = _LETTER.match(answer.strip())
    rest = normalize_answer(answer.strip()[letter.end() :]) if letter else ""
    if rest:
        return rest == wanted
    named = letter.group(1) if letter else given
    return len(named) == 1 and ord(named.lower()) - ord("a") == options.index(wanted)
