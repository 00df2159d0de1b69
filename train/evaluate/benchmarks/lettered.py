"""Choices that are asked for by letter: what MMSU and AIR-Bench share.

Their scripts read letters, so the letters are part of the choices: ``A. dog``, ``B. cat``. A model
reads them beside the question as the published prompts print them, and may answer by letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = {"A": "choice_a", "B": "choice_b", "C": "choice_c", "D": "choice_d"}
"""Letter -> the published key; C and D may be missing or null."""


def lettered(row: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the choices with their letters, and the first that is the right answer.

    The answer is as published where it is none of the choices.
    """
    texts = {letter: row.get(key) for letter, key in KEYS.items()}
    choices = {letter: f"{letter}. {said}" for letter, said in texts.items() if said is not None}
    answer = str(row.get("answer_gt") if row.get("answer_gt") is not None else "")
    right = [choices[letter] for letter in choices if str(texts[letter]) == answer]
    return list(choices.values()), right[0] if right else answer
