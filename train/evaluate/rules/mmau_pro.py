"""The rules of MMAU-Pro: as much of them as needs no model.

Three scorers are published, one a kind of question: choices by the nearest embedding (NV-Embed-v2),
open answers by a judge (Qwen2.5-7B-Instruct), instruction following by rules. What the two models
would say is known only where they cannot differ: an answer that is one of the choices, character by
character, is nearest to itself.
"""

from __future__ import annotations

from train.evaluate.rules.choices import judge_strict
from train.evaluate.rules.common import answered, judged, not_counted, said
from train.evaluate.rules.instructions import CHECKS, NEEDS_NLTK, constraint_of, fulfils
from train.evaluate.types import Item, Response, Rule, Verdict

OPEN, INSTRUCTIONS = "open", "instruction following"
"""Categories that have a scorer of their own."""


def judge_official(item: Item, response: Response) -> Verdict:
    """Judge as published where no model is needed; everything else is not counted."""
    if response.finish == "error":
        return not_counted(item)
    category = item.groups.get("category", "")
    if category == INSTRUCTIONS:
        return _instruction(item, said(response), knows_sentences=False)
    if category == OPEN or len(item.choices) < 2:
        return not_counted(item)
    prediction = said(response)
    if prediction not in item.choices:
        return not_counted(item, item.answer)
    return judged(item, prediction == item.answer, item.answer, prediction)


def judge_strictly(item: Item, response: Response) -> Verdict:
    """Judge choices by the strict rule, instructions by the checks; open answers do not count."""
    category = item.groups.get("category", "")
    if category == INSTRUCTIONS:
        return _instruction(item, answered(response), knows_sentences=True)
    if category == OPEN or len(item.choices) < 2:
        return not_counted(item)
    return judge_strict(item, response)


def _instruction(item: Item, text: str, knows_sentences: bool) -> Verdict:
    constraint = constraint_of(item.answer)
    task = str(constraint.get("task", ""))
    needs_nltk = task in CHECKS and task.startswith(NEEDS_NLTK)
    if not constraint or (needs_nltk and not knows_sentences):
        return not_counted(item, task)
    # Published: an empty response fulfils 'No Commas' and everything that says 'at most'.
    right = fulfils(text, constraint) and not (knows_sentences and not text)
    return judged(item, right, task, task if right else "")


_SCRIPT = (
    "github.com/sonalkum/MMAUPro, evaluate_mmau_pro_comprehensive.py at 960e93a415e2 (2025-09-25)"
)

OFFICIAL = Rule(
    name="official",
    judge=judge_official,
    source=(
        f"{_SCRIPT}, the parts that need no model. Choices are judged there by the nearest "
        "NV-Embed-v2 embedding: counted here only where the answer is a choice character by "
        "character, which is then the nearest; open questions (a Qwen2.5 judge) and counts of "
        "sentences (NLTK's punkt) are not counted. Compare with published figures only where "
        "nothing is left out: what is counted was said in the asked form, which flatters. Where "
        "the script misleads: any text is nearest to some choice, so there is no wrong form; an "
        "empty response fulfils several instructions; the README's `model_ouput` is "
        "`model_output`; it reads the whole output, where a space at the end fails 'End Checker': "
        "judged here is the parsed answer, without white space around it."
    ),
)

STRICT = Rule(
    name="strict",
    judge=judge_strictly,
    source=(
        "This project's own. Choices: the answer must be one whole choice. Instruction following: "
        f"the checks of {_SCRIPT}, with an empty response wrong and sentences counted by their "
        "marks instead of NLTK. Open questions need a judge model and are not counted."
    ),
)
