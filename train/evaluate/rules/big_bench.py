"""The rules of Big Bench Audio: labels, and numbers, by category."""

from __future__ import annotations

from cache_schema.answers.questions import answer_key, is_correct, normalize_answer
from train.evaluate.rules.common import answered, judged, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict

LABELS = {
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "web_of_lies": ("Yes", "No"),
}
"""Category -> what can be answered; ``object_counting`` is answered by a number."""


def _bare(item: Item, answer: str) -> str | None:
    """Return the label or number an answer is, perhaps after ``The answer is``; else ``None``.

    A letter names no label, for none were given; a number with a word behind it is not bare.
    """
    key = answer_key(answer)
    labels = LABELS.get(item.groups.get("category", ""), ())
    if labels:
        return next((label for label in labels if normalize_answer(label) == key), None)
    is_number = isinstance(key, tuple) and not key[1]
    return normalize_answer(answer) if is_number else None


def _right(item: Item, answer: str) -> bool:
    judge = "exact" if item.groups.get("category", "") in LABELS else "numeric"
    return is_correct(answer, item.answer, judge=judge) is True


def judge_official(item: Item, response: Response) -> Verdict:
    """Judge where the published judge model cannot differ: a bare label or a bare number."""
    bare = None if response.finish == "error" else _bare(item, said(response))
    if bare is None or not item.answer:
        return not_counted(item, item.answer)
    right = _right(item, bare)
    return judged(item, right, item.answer, item.answer if right else bare)


def judge_strictly(item: Item, response: Response) -> Verdict:
    """Judge by the label or number the answer is; anything else is wrong."""
    if not item.answer:
        return not_counted(item)
    answer = answered(response)
    given = _bare(item, answer) or answer
    right = _right(item, given)
    return judged(item, right, item.answer, item.answer if right else given)


OFFICIAL = Rule(
    name="official",
    judge=judge_official,
    source=(
        "github.com/huggingface/blog, big-bench-audio-release.md at 110f24815a21: a judge model is "
        "asked whether the candidate is consistent with the official answer (its prompt is given "
        "there, the model is not named). It is not run here: counted is only an answer that is a "
        "bare label or number, perhaps after 'The answer is', on which it could not differ; a "
        "letter is no label, a number with a unit is not bare. Compare with published figures only "
        "where nothing is left out. Where it misleads: of an answer that contradicts itself the "
        "first is assessed; figures are means of three runs."
    ),
)

STRICT = Rule(
    name="strict",
    judge=judge_strictly,
    source=(
        "This project's own. The parsed answer must be one label of its category (valid, invalid; "
        "Yes, No), or for object_counting a number, in digits or words, perhaps with a plain unit; "
        "either perhaps after 'The answer is'. No answer is wrong, and so is a letter."
    ),
)
