"""The first line of a comparison: which variants lost or gained, and forgetting before anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from train.evaluate.comparison import Comparison
from train.evaluate.report.headline import HEARING, Headline, rose
from train.evaluate.report.paired import Comparisons
from train.evaluate.report.reading import Evaluation
from train.evaluate.report.variants import Variant
from train.evaluate.report.words import p_words, points, points_interval


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference of a variant from the first.

    Attributes:
        who: the variant.
        evaluation: one of the benchmark.
        of: the headline measure, over all items.
    """

    who: str
    evaluation: Evaluation
    of: Comparison

    @property
    def is_hearing(self) -> bool:
        """Whether the benchmark measures hearing."""
        return self.evaluation.benchmark.ability == HEARING

    @property
    def rose(self) -> bool:
        """Whether it got better beyond the interval."""
        return rose(self.of, self.evaluation.higher_is_better)

    @property
    def words(self) -> str:
        """All of it."""
        one = self.of
        return (
            f"{self.who} on {self.evaluation.benchmark.name}, {one.rule}: {points(one.difference)} "
            f"points ({points_interval(one.low, one.high)}, {p_words(one.p_value)})"
        )


def comparison_headline(
    variants: Sequence[Variant],
    benchmarks: Mapping[str, Evaluation],
    against: Mapping[str, Mapping[str, Comparisons]],
) -> Headline:
    """Return the first line on variants against the first of them.

    Args:
        variants: all, the base first.
        benchmarks: benchmark -> an evaluation of it.
        against: variant -> benchmark -> how it compares with the first variant.
    """
    base = variants[0].name
    changes = [
        Change(who=who, evaluation=benchmarks[name], of=one)
        for who, of in against.items()
        for name, comparisons in of.items()
        for (_, measure, group), one in comparisons.items()
        if measure == benchmarks[name].measures[0] and not group
    ]
    lost, won = [one for one in changes if one.of.fell], [one for one in changes if one.rose]
    forgot = _names(one for one in lost if one.of.forgotten)
    detail = [_sentence("Fell beyond the interval", lost)] if lost else []
    detail += [_sentence("Improved beyond the interval", won)] if won else []
    compared = {one.who for one in changes}
    alone = ", ".join(one.name for one in variants[1:] if one.name not in compared)
    detail += [f"No benchmark in common with {base}: {alone}."] if alone else []
    first = _hearing(changes, forgot, base)
    return Headline(result=f"{first} {_reasoning(changes)}", alarm=bool(forgot), detail=detail)


def _hearing(changes: Sequence[Change], forgot: str, base: str) -> str:
    if forgot:
        return f"Forgetting: hearing fell beyond its interval against {base} in {forgot}."
    heard = [one for one in changes if one.is_hearing]
    if not heard:
        return "Hearing was not compared."
    improved = _names(one for one in heard if one.rose)
    more = f", and improved in {improved}" if improved else ""
    return f"Hearing fell in no variant beyond its interval against {base}{more}."


def _reasoning(changes: Sequence[Change]) -> str:
    asked = [one for one in changes if not one.is_hearing]
    if not asked:
        return "Reasoning was not compared."
    improved, worse = (
        _names(one for one in asked if one.rose),
        _names(one for one in asked if one.of.fell),
    )
    parts = [f"improved in {improved}"] * bool(improved) + [f"fell in {worse}"] * bool(worse)
    said = " and ".join(parts) or "did not change"
    return f"Reasoning {said} beyond its interval{'' if parts else ' in any variant'}."


def _names(changes: Iterable[Change]) -> str:
    return ", ".join(dict.fromkeys(one.who for one in changes))


def _sentence(what: str, changes: Sequence[Change]) -> str:
    return f"{what}: {'; '.join(one.words for one in changes)}."
