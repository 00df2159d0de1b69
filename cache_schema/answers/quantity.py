"""Numbers as people and models write them: digits, fractions, percentages, words, with a unit.

Nothing here guesses. What might be another number, or no quantity at all, is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from cache_schema.answers.units import PLAIN, unit_of

_DIGITS = re.compile(
    r"(?P<currency>[$\u20ac\u00a3\u00a5])?\s?(?P<sign>[-+\u2212])?\s?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d{1,30})?(?P<part>\.\d{0,30})?(?P<power>[eE][-+]?\d{1,2})?"
    r"(?:/(?P<below>\d{1,30}))?(?:\s?(?P<rest>[^\W\d_].*|[%\u00b0].*))?",
    re.DOTALL,
)
_MINUS = re.compile(r"(?:minus|negative)\s+(?=[\w.$\u20ac\u00a3\u00a5])", re.IGNORECASE)
_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z])")
_BEFORE = " \t\r\n\"'`*("
_BEHIND = _BEFORE + ",;:!?)."
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
)  # fmt: skip
_TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
_WORDS = {word: number for number, word in enumerate(_ONES)} | {
    word: 10 * number for number, word in enumerate(_TENS, 2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_TIMES = {**_SCALES, "hundred": 100, "dozen": 12}
"""Words that multiply the number before them."""

_PARTS = ("third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ONE_OF = {word: below for below, word in enumerate(_PARTS, 3)} | {"half": 2, "fourth": 4}
_MANY_OF = {f"{word}s": below for word, below in _ONE_OF.items()} | {"halves": 2}
"""Denominators in words, behind a one and behind more: ``twenty third`` is an ordinal."""

_BEHIND_A = [["dozen"], *([word] for word in _ONE_OF)]
_NO_UNITS = {
    *_WORDS, *_TIMES, *(f"{word}s" for word in _TIMES), *_ONE_OF, *_MANY_OF, "first",
    "trillion", "trillions", "and", "or", "a", "an", "to", "not", "no", "point", "plus", "minus",
    "squared", "cubed",
}  # fmt: skip
_MAX_LENGTH = 120
"""A longer text is no number: the time to read one stays small."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number and its unit.

    Attributes:
        value: exact.
        unit: as ``units.unit_of`` returns it; empty if there is none. Percent is a unit.
    """

    value: Fraction
    unit: str


def parse_number(text: str) -> Number | None:
    """Return the number a text is, ``None`` if it is anything else, or more.

    ``7``, ``7.0``, ``7.``, ``.5``, ``1,000``, ``-3``, ``2e3``, ``3/4``, ``50%``, ``$5``, ``seven``,
    ``twenty-one``, ``a hundred and five``, ``5 million``, ``two dozen``, ``half``, ``two thirds``,
    ``five and a half``; each may be followed by one word, its unit. A comma is a separator of
    thousands and nothing else: ``1,5`` is no number. Numbers side by side (``one two``), ranges and
    alternatives (``7 or 8``), ordinals, powers (``2\u00b2``), times (``5:30``) and dates are none;
    nor is ``6/8``, which may be a metre, a date or a mark: only a fraction in lowest terms is one.
    """
    if len(text) > _MAX_LENGTH:
        return None
    text = text.lstrip(_BEFORE).rstrip(_BEHIND)
    minus = _MINUS.match(text)
    text = text[minus.end() :] if minus else text
    found = _from_digits(text) or _from_words(text)
    if found is None or not minus:
        return found
    return Number(value=-found.value, unit=found.unit)


def same_number(given: Number, wanted: Number) -> bool:
    """Whether two numbers are equal.

    A unit that only one of them names is not held against it if it is one of ``units.PLAIN``; any
    other word (``k``, ``th``, ``pm``, ``fold``) may change the number, so both must name it.
    """
    units_agree = given.unit == wanted.unit or (
        not (given.unit and wanted.unit) and (given.unit or wanted.unit) in PLAIN
    )
    return given.value == wanted.value and units_agree


def _from_digits(text: str) -> Number | None:
    match = _DIGITS.fullmatch(text)
    if match is None or not (match["whole"] or (match["part"] or "").strip(".")):
        return None
    mantissa = (match["whole"] or "0").replace(",", "") + (match["part"] or "").rstrip(".")
    value = Fraction(mantissa + (match["power"] or ""))
    if match["below"]:
        below = int(match["below"])
        if below == 0 or (value / below).denominator != below:
            return None
        value /= below
    rest = (match["rest"] or "").split()
    is_count = bool(match["whole"]) and not (match["part"] or match["power"] or match["below"])
    found = _measured(value, rest, is_count=is_count)
    if found is None or (match["currency"] and found.unit):
        return None
    sign = -1 if match["sign"] in ("-", "\u2212") else 1
    return Number(value=sign * found.value, unit=match["currency"] or found.unit)


def _from_words(text: str) -> Number | None:
    written = _HYPHEN.sub(" ", text).split()
    words = [word.casefold() for word in written]
    if words[:1] == ["half"] or (words[:1] == ["a"] and words[1:2] in _BEHIND_A):
        return _measured(Fraction(1), written[words[0] == "a" :], is_count=True)
    for size in range(len(words), 0, -1):
        value = _value_of(words[:size])
        if value is not None:
            if words[size:] == ["second"] and value >= len(_ONES):
                return None  # twenty second: a time or an ordinal
            return _measured(Fraction(value), written[size:], is_count=True)
    return None


def _measured(value: Fraction, written: list[str], *, is_count: bool) -> Number | None:
    """Return a number, 0 or more, with the words behind it: a scale or a fraction, then a unit.

    Args:
        value: the number before them.
        written: the words.
        is_count: whether it is written as a whole number, so that a fraction may follow.
    """
    words = [word.casefold() for word in written]
    used = 0
    if words and words[0] in _TIMES:
        value, used = value * _TIMES[words[0]], 1
    elif is_count and words and (words[0] in _ONE_OF or words[0] in _MANY_OF):
        part = _part_of(value, words[0])
        if part is None:
            return None
        value, used = part, 1
    elif is_count and words[:1] == ["and"] and len(words) > 2:
        above = 1 if words[1] == "a" else _value_of(words[1:2])
        part = None if above is None else _part_of(Fraction(above), words[2])
        if part is None:
            return None
        value, used = value + part, 3
    left = words[used:]
    if not left:
        return Number(value=value, unit="")
    unit = unit_of(written[used])
    if len(left) > 1 or not unit or left[0] in _NO_UNITS:
        return None
    return Number(value=value, unit=unit)


def _part_of(above: Fraction, word: str) -> Fraction | None:
    """Return a proper fraction whose denominator is a word, ``None`` if it is none."""
    below = (_ONE_OF if above == 1 else _MANY_OF).get(word)
    return above / below if below and 0 < above < below else None


def _value_of(words: list[str]) -> int | None:
    """Return the value of an English number in words, ``None`` if it is none."""
    total = 0
    smallest: float = float("inf")
    group: list[str] = []
    for word in words:
        if word not in _SCALES:
            group.append(word)
            continue
        value = 1 if group == ["a"] else _below_thousand(group)
        if not value or _SCALES[word] >= smallest:
            return None
        smallest = _SCALES[word]
        total, group = total + value * _SCALES[word], []
    if total and group[:1] == ["and"]:
        group = group[1:] or ["and"]
    if not group:
        return total or None
    value = _below_thousand(group)
    return None if value is None or (total and not value) else total + value


def _below_thousand(words: list[str]) -> int | None:
    """Return the value of words such as ``two hundred and five``, ``None`` if they are none."""
    if "hundred" not in words:
        return _below_hundred(words)
    place = words.index("hundred")
    before, after = words[:place], words[place + 1 :]
    hundreds = 1 if before == ["a"] else _below_hundred(before)
    if hundreds is None or not 1 <= hundreds <= 9:
        return None
    if not after:
        return 100 * hundreds
    rest = _below_hundred(after[1:] if after[0] == "and" else after)
    return 100 * hundreds + rest if rest else None


def _below_hundred(words: list[str]) -> int | None:
    values = [_WORDS.get(word) for word in words]
    match values:
        case [int(value)]:
            return value
        case [int(tens), int(ones)] if tens >= 20 and 1 <= ones <= 9:
            return tens + ones
    return None
