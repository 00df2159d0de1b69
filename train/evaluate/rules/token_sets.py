r"""The rule of MMAU and MMAR: sets of words.

Every word of the right answer is in the prediction, and no word that only wrong choices have.
Words are ``\b\w+\b`` of the lower-cased text, as a set: their order and number say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from train.evaluate.rules.common import judged, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict

_WORD = re.compile(r"\b\w+\b")


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, lower case."""
    return frozenset(_WORD.findall(text.lower()))


def matches(answer: str, prediction: str, choices: Sequence[str]) -> bool:
    """Whether a prediction is the answer and none of the wrong choices.

    Args:
        answer: the right choice.
        prediction: what the model said.
        choices: all choices; those of the same words as the answer are no wrong ones.
    """
    wanted, given = words_of(answer), words_of(prediction)
    wrong = frozenset[str]().union(*(words_of(choice) for choice in choices)) - wanted
    return bool(given) and wanted <= given and not given & wrong


def judge_words(item: Item, response: Response) -> Verdict:
    """Judge as the scripts of MMAU and MMAR do.

    A response that was never made has no key in their input, so it is not counted, as are items
    whose answer is withheld (MMAU's test split), which the scripts are never run on.
    """
    if response.finish == "error" or not item.answer:
        return not_counted(item, item.answer)
    prediction = said(response)
    right = matches(item.answer, prediction, item.choices)
    others = [c for c in item.choices if matches(c, prediction, item.choices)]
    predicted = item.answer if right else (others[0] if len(others) == 1 else "")
    return judged(item, right, item.answer, predicted)


_MISLEADING = (
    " Where it misleads: a sample without a prediction is skipped, which raises the accuracy; "
    "words are sets, so 'not X' is X, an answer whose words are all in a wrong choice cannot be "
    "told from it, a letter such as 'B' is wrong, and a question repeated before the answer counts "
    "against it where it has a word of a wrong choice. Here the script is given the parsed answer, "
    "or all of the text where none was found."
)

MMAU_OFFICIAL = Rule(
    name="official",
    judge=judge_words,
    source=(
        "github.com/Sakshi113/MMAU, evaluation.py at 110127f54c0d (2026-02-09), questions "
        "MMAU-v05.15.25. The README names the key `model_prediction`; the script reads "
        f"`model_output`.{_MISLEADING} Over the 1,000 questions of test-mini it takes 12 of 2,958 "
        "wrong choices for the right one; written '(A) X' 33 right ones are wrong, written 'The "
        "answer is X.' 93."
    ),
)

MMAR_OFFICIAL = Rule(
    name="official",
    judge=judge_words,
    source=(
        "github.com/ddlBoJack/MMAR, code/evaluation.py at 3bce090a967d (2026-02-26): MMAU's rule, "
        "the key is `answer_prediction`. The scores of reasoning (MMAR-Rubrics) need a judge model "
        f"and are not computed.{_MISLEADING} Over its 1,000 questions it takes 28 of 2,653 wrong "
        "choices for the right one; written '(A) X' 15 right ones are wrong, written 'The answer "
        "is X.' 90."
    ),
)
