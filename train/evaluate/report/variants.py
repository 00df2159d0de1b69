"""Variants of a model side by side: their evaluations by benchmark, means over runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache_schema.errors import UsageError
from train.evaluate.report.groups import figure_of
from train.evaluate.report.paired import Comparisons, compared
from train.evaluate.report.plots.bars import Figure
from train.evaluate.report.reading import Evaluation, read_evaluation
from train.evaluate.types import ABILITIES, Score


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One column of the comparison.

    Attributes:
        name: as it was given.
        of: benchmark -> evaluations, one a run (a seed).
    """

    name: str
    of: Mapping[str, Sequence[Evaluation]]

    def score(self, benchmark: str, rule: str, measure: str, group: str = "") -> Score | None:
        """Return one figure; of several runs the means, also of the intervals' ends."""
        runs = [one.score(rule, measure, group) for one in self.of.get(benchmark, ())]
        there = [one for one in runs if one is not None]
        if not there or len(there) < len(runs):
            return None
        value, low, high = (
            math.fsum(ends) / len(there)
            for ends in zip(*((one.value, one.low, one.high) for one in there), strict=True)
        )
        return replace(there[0], value=value, low=low, high=high)


def read_variants(evaluations: Mapping[str, Sequence[Path]]) -> list[Variant]:
    """Return the variants, the first being what the others are compared with.

    Raises:
        UsageError: there is nothing to compare, a directory holds no finished evaluation, or is
            given twice.
        DatasetError: a file does not hold what it should.
    """
    if not evaluations or not all(evaluations.values()):
        raise UsageError("nothing to compare: give NAME=DIR[,DIR...] for every variant")
    variants = []
    for name, directories in evaluations.items():
        if len({one.resolve() for one in directories}) < len(directories):
            raise UsageError(f"{name}: an evaluation is given twice")
        of: dict[str, list[Evaluation]] = {}
        for directory in directories:
            evaluation = read_evaluation(directory)
            of.setdefault(evaluation.benchmark.name, []).append(evaluation)
        variants.append(Variant(name=name, of=of))
    return variants


def benchmarks_of(variants: Sequence[Variant]) -> dict[str, Evaluation]:
    """Return benchmark -> an evaluation of it, hearing last, otherwise in the order given."""
    first: dict[str, Evaluation] = {}
    for variant in variants:
        for name, evaluations in variant.of.items():
            first.setdefault(name, evaluations[0])
    by_ability = sorted(first, key=lambda name: ABILITIES.index(first[name].benchmark.ability))
    return {name: first[name] for name in by_ability}


def against_first(variants: Sequence[Variant]) -> dict[str, dict[str, Comparisons]]:
    """Return variant -> benchmark -> how it compares with the first variant.

    Raises:
        UsageError: evaluations of one benchmark have no item in common.
    """
    base = variants[0]
    return {
        variant.name: {
            name: compared(these, base.of[name])
            for name, these in variant.of.items()
            if name in base.of
        }
        for variant in variants[1:]
    }


def ability_figure(variant: Variant, ability: str, rule: str) -> Figure | None:
    """Return the mean over a variant's benchmarks of one ability, in percent; ``None`` without.

    Error rates enter as what is left to 100. Benchmarks are independent, so the half-widths of
    their intervals add up as squares do.
    """
    figures = []
    for name, evaluations in variant.of.items():
        benchmark = evaluations[0].benchmark
        if benchmark.ability != ability:
            continue
        score = variant.score(name, rule, benchmark.measures[0].name)
        if score is None or not score.count:
            return None
        one = figure_of(score)
        if not benchmark.measures[0].higher_is_better:
            one = Figure(value=100 - one.value, low=100 - one.high, high=100 - one.low)
        figures.append(one)
    if not figures:
        return None
    value = math.fsum(one.value for one in figures) / len(figures)
    below = math.hypot(*(one.value - one.low for one in figures)) / len(figures)
    above = math.hypot(*(one.high - one.value for one in figures)) / len(figures)
    return Figure(value=value, low=value - below, high=value + above)
