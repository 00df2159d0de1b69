"""The rules of Big Bench Audio: labels, and numbers, by category."""

from __future__ import annotations

from cache_schema.questions import choice_index, is_correct, normalize_answer
from train.evaluate.rules.common import answered, judged, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict

LABELS = {
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "web_of_lies": ("Yes", "No"),
}
"""Category -> what can be answered; ``object_counting`` is answered by a number."""


def _predicted(item: Item, answer: str) -> str | None:
    """Return the label or number an answer is, ``None`` if it is neither."""
    labels = LABELS.get(item.groups.get("category", ""), ())
    if labels:
        index = choice_index(answer, labels)
        is_letter = len(normalize_answer(answer)) == 1  # no letters were given
        return None if index is None or is_letter else labels[index]
    same = is_correct(answer, answer, judge="numeric")
    return normalize_answer(answer) if same else None


def _verdict(item: Item, answer: str, predicted: str) -> Verdict:
    labels = LABELS.get(item.groups.get("category", ""), ())
    judge = "exact" if labels else "numeric"
    right = bool(predicted) and is_correct(predicted, item.answer, judge=judge) is True
    return judged(item, right, item.answer, item.answer if right else predicted or answer)


def judge_official(item: Item, response: Response) -> Verdict:
    """Judge where the published judge model cannot differ: a bare label or a bare number."""
    predicted = None if response.finish == "error" else _predicted(item, said(response))
    if predicted is None or not item.answer:
        return not_counted(item, item.answer)
    return _verdict(item, predicted, predicted)


def judge_strictly(item: Item, response: Response) -> Verdict:
    """Judge by the label or number the answer is; anything else is wrong."""
    if not item.answer:
        return not_counted(item)
    answer = answered(response)
    return _verdict(item, answer, (_predicted(item, answer) if answer else None) or "")


OFFICIAL = Rule(
    name="official",
    judge=judge_official,
    source=(
        "github.com/huggingface/blog, big-bench-audio-release.md at 110f24815a21: a judge model is "
        "asked whether the candidate is consistent with the official answer (its prompt is given "
        "there, the model is not named). It is not run here: counted is only an answer that is a "
        "bare label or number, on which it could not differ. Compare with published figures only "
        "where nothing is left out. Where it misleads: of an answer that contradicts itself the "
        "first is assessed; figures are means of three runs."
    ),
)

STRICT = Rule(
    name="strict",
    judge=judge_strictly,
    source=(
        "This project's own. The parsed answer must be one label of its category (valid, invalid; "
        "Yes, No), or for object_counting a number, in digits or words. No answer is wrong."
    ),
)
