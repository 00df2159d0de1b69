"""Questions and answers as text: how one is put, where the answer stands, when it is right."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from cache_schema.answers.forms import parse_trace
from cache_schema.answers.quantity import parse_number, same_number
from cache_schema.commands.recipes import one_of

CHOICES_TEMPLATE = "{question}\nChoices: {choices}"
"""A question with its permitted answers, as teachers and student alike read it."""

JUDGES = ("auto", "exact", "choice", "numeric")
"""Ways to compare an answer, see ``is_correct``."""

_OUTER = " .,;:!?\"'`*()[]"
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence)\b,?\s*)?(?:(?:the|my)\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:(?:answer|choice|option)\s*(?:is\b|:|=)\s*:?|(?:choice|option)\b)\s*",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[(\[]?([A-Za-z])\s*(?:[)\].:]+\s*|\s[-\u2013\u2014]\s+|$)")


def question_text(question: str, choices: Sequence[str]) -> str:
    """Return the question, with a line of choices if there are any."""
    if not choices:
        return question
    return CHOICES_TEMPLATE.format(question=question, choices=", ".join(choices))


def parse_answer(text: str) -> str:
    """Return the answer part of a trace of no particular form; see ``forms.parse_trace``.

    The last ``<RESPONSE>`` block if there is one; otherwise what follows the thinking. A trace cut
    inside its thinking has no answer: the empty string.
    """
    return parse_trace(text, "plain").answer


def normalize_answer(text: str) -> str:
    """Return the answer for comparison: lower case, inner spaces single, outer punctuation gone.

    A point, comma or colon before a digit stays: ``.5``, ``,5`` and ``:05`` are not the number.
    """
    words = " ".join(text.casefold().split())
    stripped = words.strip(_OUTER)
    start = words.find(stripped)
    part_of_it = stripped[:1].isdigit() and words[:start].endswith((".", ",", ":"))
    return words[start - 1] + stripped if part_of_it else stripped


def is_correct(
    answer: str, expected: str, choices: Sequence[str] = (), judge: str = "auto"
) -> bool | None:
    """Judge a parsed answer. Right answers in unforeseen words count as wrong, never the reverse.

    - ``exact``: equal after normalisation.
    - ``choice``: names the right choice and no other, by its text, by its letter (``B``, ``(b)``,
      ``B.``) or by both (``B. seven``), also after ``The answer is``. Where both are there the text
      decides: no letters are printed beside the choices, so a model may count otherwise. A sentence
      around a choice (``not B``, ``B or C``) names none.
    - ``numeric``: the same number (``cache_schema.answers.quantity``): ``7``, ``7.0`` and ``seven``
      are equal, 50% and 0.5 are not; a plain unit (``units.PLAIN``) counts only where both name
      one, any other word behind a number must stand on both sides.
    - ``auto``: ``choice`` where the right answer is one of the choices, ``numeric`` where it is a
      number, otherwise ``exact``.

    Args:
        answer: as parsed, empty if the trace has none (which is wrong).
        expected: the right answer, empty if unknown; among choices also by its letter.
        choices: the permitted answers, empty for an open question.
        judge: one of ``JUDGES``.

    Returns:
        ``None`` when there is nothing to compare with: no right answer, one that is not among the
        choices (``choice``), or one that is no number (``numeric``).

    Raises:
        UsageError: no such judge.
    """
    one_of("judge", judge, JUDGES)
    if not expected:
        return None
    right = choice_index(expected, choices)
    if judge == "choice" or (judge == "auto" and right is not None):
        return None if right is None else choice_index(answer, choices) == right
    wanted = None if judge == "exact" else parse_number(expected)
    if wanted is not None:
        given = parse_number(_without_lead(answer))
        return given is not None and same_number(given, wanted)
    return None if judge == "numeric" else _equal(answer, expected)


def choice_index(text: str, choices: Sequence[str]) -> int | None:
    """Return which choice a text names, ``None`` if it names none or several."""
    options = [normalize_answer(choice) for choice in choices]
    for part in dict.fromkeys((text.strip(), _without_lead(text))):
        index = _by_text(part, options)
        if index is None:
            index = _by_label(part, options)
        if index is not None:
            return index
    return None


def answer_key(answer: str, choices: Sequence[str] = ()) -> Hashable:
    """Return what two answers share when they say the same.

    The choice they name, else the number and unit they are, else their normalised text; what stands
    before them (``The answer is``) is no part of it.
    """
    index = choice_index(answer, choices)
    if index is not None:
        return index, "choice"
    said = _without_lead(answer)
    number = parse_number(said)
    return normalize_answer(said) if number is None else (number.value, number.unit)


def _equal(answer: str, expected: str) -> bool:
    given, wanted = normalize_answer(answer), normalize_answer(expected)
    return given == wanted and (bool(wanted) or answer.strip() == expected.strip())


def _without_lead(text: str) -> str:
    """Return what follows ``The answer is``, ``Option`` and the like."""
    match = _LEAD.match(text.strip())
    return text.strip()[match.end() :] if match else text.strip()


def _by_text(text: str, options: Sequence[str]) -> int | None:
    """Return the only option of this text, or of this number."""
    given = normalize_answer(text)
    if not given:
        return None
    if given in options:
        return options.index(given) if options.count(given) == 1 else None
    number = parse_number(text)
    if number is None:
        return None
    numbers = [parse_number(option) for option in options]
    equal = [i for i, other in enumerate(numbers) if other and same_number(number, other)]
    return equal[0] if len(equal) == 1 else None


def _by_label(text: str, options: Sequence[str]) -> int | None:
    """Return the option of a letter, or of the text behind a letter."""
    match = _LABEL.match(text.strip(" *\"'`"))
    if match is None:
        return None
    rest = text.strip(" *\"'`")[match.end() :]
    if normalize_answer(rest):
        return _by_text(rest, options)
    index = ord(match[1].lower()) - ord("a")
    return index if index < len(options) else None
