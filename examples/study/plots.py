"""Plots of the study: reasoning against hearing, and both against training tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Page

from examples.study.summary import over_seeds, wilson
from examples.study.variants import BASE

AXES = {"reasoning, seen": "reasoning", "hearing, seen": "hearing"}


def plane(summary: Mapping[str, Any], path: Path) -> None:
    """Draw every variant's hearing (across) and reasoning (up), with intervals."""
    page = Page(figsize=(7, 5), layout="constrained")
    axes = page.subplots()
    for row in summary["variants"].values():
        up, across = (row["shares"][group] for group in AXES)
        axes.errorbar(
            [100 * across["value"]],
            [100 * up["value"]],
            xerr=_whisker(across),
            yerr=_whisker(up),
            fmt="o",
            capsize=3,
            label=row["title"],
        )
    axes.set_xlabel("hearing: right answers, %")
    axes.set_ylabel("reasoning: right answers, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    page.savefig(path, dpi=120)


def _whisker(figure: Mapping[str, float]) -> list[list[float]]:
    value = figure["value"]
    return [[100 * (value - figure["low"])], [100 * (figure["high"] - value)]]


def curves(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Draw reasoning and hearing against training tokens, a line a variant, bands over seeds."""
    page = Page(figsize=(10, 4.5), layout="constrained")
    for axes, (group, name) in zip(page.subplots(1, 2), AXES.items(), strict=True):
        for variant, row in summary["variants"].items():
            if variant == BASE:
                continue
            points = _points(records, variant, group)
            tokens = [place / 1000 for place, _, _, _ in points]
            line = axes.plot(tokens, [100 * value for _, value, _, _ in points], label=row["title"])
            axes.fill_between(
                tokens,
                [100 * low for _, _, low, _ in points],
                [100 * high for _, _, _, high in points],
                alpha=0.1,
                color=line[0].get_color(),
                linewidth=0,
            )
        axes.set_xlabel("training tokens, thousands")
        axes.set_ylabel(f"{name}: right answers, %")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    page.savefig(path, dpi=120)


def _points(
    records: Sequence[Mapping[str, Any]], variant: str, group: str
) -> list[tuple[float, float, float, float]]:
    """Return (tokens, share, low, high), the base model first; the n-th points of all seeds."""
    curves = [
        {**record["found"]["before"]["curve"], **record["found"][variant]["curve"]}
        for record in records
    ]
    found = []
    for points in zip(*(sorted((int(key), key) for key in one) for one in curves), strict=False):
        pairs = [one[key][group] for one, (_, key) in zip(curves, points, strict=True)]
        shares = [right / asked for right, asked in pairs]
        figure = over_seeds(shares) if len(shares) > 1 else wilson(*pairs[0])
        tokens = sum(place for place, _ in points) / len(points)
        found.append((tokens, figure.value, figure.low, figure.high))
    return found
