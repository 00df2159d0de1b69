"""The rules of a user's own data: stage one's judge, and the strict rule."""

from __future__ import annotations

from cache_schema.answers.questions import choice_index, is_correct
from train.evaluate.rules.common import judged, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict


def judge_auto(item: Item, response: Response) -> Verdict:
    """Judge as stage one judges traces: by the choice, else the number, else the text."""
    if response.finish == "error":
        return not_counted(item, item.answer)
    given = said(response).strip()
    right = is_correct(given, item.answer, item.choices)
    if right is None:
        return not_counted(item, item.answer)
    index = choice_index(given, item.choices)
    named = item.choices[index] if index is not None else ("" if item.choices else given)
    return judged(item, right, item.answer, item.answer if right else named)


OFFICIAL = Rule(
    name="official",
    judge=judge_auto,
    source=(
        "No rule is published for own data: this is the judge by which stage one judges traces "
        "(textual.judge=auto), given the parsed answer, or all of the text where none was found. A "
        "response that was never made and an item without an answer are not counted."
    ),
)
