"""Plots over tokens and steps: how long responses are, how a loss falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes

from train.evaluate.report.plots.canvas import (
    DASHES,
    MARKERS,
    Plot,
    Theme,
    add_legend,
    draw_plot,
    label_axes,
)

BINS = 32
SMOOTH_FROM = 60
"""A curve of so many steps is drawn as means over windows: single steps are mostly noise."""
POINTS = 400
"""A curve of more points is drawn at so many."""

Curve = Sequence[tuple[float, float]]
"""(step, value), in order."""


def lengths_plot(name: str, title: str, lengths: Mapping[str, Sequence[int]]) -> Plot:
    """Draw how many tokens responses have, an outline a series.

    Args:
        name: of the file.
        title: of the plot.
        lengths: series -> tokens of each response.
    """
    everything = [length for of in lengths.values() for length in of] or [0]
    edges = np.linspace(0, max(max(everything), 1), BINS + 1)

    def draw(axes: Axes, theme: Theme) -> None:
        handles = []
        for number, of in enumerate(lengths.values()):
            color = theme.series[number % len(theme.series)]
            counts, _ = np.histogram(of, bins=edges)
            dashes = DASHES[number % len(DASHES)]
            axes.stairs(counts, edges, color=color, linewidth=1.5, linestyle=dashes)
            if len(lengths) == 1:
                axes.stairs(counts, edges, color=color, fill=True, alpha=0.3)
            handles.append(axes.plot([], [], dashes, color=color)[0])
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        label_axes(axes, theme, "length of a response (tokens)", "responses")
        if len(lengths) > 1:
            add_legend(axes, theme, handles, list(lengths))

    alt = "; ".join(
        f"{who}: {len(of)} responses, median {median(of):.0f} tokens, longest {max(of)}"
        for who, of in lengths.items()
        if of
    )
    return draw_plot(name, title, f"Histogram of tokens. {alt}", draw, 2.7)


def curves_plot(name: str, title: str, curves: Mapping[str, tuple[Curve, Curve]]) -> Plot:
    """Draw how a loss fell: a line on the training rows, points on the held-out rows.

    Args:
        name: of the file.
        title: of the plot.
        curves: run -> (training, held out); either may be empty.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        handles, names = [], []
        for number, (run, (training, held)) in enumerate(curves.items()):
            color = theme.series[number % len(theme.series)]
            prefix = f"{run}, " if len(curves) > 1 else ""
            if training:
                steps, values = zip(*smooth(training), strict=True)
                handles += axes.plot(steps, values, color=color, linewidth=1.3)
                names.append(f"{prefix}training rows")
            if held:
                steps, values = zip(*held, strict=True)
                marker = MARKERS[number % len(MARKERS)]
                handles += axes.plot(
                    steps, values, marker, linestyle="--", color=color, linewidth=1, markersize=4
                )
                names.append(f"{prefix}held-out rows")
        label_axes(axes, theme, "step", "mean over positions")
        add_legend(axes, theme, handles, names)

    alt = "; ".join(
        f"{run}, {what}: {curve[0][1]:.3g} at step {curve[0][0]:g}, {curve[-1][1]:.3g} at step "
        f"{curve[-1][0]:g}"
        for run, both in curves.items()
        for what, curve in zip(("training", "held out"), both, strict=True)
        if curve
    )
    return draw_plot(name, title, f"Loss by step. {alt}", draw, 2.6 + 0.2 * len(curves))


def smooth(curve: Curve) -> Curve:
    """Return a curve as means over windows of equal numbers of steps; a short one as it is."""
    if len(curve) < SMOOTH_FROM:
        return curve
    windows = np.array_split(np.asarray(curve, dtype=float), min(POINTS, len(curve) // 10))
    return [(float(step), float(value)) for step, value in (window.mean(0) for window in windows)]
