"""The rules of MMSU and AIR-Bench Foundation: the first letter, or the last but one."""

from __future__ import annotations

from train.evaluate.rules.choices import labels_of, texts_of
from train.evaluate.rules.common import judged, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict

_LETTERS = ("A", "B", "C", "D")


def letter_of(prediction: str) -> str | None:
    """Return the letter a script reads: ``""`` if nothing was said, ``None`` if none was found.

    The text loses its ends and its newlines. Its first character is the answer if it is one of A to
    D; otherwise its last but one (``The answer is A.``). ``None`` written out is nothing said.
    """
    text = prediction.strip().replace("\n", "")
    if text in ("", "None"):
        return ""
    if text[0] in _LETTERS:
        return text[0]
    return text[-2] if len(text) > 1 and text[-2] in _LETTERS else None


def _letters_of(item: Item) -> str:
    """Return the letters whose choice is the right answer, in order."""
    labels, texts = labels_of(item.choices), texts_of(item.choices)
    right = {
        text for choice, text in zip(item.choices, texts, strict=True) if choice == item.answer
    }
    return "".join(label for label, text in zip(labels, texts, strict=False) if text in right)


def judge_mmsu(item: Item, response: Response) -> Verdict:
    """Judge as MMSU's script does: nothing said is wrong, no letter found is not counted.

    A response never made is a record without one, which the script reads as nothing said.
    The texts behind the letters are compared, so a choice given twice is right by either letter.
    """
    right = _letters_of(item)
    letter = "" if response.finish == "error" else letter_of(said(response))
    if letter is None or not item.answer:
        return not_counted(item, right[:1])
    is_right = bool(letter) and letter in right
    return judged(item, is_right, right[:1], right[:1] if is_right else letter)


def judge_air_bench(item: Item, response: Response) -> Verdict:
    """Judge as AIR-Bench's script does: neither nothing said nor no letter found is counted.

    Of a choice given twice the first letter is right. The script ends where the right answer is
    none of the choices; such an item is not counted here.
    """
    right = _letters_of(item)[:1]
    letter = "" if response.finish == "error" else letter_of(said(response))
    if not letter or not right:
        return not_counted(item, right)
    return judged(item, letter == right, right, letter)


_MISLEADING = (
    " Where it misleads: what is in another form is skipped, which raises the accuracy; any word "
    "that begins with a capital A to D is that letter ('Dog' is D, 'Based on' is B), a lower-case "
    "letter and '(A)' are read by their last character but one or skipped."
)

MMSU_OFFICIAL = Rule(
    name="official",
    judge=judge_mmsu,
    source=(
        "github.com/dingdongwang/MMSU, mmsu_evaluation.py at 217d1d3f5ad5 (2026-02-12). The first "
        "publication (dingdongwang/MMSU_Bench at f0ef334bb101, 2025-06-08) judges an empty "
        "response by the letter of the record before it, so its figures depend on the order; the "
        "later one counts it, and a record without a response, as wrong, and so does this."
        + _MISLEADING
    ),
)

AIR_BENCH_OFFICIAL = Rule(
    name="official",
    judge=judge_air_bench,
    source=(
        "github.com/OFA-Sys/AIR-Bench, score_foundation.py at 983247666e2a (2024-12-09). The "
        "published protocol first has gpt-3.5-turbo name the letter that fits the response, at "
        "random where none does (align_in_foundation.py); that step is left out here. The script "
        "prints an accuracy for each task and data set and none for all; the figure over all items "
        "is this project's." + _MISLEADING
    ),
)
