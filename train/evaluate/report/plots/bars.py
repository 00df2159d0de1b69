"""Plots of figures with intervals: dots and whiskers by group, differences, a scatter, a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from train.evaluate.report.plots.canvas import (
    FONT_PT,
    MARKERS,
    Plot,
    Theme,
    add_legend,
    draw_plot,
    drawable,
    label_axes,
    name_rows,
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its interval, in percent or points.

    Attributes:
        value: the figure.
        low: lower end of its interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


Series = Mapping[str, Figure]
"""Group -> its figure."""


def dots_plot(
    name: str, title: str, groups: Sequence[str], series: Mapping[str, Series], axis: str
) -> Plot:
    """Draw figures by group, a colour and marker a series.

    Args:
        name: of the file.
        title: of the plot.
        groups: rows, the first on top.
        series: name of a series -> group -> figure; groups may be missing.
        axis: what the figures are, with their unit.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        step = 0.7 / max(1, len(series))
        handles = []
        for number, of_group in enumerate(series.values()):
            rows = [row for row, group in enumerate(groups) if group in of_group]
            shift = (number - (len(series) - 1) / 2) * step
            handles.append(_whiskers(axes, theme, number, rows, shift, [*_at(of_group, groups)]))
        name_rows(axes, groups)
        label_axes(axes, theme, axis, "")
        if len(series) > 1:
            add_legend(axes, theme, handles, list(series))

    alt = "; ".join(
        f"{one}: " + ", ".join(f"{group} {of[group].value:.1f}" for group in groups if group in of)
        for one, of in series.items()
    )
    rows_in = 0.22 + 0.14 * len(series)
    legend_in = 0.22 * ((len(series) + 1) // 2) if len(series) > 1 else 0
    height_in = max(1.3, 0.6 + rows_in * len(groups) + legend_in)
    return draw_plot(name, title, f"{axis} by group. {alt}", draw, height_in)


def _at(series: Series, groups: Sequence[str]) -> list[Figure]:
    return [series[group] for group in groups if group in series]


def _whiskers(
    axes: Axes, theme: Theme, number: int, rows: Sequence[int], shift: float, at: Sequence[Figure]
) -> Line2D:
    places = [row + shift for row in rows]
    color = theme.series[number % len(theme.series)]
    axes.hlines(places, [one.low for one in at], [one.high for one in at], color=color, lw=1.6)
    marker = MARKERS[number % len(MARKERS)]
    values = [one.value for one in at]
    return axes.plot(values, places, marker, color=color, markersize=5, linestyle="none")[0]


def differences_plot(name: str, title: str, differences: Mapping[str, Figure], axis: str) -> Plot:
    """Draw differences with their intervals around a line at zero.

    Args:
        name: of the file.
        title: of the plot.
        differences: what is compared -> difference in points.
        axis: what they are, with their unit.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        at = list(differences.values())
        axes.axvline(0, color=theme.ink, linewidth=0.9)
        _whiskers(axes, theme, 0, range(len(at)), 0.0, at)
        name_rows(axes, list(differences))
        label_axes(axes, theme, axis, "")

    alt = "; ".join(
        f"{what}: {one.value:+.1f}, interval {one.low:+.1f} to {one.high:+.1f}"
        for what, one in differences.items()
    )
    return draw_plot(name, title, f"{axis}. {alt}", draw, max(1.3, 0.7 + 0.36 * len(differences)))


def scatter_plot(
    name: str,
    title: str,
    points: Mapping[str, tuple[Figure, Figure]],
    axes_names: tuple[str, str],
) -> Plot:
    """Draw one thing against another with error bars both ways, a marker and colour a point.

    Args:
        name: of the file.
        title: of the plot.
        points: name -> (figure along x, figure along y).
        axes_names: what x and y are, with units.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        handles = []
        for number, (x, y) in enumerate(points.values()):
            color = theme.series[number % len(theme.series)]
            bars = axes.errorbar(
                [x.value],
                [y.value],
                xerr=[[x.value - x.low], [x.high - x.value]],
                yerr=[[y.value - y.low], [y.high - y.value]],
                fmt=MARKERS[number % len(MARKERS)],
                color=color,
                markersize=6.5,
                elinewidth=1.2,
            )
            handles.append(bars.lines[0])
        label_axes(axes, theme, *axes_names)
        add_legend(axes, theme, handles, list(points))

    alt = "; ".join(f"{who}: {x.value:.1f}, {y.value:.1f}" for who, (x, y) in points.items())
    height_in = 3.4 + 0.2 * ((len(points) + 1) // 2)
    return draw_plot(name, title, f"{' (x) and '.join(axes_names)} (y). {alt}", draw, height_in)


def matrix_plot(
    name: str, title: str, labels: Sequence[str], predicted: Sequence[str], counts: list[list[int]]
) -> Plot:
    """Draw a confusion matrix: how many of each class were taken for which, shares of a row shaded.

    Args:
        name: of the file.
        title: of the plot.
        labels: right classes, a row each.
        predicted: understood classes, a column each.
        counts: [labels][predicted] numbers of items.
    """
    shares = [[100 * one / max(1, sum(row)) for one in row] for row in counts]

    def draw(axes: Axes, theme: Theme) -> None:
        image = axes.imshow(shares, cmap=theme.shades, vmin=0, vmax=100, aspect="auto")
        axes.grid(visible=False)
        name_rows(axes, [drawable(label, 14) for label in labels])
        ticks = [drawable(label, 14) for label in predicted]
        axes.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right", parse_math=False)
        label_axes(axes, theme, "understood as", "right class")
        if len(labels) <= 12:  # more numbers would not fit their cells
            _numbers(axes, counts, shares, theme)
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label("% of the class", fontsize=FONT_PT, color=theme.ink)
        bar.ax.tick_params(colors=theme.ink, labelsize=FONT_PT - 1, length=2)

    right = sum(
        counts[row][predicted.index(label)]
        for row, label in enumerate(labels)
        if label in predicted
    )
    total = sum(map(sum, counts))
    alt = f"{len(labels)} classes, {right} of {total} items on the diagonal; counts in the table"
    return draw_plot(name, title, alt, draw, max(2.6, 1.5 + 0.26 * len(labels)))


def _numbers(axes: Axes, counts: list[list[int]], shares: list[list[float]], theme: Theme) -> None:
    for row, of_row in enumerate(counts):
        for column, count in enumerate(of_row):
            # both maps reach the other end of lightness: ink turns over in the middle
            light = shares[row][column] > 55 if theme.name == "light" else shares[row][column] < 55
            ink = "#ffffff" if light else "#101214"
            axes.text(
                column, row, str(count), ha="center", va="center", color=ink, fontsize=FONT_PT - 1
            )
