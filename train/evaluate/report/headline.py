"""The first line: the result in words, and forgetting before anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.evaluate.comparison import Comparison
from train.evaluate.report.paired import Comparisons
from train.evaluate.report.reading import Evaluation
from train.evaluate.report.words import (
    LEVEL,
    capitalized,
    distance,
    interval,
    measure_words,
    p_words,
    percent,
    points,
    points_interval,
)
from train.evaluate.same_items import asked_otherwise

HEARING = "hearing"


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What stands on top.

    Attributes:
        result: the first line.
        alarm: whether it tells of forgetting.
        detail: sentences after it.
    """

    result: str
    alarm: bool
    detail: Sequence[str]


def rose(one: Comparison, higher_is_better: bool) -> bool:
    """Whether a figure got better and its interval does not reach no difference."""
    return one.low > 0 if higher_is_better else one.high < 0


def otherwise_sentence(this: Evaluation, base: Evaluation, names: tuple[str, str]) -> str:
    """Return what to know where the two were not asked in the same way; empty where they were."""
    found = asked_otherwise(this.about, base.about, names)
    return f"Not asked alike: {'; '.join(found)}." if found else ""


def headline(this: Evaluation, against: Comparisons) -> Headline:
    """Return the first line on one evaluation.

    Hearing counts as fallen if the headline measure fell beyond its interval by any rule: a rule
    that leaves out what was not answered must not hide it.

    Args:
        this: the evaluation.
        against: how it compares with the baseline; empty without one.
    """
    measure = this.measures[0]
    of = [one for rule in this.rules if (one := against.get((rule, measure, ""))) is not None]
    detail = [_scores_sentence(this, measure)]
    if not of:
        return Headline(result=_result(this, measure), alarm=False, detail=detail)
    lost = [one for one in of if one.fell]
    won = [one for one in of if rose(one, this.higher_is_better)]
    first = (lost or won or of)[-1]
    return Headline(
        result=f"{_movement(this, lost, won)} {_figures(this, first)}",
        alarm=any(one.forgotten for one in of),
        detail=[*detail, *(_difference_sentence(one) for one in of if one is not first)],
    )


def _who(this: Evaluation) -> str:
    """Return the end of the model's name; every run calls its model ``student``."""
    return "/".join(Path(this.model).parts[-2:]) or this.model


def _result(this: Evaluation, measure: str) -> str:
    """Return the figure by the strict rule, which counts every item."""
    score = this.score(this.rules[-1], measure)
    if score is None or not score.count:
        return (
            f"{_who(this)} was asked {len(this.responses):,} items of {this.benchmark.name}; "
            "no verdict is counted."
        )
    return (
        f"{_who(this)} on {this.benchmark.name}: {measure_words(measure)} {percent(score.value)} "
        f"over {score.count:,} items ({score.rule}; {LEVEL} interval "
        f"{interval(score.low, score.high)})."
    )


def _movement(this: Evaluation, lost: Sequence[Comparison], won: Sequence[Comparison]) -> str:
    ability = this.benchmark.ability
    if any(one.forgotten for one in lost):
        return "Forgetting: hearing fell beyond its interval."
    if lost:
        return f"{ability.capitalize()} fell beyond its interval."
    if won:
        return f"{ability.capitalize()} improved beyond its interval."
    return f"{ability.capitalize()} did not change beyond its interval."


def _figures(this: Evaluation, one: Comparison) -> str:
    return (
        f"{_who(this)} on {this.benchmark.name}: {measure_words(one.measure)} "
        f"{percent(one.value)}, {distance(one.difference)} the baseline ({one.rule}; {LEVEL} "
        f"interval of the difference {points_interval(one.low, one.high)}, "
        f"{p_words(one.p_value)})."
    )


def _scores_sentence(this: Evaluation, measure: str) -> str:
    parts = [
        f"{percent(score.value)} by the {rule} rule ({interval(score.low, score.high)}, "
        f"{score.count:,} items)"
        for rule in this.rules
        if (score := this.score(rule, measure)) is not None
    ]
    return f"{capitalized(measure_words(measure))}: {'; '.join(parts)}."


def _difference_sentence(one: Comparison) -> str:
    return (
        f"Against the baseline by the {one.rule} rule: {points(one.difference)} points "
        f"({points_interval(one.low, one.high)}, {p_words(one.p_value)}, {one.count:,} items)."
    )
