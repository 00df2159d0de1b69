"""The rules of speech emotion recognition: a class, named exactly or clearly."""

from __future__ import annotations

from train.evaluate.rules.common import judged, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict


def judge_exact(item: Item, response: Response) -> Verdict:
    """Judge by the text itself: the class, letter by letter, with nothing around it but spaces.

    What is said is the predicted class, also where it is none of the classes.
    """
    if response.finish == "error" or not item.answer:
        return not_counted(item, item.answer)
    given = said(response).strip()
    return judged(item, given == item.answer, item.answer, given)


_EXACT = (
    "The corpus publishes labels and no rule for free text. This is the comparison of "
    "github.com/QwenLM/Qwen-Audio, eval_audio/evaluate_emotion.py at e81cc2655f74 (MELD; "
    "sklearn's accuracy over the stripped text). Where it misleads: 'Joy', 'joy.' and 'happiness' "
    "are not 'joy'; a word that is no class is a class nobody is in."
)

MELD_OFFICIAL = Rule(
    name="official",
    judge=judge_exact,
    source=(
        f"{_EXACT} The figure is that of github.com/declare-lab/MELD, baseline/baseline.py at "
        "2d2011b409d3: F1 of each of the seven classes, weighted by how often it is right."
    ),
)

IEMOCAP_OFFICIAL = Rule(
    name="official",
    judge=judge_exact,
    source=(
        f"{_EXACT} IEMOCAP's convention of four classes (angry, happy with excited, neutral, sad): "
        "weighted accuracy is the share of utterances that are right (what github.com/s3prl/s3prl, "
        "s3prl/downstream/emotion/expert.py at 06b27af7165b, reports a session), unweighted "
        "accuracy the mean of the recalls of the classes. Most papers average five sessions."
    ),
)

SER_OFFICIAL = Rule(name="official", judge=judge_exact, source=_EXACT)
