"""Loss curves a term, of training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache_schema.errors import UsageError
from train.evaluate.report.page import Section
from train.evaluate.report.plots.canvas import Plot
from train.evaluate.report.plots.lines import SMOOTH_FROM, Curve, curves_plot
from train.metrics import read_held_out, read_metrics
from train.rundir import RunDir

TOTAL = "loss"
Line = dict[str, Any]


def curves_section(runs: Mapping[str, Path]) -> Section:
    """Return the section on training.

    Args:
        runs: name -> the run's directory.

    Raises:
        UsageError: a directory holds no run, or one without a step.
    """
    lines = {name: _read(directory) for name, directory in runs.items()}
    terms = dict.fromkeys(
        term for steps, held in lines.values() for line in (*steps, *held) for term in line["terms"]
    )
    plots = [_plot(term, number, lines) for number, term in enumerate((TOTAL, *terms))]
    text = (
        "Values of the terms are unweighted means over the positions they apply to; the loss is "
        "their weighted sum. Cross-entropies and divergences are in nats, distances of states have "
        "no unit. Lines are training rows, markers held-out rows. "
        f"Curves of {SMOOTH_FROM} steps and more are drawn as means over windows of steps."
    )
    return Section(title="Training", text=[text], plots=plots)


def _read(directory: Path) -> tuple[list[Line], list[Line]]:
    path = RunDir(root=directory).metrics
    steps, held = read_metrics(path), read_held_out(path)
    if not steps and not held:
        raise UsageError(
            f"{directory} holds no training run ({path.name} is missing or empty); "
            "name the folder that 'train student --out' wrote"
        )
    return steps, held


def _plot(term: str, number: int, lines: Mapping[str, tuple[list[Line], list[Line]]]) -> Plot:
    curves = {
        name: (_curve(steps, term), _curve(held, term)) for name, (steps, held) in lines.items()
    }
    there = {name: both for name, both in curves.items() if any(both)}
    title = "Loss (weighted sum)" if term == TOTAL else f"Term {term}"
    return curves_plot(f"loss-{number}", title, there)


def _curve(lines: list[Line], term: str) -> Curve:
    if term == TOTAL:
        return [(line["step"], float(line["loss"])) for line in lines]
    return [
        (line["step"], float(line["terms"][term]["value"]))
        for line in lines
        if term in line["terms"]
    ]
