"""Figures by group: a table and a plot a grouping, of one evaluation or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.evaluate.report.page import Section, Table
from train.evaluate.report.plots.bars import Figure, Series, dots_plot
from train.evaluate.report.plots.canvas import Plot
from train.evaluate.report.words import NONE, measure_words, score_words
from train.evaluate.types import Score

MAX_ROWS = 60
"""Groups of a table; a grouping by speaker may have thousands."""

MAX_DOTS = 24
"""Groups of a plot."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table by group.

    Attributes:
        name: as the head says it.
        scores: group -> figure.
        drawn: whether it is a series of the plot.
    """

    name: str
    scores: Mapping[str, Score]
    drawn: bool


def group_section(
    columns: Sequence[Column],
    measure: str,
    title: str,
    prefix: str,
    differences: Mapping[str, Mapping[str, str]],
) -> Section:
    """Return the section of figures by group; every grouping has its own table and plot.

    Args:
        columns: what stands side by side, all of one measure.
        measure: which.
        title: of the section.
        prefix: begins the names of the plots' files.
        differences: head of a column -> group -> difference in words; after the figures.
    """
    names = dict.fromkeys(group for column in columns for group in column.scores if group)
    groupings: dict[str, list[str]] = {}
    for name in names:
        groupings.setdefault(name.partition("=")[0], []).append(name)
    tables = [
        _table(grouping, of, columns, measure, differences) for grouping, of in groupings.items()
    ]
    plots = [
        _plot(f"{prefix}-{number}", grouping, of, columns, measure)
        for number, (grouping, of) in enumerate(groupings.items())
        if len(of) > 1  # one group is all items again
    ]
    return Section(title=title, tables=tables, plots=plots)


def _table(
    grouping: str,
    names: Sequence[str],
    columns: Sequence[Column],
    measure: str,
    differences: Mapping[str, Mapping[str, str]],
) -> Table:
    rows = [
        (
            _value(name),
            _count(name, columns),
            *(score_words(column.scores.get(name)) for column in columns),
            *(of.get(name, NONE) for of in differences.values()),
        )
        for name in names[:MAX_ROWS]
    ]
    more = len(names) - len(rows)
    return Table(
        caption=f"{measure_words(measure)} by {grouping}",
        head=(grouping, "items", *(column.name for column in columns), *differences),
        rows=rows,
        note=f"{more} more groups are in scores.json." if more else "",
    )


def _count(name: str, columns: Sequence[Column]) -> str:
    """Return how many items counted, a range where the columns differ."""
    counts = [column.scores[name].count for column in columns if name in column.scores]
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _plot(
    name: str, grouping: str, names: Sequence[str], columns: Sequence[Column], measure: str
) -> Plot:
    drawn = list(names[:MAX_DOTS])
    values = [_value(one) for one in drawn]
    series: dict[str, Series] = {
        column.name: {
            _value(one): figure_of(score)
            for one in drawn
            if (score := column.scores.get(one)) is not None and score.count
        }
        for column in columns
        if column.drawn
    }
    more = f", the first {len(drawn)} of {len(names)}" if len(names) > len(drawn) else ""
    title = f"{measure_words(measure)} by {grouping}{more}"
    return dots_plot(name, title, values, series, f"{measure_words(measure)} (%)")


def figure_of(score: Score) -> Figure:
    """Return a score in percent."""
    return Figure(value=100 * score.value, low=100 * score.low, high=100 * score.high)


def _value(group: str) -> str:
    return group.partition("=")[2] or NONE
