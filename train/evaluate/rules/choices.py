"""The strict rule: the answer is one whole choice and nothing else; a missing answer is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cache_schema.answers.questions import choice_index, is_correct, normalize_answer
from train.evaluate.rules.common import answered, judged, not_counted
from train.evaluate.types import Item, Response, Rule, Verdict

_LABEL = re.compile(r"\s*\(?([A-Z])[.)]\s+(?=\S)")
"""A label that a benchmark prints before a choice: ``A. ``, ``(A) ``."""

_NAMED = re.compile(
    r"(?:(?:the|my)\s+)?(?:(?:final|correct|right)\s+)?(?:(?:answer|choice|option)\s*)"
    r"(?:is\b|:|=)?\s*:?\s*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[(\[]?([A-Za-z])(?:\s*[)\].:]+\s*|$)")
_MARKS = " \t\r\n*\"'`"


def labels_of(choices: Sequence[str]) -> tuple[str, ...]:
    """Return the letters printed before the choices; empty unless every choice has one, in order.

    ``A. dog``, ``B. cat`` -> ``("A", "B")``. A letter may be left out where a choice is missing.
    """
    found = [_LABEL.match(choice) for choice in choices]
    letters = tuple(match[1] for match in found if match)
    in_order = list(letters) == sorted(set(letters))
    return letters if in_order and len(letters) == len(choices) and letters[:1] == ("A",) else ()


def texts_of(choices: Sequence[str]) -> tuple[str, ...]:
    """Return the choices without the letters printed before them."""
    if not labels_of(choices):
        return tuple(choices)
    return tuple(_LABEL.sub("", choice, count=1) for choice in choices)


def text_of(answer: str, choices: Sequence[str]) -> str:
    """Return the right answer as a choice's text, without its letter."""
    texts = dict(zip(choices, texts_of(choices), strict=True))
    return texts.get(answer, answer)


def named_choice(answer: str, choices: Sequence[str]) -> str:
    """Return the text of the only choice an answer names; empty if it names none or several.

    Where letters are printed beside the choices, a letter is that choice, and a letter with the
    text of another choice names two. Where none are printed, ``choice_index`` decides: the text
    comes first, a bare letter counts from the top. Choices of one text are one choice.
    """
    labels, texts = labels_of(choices), texts_of(choices)
    if labels:
        return _by_letter(answer.strip(_MARKS), labels, texts)
    index = choice_index(answer, texts)
    if index is not None:
        return texts[index]
    unique = list({normalize_answer(text): text for text in reversed(texts)}.values())
    index = choice_index(answer, unique) if len(unique) < len(texts) else None
    return "" if index is None else unique[index]


def _by_letter(answer: str, labels: Sequence[str], texts: Sequence[str]) -> str:
    lead = _NAMED.match(answer)
    for part in dict.fromkeys((answer, answer[lead.end() :] if lead else answer)):
        match = _LETTER.match(part)
        letter = match[1].upper() if match else ""
        rest = part[match.end() :] if match else ""
        if letter in labels and not normalize_answer(rest):
            return texts[labels.index(letter)]
        if letter in labels:
            behind = _only(rest, texts)
            same = normalize_answer(behind) == normalize_answer(texts[labels.index(letter)])
            if behind:
                return behind if same else ""
        if whole := _only(part, texts):
            return whole
    return ""


def _only(answer: str, texts: Sequence[str]) -> str:
    """Return the choice that an answer is, by its text alone."""
    wanted = normalize_answer(answer)
    found = [text for text in texts if normalize_answer(text) == wanted and wanted]
    return found[0] if found else ""


def judge_strict(item: Item, response: Response) -> Verdict:
    """Judge by the strict rule; an item whose right answer is withheld is not counted.

    Without choices the answer must be the right one after normalisation, or the same number.
    """
    if not item.answer.strip():
        return not_counted(item)
    answer = answered(response)
    expected = text_of(item.answer, item.choices)
    if not item.choices:
        right = bool(answer) and is_correct(answer, expected) is True
        return judged(item, right, expected, expected if right else answer)
    named = named_choice(answer, item.choices) if answer else ""
    right = bool(named) and normalize_answer(named) == normalize_answer(expected)
    return judged(item, right, expected, expected if right else named)


STRICT = Rule(
    name="strict",
    judge=judge_strict,
    source=(
        "This project's own. The parsed answer must be one whole choice, by its text, its letter "
        "or both, also behind 'The answer is'; numbers may be written in digits or words. No "
        "answer, an answer cut off, several choices, a choice inside a sentence, and a response "
        "that was never made are wrong. Items without a published answer are not counted."
    ),
)
