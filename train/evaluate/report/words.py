"""Figures in words: percents, points, intervals, p values, texts cut to a length.

A figure over nothing is NaN; it is written as a dash.
"""

from __future__ import annotations

import math

from train.evaluate.comparison import Comparison
from train.evaluate.types import Score

NONE = "\N{EN DASH}"
"""Stands where there is no figure."""

MINUS = "\N{MINUS SIGN}"
GAP = "\N{NO-BREAK SPACE}"
LEVEL = f"95{GAP}%"
"""Of every interval."""

MEASURES = {
    "unweighted_accuracy": "unweighted accuracy (UA)",
    "weighted_accuracy": "weighted accuracy (WA)",
    "weighted_f1": "weighted F1",
}


def measure_words(measure: str) -> str:
    """Return a measure's name as it is spoken."""
    return MEASURES.get(measure, measure.replace("_", " "))


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 in percent."""
    return NONE if math.isnan(share) else f"{100 * share:.{digits}f}{GAP}%"


def points(share: float) -> str:
    """Return a difference of shares in points of percent, with its sign."""
    return NONE if math.isnan(share) else f"{100 * share:+.1f}".replace("-", MINUS)


def interval(low: float, high: float) -> str:
    """Return an interval of shares in percent."""
    return NONE if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"


def points_interval(low: float, high: float) -> str:
    """Return an interval of differences in points."""
    return NONE if math.isnan(low) else f"{points(low)} to {points(high)}"


def score_words(score: Score | None) -> str:
    """Return a figure and, on the next line, its interval: for a cell."""
    if score is None or math.isnan(score.value):
        return NONE
    return f"{percent(score.value)}\n{100 * score.low:.1f} to {100 * score.high:.1f}"


def distance(difference: float) -> str:
    """Return ``"3.1 points below"``, or above, or the same as."""
    if math.isnan(difference):
        return "not comparable with"
    if difference == 0:
        return "the same as"
    return f"{100 * abs(difference):.1f} points {'above' if difference > 0 else 'below'}"


def p_number(p: float) -> str:
    """Return a p value; below a thousandth only that."""
    if math.isnan(p):
        return NONE
    return f"<{GAP}0.001" if p < 0.001 else f"{p:.3f}"


def p_words(p: float) -> str:
    """Return a p value as a sentence has it: ``p = 0.012``."""
    return f"p{GAP}{p_number(p)}" if p < 0.001 else f"p{GAP}={GAP}{p_number(p)}"


def capitalized(text: str) -> str:
    """Return a text with its first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def difference_words(one: Comparison | None, with_p: bool = True) -> str:
    """Return a difference in points and, on the next lines, its interval and p: for a cell."""
    if one is None or math.isnan(one.difference):
        return NONE
    lines = [points(one.difference), points_interval(one.low, one.high)]
    return "\n".join(lines + [p_words(one.p_value)] * with_p)


def seconds(duration_s: float) -> str:
    """Return a duration."""
    return f"{duration_s:.1f} s"


def clipped(text: str, letters: int) -> str:
    """Return a text cut to a length, saying by how much."""
    if len(text) <= letters:
        return text
    return f"{text[:letters]}\n[{len(text) - letters:,} more characters]"
