"""Plots of the study: reasoning against hearing, and both against training tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Page

from examples.study.variants import BASE

AXES = {"reasoning, seen": "reasoning", "hearing, seen": "hearing"}


def plane(summary: Mapping[str, Any], path: Path) -> None:
    """Draw every variant's hearing (across) and reasoning (up).

    Of one seed with its interval; of several their mean, and each seed as a small point: so few
    seeds may have an interval wider than the plane.
    """
    page = Page(figsize=(7, 5), layout="constrained")
    axes = page.subplots()
    for row in summary["variants"].values():
        up, across = (row["shares"][group] for group in AXES)
        one = not up["each"]
        drawn = axes.errorbar(
            [100 * across["value"]],
            [100 * up["value"]],
            xerr=_whisker(across) if one else None,
            yerr=_whisker(up) if one else None,
            fmt="o",
            capsize=3,
            label=row["title"],
        )
        places = [[100 * share for share in figure["each"]] for figure in (across, up)]
        axes.plot(*places, ".", color=drawn[0].get_color(), alpha=0.6)
    axes.set_xlabel("hearing: right answers, %")
    axes.set_ylabel("reasoning: right answers, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    page.savefig(path, dpi=120)


def _whisker(figure: Mapping[str, float]) -> list[list[float]]:
    value = figure["value"]
    return [[100 * (value - figure["low"])], [100 * (figure["high"] - value)]]


def curves(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Draw reasoning and hearing against training tokens: means over seeds, each seed thin."""
    page = Page(figsize=(10, 4.5), layout="constrained")
    for axes, (group, name) in zip(page.subplots(1, 2), AXES.items(), strict=True):
        for variant, row in summary["variants"].items():
            if variant == BASE:
                continue
            seeds = [_points(record, variant, group) for record in records]
            columns = list(zip(*seeds, strict=False))  # seeds may differ by a checkpoint
            means = [[sum(each) / len(each) for each in zip(*one, strict=True)] for one in columns]
            line = axes.plot(*zip(*means, strict=True), label=row["title"])
            for points in seeds if len(seeds) > 1 else ():
                color = line[0].get_color()
                axes.plot(*zip(*points, strict=True), color=color, alpha=0.25, linewidth=0.8)
        axes.set_xlabel("training tokens, thousands")
        axes.set_ylabel(f"{name}: right answers, %")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    page.savefig(path, dpi=120)


def _points(record: Mapping[str, Any], variant: str, group: str) -> list[tuple[float, float]]:
    """Return (thousands of tokens, right answers in per cent), the base model first."""
    found = {**record["found"]["before"]["curve"], **record["found"][variant]["curve"]}
    points = []
    for tokens, groups in sorted(found.items(), key=lambda item: int(item[0])):
        right, asked = groups[group]
        points.append((int(tokens) / 1000, 100 * right / asked))
    return points
