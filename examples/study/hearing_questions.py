"""What is asked about a clip that hearing alone answers, and the true answers.

Who speaks (among the speakers trained on), whether there is noise, which numbers; and more that
only the base model is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.quickstart.questions import NUMBER_WORDS, transcript
from examples.study.questions import WORDS, four_with_heard, tagged


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What is true of a clip.

    Attributes:
        numbers: what is spoken.
        speaker: by whom.
        noisy: whether noise was added that can be heard.
    """

    numbers: tuple[int, ...]
    speaker: str
    noisy: bool


HEARING = {
    "speaker": "Who is speaking?",
    "noise": "Is there noise in the background?",
    "digits": "What numbers do you hear?",
}
"""Kind -> question that hearing alone answers; those of the evaluation."""

FURTHER_HEARING = {
    "first": "Which number is the first?",
    "last": "Which number is the last?",
    "how many": "How many numbers are spoken?",
    "spoken": "Is this number spoken?",
}
"""More of them, which the base model is trained on besides."""


def hearing_turn(
    kind: str, heard: Heard, speakers: Sequence[str], rng: np.random.Generator
) -> tuple[str, tuple[str, ...], str, str]:
    """Return (question, choices, answer, trace) of a question that hearing alone answers.

    Args:
        kind: of ``HEARING`` or ``FURTHER_HEARING``.
        heard: the truth about the clip.
        speakers: the choices where the voice is asked for.
        rng: draws choices.
    """
    numbers = heard.numbers
    question = {**HEARING, **FURTHER_HEARING}[kind]
    if kind == "speaker":
        names = tuple(speakers[place] for place in rng.permutation(len(speakers)))
        return question, names, heard.speaker, _listen("the voice", heard.speaker)
    if kind == "noise":
        answer = "yes" if heard.noisy else "no"
        return question, ("yes", "no"), answer, _listen("the noise", answer)
    if kind == "digits":
        said = transcript(numbers)
        return question, (), said, _listen("the numbers", said)
    if kind == "how many":
        answer = WORDS[len(numbers)]
        return question, NUMBER_WORDS[:4], answer, _listen("the numbers", answer)
    if kind == "spoken":
        # half of them are drawn so that yes is certain
        asked = int(rng.choice(numbers) if rng.random() < 0.5 else rng.integers(10))
        answer = "yes" if asked in numbers else "no"
        question = f"Is the number {WORDS[asked]} spoken?"
        return question, ("yes", "no"), answer, _listen("the numbers", answer)
    answer = WORDS[numbers[0 if kind == "first" else -1]]
    choices = four_with_heard(numbers, rng)
    return question, choices, answer, _listen("the numbers", answer)


def _listen(to: str, heard: str) -> str:
    return tagged(heard, PLANNING=f"listen to {to}", CAPTION=f"I hear {heard}")
