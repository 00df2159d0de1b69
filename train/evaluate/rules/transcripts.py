"""Word error rate: transcripts are normalised, aligned and counted."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jiwer
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from train.evaluate.rules.common import answered, not_counted, said
from train.evaluate.types import Item, Response, Rule, Verdict

LANGUAGE = "language"
"""The grouping that says an item's language; English where there is none."""

_ENGLISH = ("en", "eng", "english")
_LETTERS = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages written without spaces: every letter is a word, as Whisper scores them."""


@functools.cache
def normalizer_of(language: str) -> Callable[[str], str]:
    """Return the normaliser of a language, of those that transformers ships of Whisper's.

    Args:
        language: a code (``en``, ``en-US``, ``fr_FR``) or ``english``; empty is English.
    """
    code = language.lower().replace("_", "-").split("-")[0] or "en"
    # The table of British and American spellings lies with Whisper's checkpoints, not in the
    # package: `colour` and `color` stay two words.
    found = (
        EnglishTextNormalizer({})
        if code in _ENGLISH
        else BasicTextNormalizer(split_letters=code in _LETTERS)
    )
    return lambda text: " ".join(found(text).split())


def _verdict(item: Item, hypothesis: str) -> Verdict:
    """Return the share of words that are wrong; a reference without words is not counted."""
    normalize = normalizer_of(item.groups.get(LANGUAGE, ""))
    reference, said_words = normalize(item.answer), normalize(hypothesis)
    if not reference:
        return not_counted(item)
    words = len(reference.split())
    counts = jiwer.process_words(reference, said_words)
    wrong = counts.substitutions + counts.deletions + counts.insertions
    return Verdict(
        sample_id=item.sample_id,
        value=wrong / words,
        weight=float(words),
        expected=reference,
        predicted=said_words,
        groups=item.groups,
    )


def judge_official(item: Item, response: Response) -> Verdict:
    """Compare what was said; a response that was never made is not in a published figure."""
    return not_counted(item) if response.finish == "error" else _verdict(item, said(response))


def judge_strictly(item: Item, response: Response) -> Verdict:
    """Compare the answer alone; without one every word of the reference is missing."""
    return _verdict(item, answered(response))


_HOW = (
    "Substitutions, deletions and insertions over the words of the references (jiwer), summed over "
    "all items before the division, on text normalised by Whisper's normaliser as transformers "
    "ships it: the English one for English and where no language is given, the basic one for "
    "others, letter by letter for Chinese, Japanese, Thai, Lao, Burmese and Cantonese (a character "
    "error rate). References without a word are not counted. "
)

OFFICIAL = Rule(
    name="official",
    judge=judge_official,
    source=(
        f"{_HOW}The convention of Whisper (arXiv 2212.04356, appendix C). Where it misleads: the "
        "table of British spellings comes with Whisper's checkpoints and is not applied here; "
        "digits said one by one become one number (one word: 'one two three' is 123); a response "
        "that was never made is left out; leaderboards that drop fillers or compounds by "
        "rules of their own give other figures."
    ),
)

STRICT = Rule(
    name="strict",
    judge=judge_strictly,
    source=f"{_HOW}No answer, or no response, is as many words wrong as the reference has.",
)
