"""Units that say of what a number is one, and nothing of how large it is."""

from __future__ import annotations

import re

_UNIT = re.compile(r"%|\u00b0?([^\W\d_]+)(?:/([^\W\d_]+))?[\u00b2\u00b3]?")

_ALIASES = {
    "percent": "%", "dollar": "$", "euro": "\u20ac", "sec": "second",
    "min": "minute", "hr": "hour", "h": "hour", "hertz": "hz", "decibel": "db",
}  # fmt: skip

_PLAIN = """
    % $ \u20ac \u00a3 \u00a5 cent
    ms millisecond second minute hour day week month year
    mm millimeter millimetre cm centimeter centimetre meter metre km kilometer kilometre
    inch inche foot feet yard mile km/h mph m/s
    gram kg kilogram pound
    hz khz kilohertz db octave semitone bpm beat bar measure note chord
    \u00b0c \u00b0f degree
    times word syllable letter sentence language voice speaker singer person people man men woman
    women child children kid boy girl player musician instrument sound clip song track
    bark meow clap knock ring footstep step laugh cough sneeze beep click shot tap chime
    dog cat bird animal car train plane vehicle object item event
"""
PLAIN = frozenset(_PLAIN.split())
"""Units one side may leave out.

Scales, ordinals and what may be read as one are not here, and never may be: ``k``, ``m``,
``gross``, ``pair``, the ``s`` of ``1980s``, the ``g`` of ``5G``.
"""


def unit_of(word: str) -> str:
    """Return the unit a word is, without a plural's s; empty if it is no word.

    Lower case, but for what case may tell apart (``mW``, ``MW``) and is not in ``PLAIN``.
    """
    match = _UNIT.fullmatch(word)
    if match is None or not all(part.isalpha() for part in match.groups() if part):
        return ""
    folded = word.casefold()
    if folded in PLAIN:
        return folded
    single = folded[:-1] if len(folded) > 2 and folded.endswith("s") else folded
    single = _ALIASES.get(single, single)
    return single if single in PLAIN or word[1:].islower() else word
