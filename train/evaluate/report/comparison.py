"""The report over several evaluations: variants side by side and against the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache_schema.errors import OutputError
from train.evaluate.comparison import Comparison
from train.evaluate.directory import EvaluationDir
from train.evaluate.report.confusion import confusion_section
from train.evaluate.report.curves import curves_section
from train.evaluate.report.facts import facts_table
from train.evaluate.report.groups import Column, group_section
from train.evaluate.report.headline import otherwise_sentence
from train.evaluate.report.headline_variants import comparison_headline
from train.evaluate.report.lengths import responses_section
from train.evaluate.report.page import Page, Section, Table, write_page
from train.evaluate.report.paired import Comparisons
from train.evaluate.report.plots.bars import Figure, differences_plot, scatter_plot
from train.evaluate.report.reading import Evaluation
from train.evaluate.report.variants import (
    Variant,
    ability_figure,
    against_first,
    benchmarks_of,
    read_variants,
)
from train.evaluate.report.words import LEVEL, NONE, difference_words, measure_words, score_words
from train.evaluate.statistics import FEWEST
from train.evaluate.types import ABILITIES

Against = Mapping[str, Mapping[str, Comparisons]]
"""Variant -> benchmark -> how it compares with the first variant."""

STRICT = "strict"
"""The rule of plots and categories: a missing answer is wrong."""


def write_comparison(
    evaluations: Mapping[str, Sequence[Path]], out: Path, runs: Mapping[str, Path]
) -> Path:
    """Write ``report.html`` and ``plots/`` over several evaluations.

    Args:
        evaluations: variant -> directories of its evaluations: benchmarks, and several of one
            benchmark where there are several runs. The first variant is the base.
        out: gets the report.
        runs: name -> training run, whose loss curves are shown.

    Returns:
        The HTML file.

    Raises:
        UsageError: there is nothing to compare, or a directory does not hold what it should.
        OutputError: ``out`` holds an evaluation.
        DatasetError: a file does not hold what it should.
    """
    if EvaluationDir(root=out).about.is_file():
        raise OutputError(f"{out} holds an evaluation with its own report; give another --out")
    variants = read_variants(evaluations)
    benchmarks = benchmarks_of(variants)
    against = against_first(variants)
    first = comparison_headline(variants, benchmarks, against)
    sections = [_scores(variants, benchmarks, against), _abilities(variants)]
    sections += [_groups(variants, one, against) for one in benchmarks.values() if one.groups]
    sections += [
        responses_section(
            {variant.name: variant.of[name] for variant in variants if name in variant.of},
            f"Responses, {name}",
            f"tokens-{number}",
        )
        for number, name in enumerate(benchmarks)
    ]
    confusion = confusion_section(_first_runs(variants), [STRICT])
    sections += [confusion] if confusion is not None else []
    if runs:
        sections.append(curves_section(runs))
    sections.append(_about(variants))
    page = Page(
        title=f"{', '.join(variant.name for variant in variants)} compared",
        result=first.result,
        alarm=first.alarm,
        detail=[*first.detail, *_otherwise(variants)],
        sections=sections,
    )
    return write_page(page, out)


def _otherwise(variants: Sequence[Variant]) -> list[str]:
    """Return a sentence for every variant that was not asked as the first one was."""
    base = variants[0]
    said = [
        f"{name}: {otherwise}"
        for variant in variants[1:]
        for name, runs in variant.of.items()
        if name in base.of
        for one in runs
        if (otherwise := otherwise_sentence(one, base.of[name][0], (variant.name, base.name)))
    ]
    return list(dict.fromkeys(said))


def _scores(
    variants: Sequence[Variant], benchmarks: Mapping[str, Evaluation], against: Against
) -> Section:
    tables = [
        _table(name, measure.name, number, variants, one, against)
        for name, one in benchmarks.items()
        for number, measure in enumerate(one.benchmark.measures)
        if measure.name in one.measures
    ]
    drawn = {
        f"{variant}, {name}": _points(one)
        for variant, of in against.items()
        for name, comparisons in of.items()
        if (one := comparisons.get((STRICT, benchmarks[name].measures[0], ""))) is not None
    }
    axis = f"difference from {variants[0].name} (points)"
    title = f"Difference from {variants[0].name}, {STRICT}"
    plots = [differences_plot("differences", title, drawn, axis)] if drawn else []
    text = [
        (
            "official: the published rule with its bugs. strict: a missing answer is wrong. Below "
            f"figures are {LEVEL} intervals, from bootstrap over items (where all are right, or "
            "all wrong, the open end is Wilson's); those of differences, and p, are from a paired "
            f"bootstrap on the same items, against {variants[0].name}; where fewer than {FEWEST} "
            "verdicts differ, they reach no difference. "
            "Two numbers of items: those that the one rule counts, and the other."
        )
    ]
    if any(len(runs) > 1 for variant in variants for runs in variant.of.values()):
        text.append(
            "Of several runs, means are shown, also of the ends of their intervals; differences "
            "are between means over runs."
        )
    return Section(title="Scores", text=text, tables=tables, plots=plots)


def _table(
    name: str,
    measure: str,
    number: int,
    variants: Sequence[Variant],
    example: Evaluation,
    against: Against,
) -> Table:
    """Return one measure of one benchmark, a row a variant."""
    rows = []
    for variant in variants:
        runs = variant.of.get(name, ())
        scores = [variant.score(name, rule, measure) for rule in example.rules]
        counts = dict.fromkeys(f"{one.count:,}" for one in scores if one is not None)
        row = [variant.name, str(len(runs)), " / ".join(counts) or NONE, *map(score_words, scores)]
        found = against.get(variant.name, {}).get(name, {})
        row += [difference_words(found.get((rule, measure, ""))) for rule in example.rules]
        rows.append(row)
    head = ["", "runs", "items", *example.rules]
    head += [f"difference, {rule}" for rule in example.rules]
    caption = f"{name} ({example.benchmark.ability}): {measure_words(measure)}"
    return Table(caption=caption, head=head, rows=rows, folded=number > 0)


def _points(one: Comparison) -> Figure:
    return Figure(value=100 * one.difference, low=100 * one.low, high=100 * one.high)


def _abilities(variants: Sequence[Variant]) -> Section:
    figures = {
        variant.name: [ability_figure(variant, ability, STRICT) for ability in ABILITIES]
        for variant in variants
    }
    there = {
        name: (hearing, reasoning)
        for name, (reasoning, hearing) in figures.items()
        if reasoning is not None and hearing is not None
    }
    absent = [name for name in figures if name not in there]
    text = [
        (
            f"Means over the benchmarks of an ability, by the rule strict, with {LEVEL} intervals; "
            "error rates enter as what is left to 100. Up and to the right is better."
        )
    ]
    if absent:
        text.append(f"Without benchmarks of both abilities: {', '.join(absent)}.")
    names = ("hearing (%)", "reasoning (%)")
    title = "Reasoning against hearing"
    plots = [scatter_plot("reasoning-hearing", title, there, names)] if there else []
    return Section(title=title, text=text, plots=plots)


def _groups(variants: Sequence[Variant], example: Evaluation, against: Against) -> Section:
    name, measure = example.benchmark.name, example.measures[0]
    columns = []
    for rule in reversed(example.rules):
        for variant in variants:
            groups = dict.fromkeys(
                group for one in variant.of.get(name, ()) for group in one.groups
            )
            scores = {group: variant.score(name, rule, measure, group) for group in groups}
            columns.append(
                Column(
                    name=f"{variant.name}, {rule}",
                    scores={group: one for group, one in scores.items() if one is not None},
                    drawn=rule == example.rules[-1],
                )
            )
    differences = {
        f"{variant}, difference, {STRICT}": {
            group: difference_words(one, with_p=False)
            for (rule, of_measure, group), one in of.get(name, {}).items()
            if (rule, of_measure) == (STRICT, measure) and group
        }
        for variant, of in against.items()
    }
    differences = {head: of for head, of in differences.items() if of}
    title = f"By category, {name}"
    return group_section(columns, measure, title, f"groups-{name}", differences)


def _first_runs(variants: Sequence[Variant]) -> dict[str, Evaluation]:
    return {
        f"{variant.name}, {name}": runs[0]
        for variant in variants
        for name, runs in variant.of.items()
    }


def _about(variants: Sequence[Variant]) -> Section:
    tables = [
        facts_table(
            {"directory": one.directory.name, **one.about},
            f"{variant.name}, {name}" + (f", run {number}" if len(runs) > 1 else ""),
            folded=True,
        )
        for variant in variants
        for name, runs in variant.of.items()
        for number, one in enumerate(runs, start=1)
    ]
    return Section(title="What was evaluated", tables=tables)
