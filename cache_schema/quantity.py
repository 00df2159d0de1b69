"""Numbers as people and models write them: digits, fractions, percentages, words, with a unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = re.compile(
    r"(?P<currency>[$\u20ac\u00a3\u00a5])?\s?(?P<sign>[-+\u2212])?\s?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d{1,30})?(?P<part>\.\d{0,30})?(?P<power>[eE][-+]?\d{1,2})?"
    r"(?:/(?P<below>\d{1,30}))?(?:\s?(?P<unit>%|\u00b0?[^\W\d_]+(?:/[^\W\d_]+)?[\u00b2\u00b3]?))?"
)
_OUTER = " \t\r\n,;:!?\"'`*()"
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
_NO_UNITS = {*_WORDS, *_SCALES, "hundred", "and", "or", "a"}
_MAX_LENGTH = 120
"""A longer text is no number: the time to read one stays small."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number and its unit.

    Attributes:
        value: exact.
        unit: in lower case, without a plural's s; empty if there is none. Percent is a unit.
    """

    value: Fraction
    unit: str


def parse_number(text: str) -> Number | None:
    """Return the number a text is, ``None`` if it is anything else, or more.

    ``7``, ``7.0``, ``7.``, ``.5``, ``1,000``, ``-3``, ``2e3``, ``3/4``, ``50%``, ``$5``, ``seven``,
    ``twenty-one``, ``a hundred and five``; each may be followed by one word, its unit. A comma is a
    separator of thousands and nothing else: ``1,5`` is no number. Numbers side by side (``one
    two``), ranges and alternatives (``7 or 8``) are none.
    """
    if len(text) > _MAX_LENGTH:
        return None
    text = text.strip(_OUTER)
    return _from_digits(text) or _from_words(text)


def same_number(given: Number, wanted: Number) -> bool:
    """Whether two numbers are equal; a unit that only one of them names is not held against it."""
    units_agree = given.unit == wanted.unit or not given.unit or not wanted.unit
    return given.value == wanted.value and units_agree


def _from_digits(text: str) -> Number | None:
    match = _DIGITS.fullmatch(text) or _DIGITS.fullmatch(text.rstrip("."))
    if match is None or not (match["whole"] or (match["part"] or "").strip(".")):
        return None
    mantissa = (match["whole"] or "0").replace(",", "") + (match["part"] or "").rstrip(".")
    value = Fraction(mantissa + (match["power"] or ""))
    if match["below"]:
        if int(match["below"]) == 0:
            return None
        value /= int(match["below"])
    if match["sign"] in ("-", "\u2212"):
        value = -value
    if match["currency"] and match["unit"]:
        return None
    return Number(value=value, unit=_unit(match["currency"] or match["unit"] or ""))


def _from_words(text: str) -> Number | None:
    words = text.casefold().rstrip(".").replace("-", " ").split()
    sign = -1 if words[:1] in (["minus"], ["negative"]) else 1
    words = words[1:] if sign < 0 else words
    if not words:
        return None
    value = _value_of(words)
    if value is not None:
        return Number(value=Fraction(sign * value), unit="")
    value = _value_of(words[:-1])
    unit = words[-1]
    if value is None or unit in _NO_UNITS or not unit.isalpha():
        return None
    return Number(value=Fraction(sign * value), unit=_unit(unit))


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


def _unit(text: str) -> str:
    unit = text.casefold()
    if unit == "percent":
        return "%"
    return unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit
