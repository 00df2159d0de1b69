"""``pipeline estimate``: what a tape will cost, from a few measured rows.

The real steps run on the rows, into a temporary folder; nothing is written to ``--out``. What the
libraries download or keep in caches of their own stays there, as it does when extracting.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_schema import Tape, open_tape
from cache_schema.errors import UsageError
from cache_schema.maker import GroupInfo, refuse_other_maker
from cache_schema.signals import HEARD
from cache_schema.takeover import check_output
from pipeline.costs import plan as planning
from pipeline.costs.measure import measure, rows_of, spread
from pipeline.costs.page import MACHINES, notes_on
from pipeline.costs.plan import Plan
from pipeline.costs.watch import ending_means_cleaning
from pipeline.costs.weigh import bytes_a_shard
from pipeline.extract import check, check_step, wanted_steps
from pipeline.recipe import ExtractRecipe
from pipeline.step import STEPS, group_of

DEFAULT_ROWS = 16
PROJECTED_SAMPLES = (10**6, 10**8)


def estimate(
    recipe: ExtractRecipe,
    only: str | None,
    num_rows: int = DEFAULT_ROWS,
    debug: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Measure a few rows and return what all of them will cost, as JSON values.

    Args:
        recipe: what would be extracted.
        only: one step, or ``None`` for all.
        num_rows: rows to measure.
        debug: whether a failing step shows its traceback.
        workers: machines like this one, or GPUs, to project larger data sets on.

    Raises:
        UsageError: a flag is wrong.
        ProvenanceError: the tape at ``--out`` was made with other settings.
        TeachertapeError: ``extract-teachers`` would fail, or a step did on the measured rows.
    """
    if num_rows < 1:
        raise UsageError(f"--measure: expected at least 1, got {num_rows}")
    if recipe.is_leased or recipe.cluster.kind:  # what any number of workers do together
        recipe = replace(recipe, worker="0/1", cluster=replace(recipe.cluster, kind=""))
    reported, needed = _steps(recipe, only)
    check(recipe)
    there = check_output(Path(recipe.tape.out))
    rows = rows_of(recipe)
    if not rows:
        raise UsageError(f"--worker {recipe.worker}: the dataset has fewer rows than workers")
    chosen = spread(rows, num_rows, recipe.seed)
    with (
        ending_means_cleaning(),
        tempfile.TemporaryDirectory(prefix="teachertape-estimate-") as folder,
    ):
        timings = measure(recipe, needed, chosen, Path(folder), debug)
        tape = open_tape(Path(folder) / "tape")
        old = open_tape(recipe.tape.out) if there else None
        if old is not None:
            refuse_other_makers(old, tape, reported)
        plans = {
            step: planning.plan_step(recipe, step, len(rows), chosen, timings[step], tape)
            for step in reported
        }
        rest = bytes_a_shard(tape)
        failed = Counter(f"{item.group}: {item.reason}" for item in tape.quarantined)
    left = None if old is None else _left(recipe, old, plans, rest, rows)
    machines = (workers,) if workers is not None else MACHINES
    values = _values(recipe, plans, rest, len(rows), len(chosen), machines)
    values["measured"] = {
        "rows": len(chosen),
        "failed": dict(failed),
        "exact": len(chosen) == len(rows),
    }
    values["left"] = left
    needed_bytes = values["bytes"]["estimate"] if left is None else left["bytes"]
    values["disk"] = _disk(recipe.tape.out, needed_bytes)
    values["notes"] = notes_on(recipe, values, [s for s in plans if plans[s].timing.cold])
    return values


def _steps(recipe: ExtractRecipe, only: str | None) -> tuple[list[str], list[str]]:
    """Return the steps to report, and those that must be measured for them."""
    wanted = wanted_steps(recipe)
    if only is None:
        return wanted, wanted
    check_step(only, recipe)
    before = STEPS[: STEPS.index(only)]
    return [only], [*(step for step in before if step in wanted), only]


def refuse_other_makers(old: Tape, measured: Tape, steps: Sequence[str]) -> None:
    """Refuse what the steps would refuse when they add to a tape that is there.

    Raises:
        ProvenanceError: naming what differs.
    """
    for name, group in measured.groups.items():
        if name in old.groups and _step_of(group) in steps:
            refuse_other_maker(old.groups[name], group)


def _step_of(group: GroupInfo) -> str:
    """Return the step that adds to a group; what listeners fill is part of ``textualize``."""
    steps = {"samples": "ingest", "descriptions": "textualize", HEARD: "textualize"}
    return steps.get(group.kind, group.kind)


def _left(
    recipe: ExtractRecipe, old: Tape, plans: Mapping[str, Plan], rest: float, rows: range
) -> dict[str, Any]:
    """Return what is still to be done on a tape that is there."""
    limit = recipe.dataset.limit or math.inf
    mine = {row.sample_id for row in old if row.row_index in rows and row.row_index < limit}
    samples, left_bytes, left_s = {}, 0.0, 0.0
    for step, plan in plans.items():
        group = group_of(step, recipe)
        failed = {q.sample_id for q in old.quarantined if q.group == group and q.row_index in rows}
        done = (old.recorded(group) & mine) | failed
        samples[step] = max(plan.samples - len(done), 0)
        part = samples[step] / max(plan.samples, 1)
        left_bytes += planning.total_bytes({step: plan}, rest, part)
        left_s += plan.seconds(samples[step]) if samples[step] else 0.0
    return {"samples": samples, "bytes": left_bytes, "seconds": left_s}


def _disk(out: str, needed_bytes: float) -> dict[str, Any]:
    """Compare with what is free where the tape would be."""
    folder = Path(out).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return {"out": out, "free_bytes": free, "fits": needed_bytes <= free}


def _values(
    recipe: ExtractRecipe,
    plans: Mapping[str, Plan],
    rest: float,
    population: int,
    measured: int,
    machines: Sequence[int],
) -> dict[str, Any]:
    """Put what was planned together; the keys are a contract."""
    total = planning.total_bytes(plans, rest)
    half = planning.half_width(planning.bytes_a_row(plans), population)
    steps = {name: planning.step_values(plan, population) for name, plan in plans.items()}
    spans = [step["seconds"] for step in steps.values()]
    known = all(span["low"] is not None for span in spans)
    gpu = [step["gpu_bytes"] for step in steps.values() if step["gpu_bytes"] is not None]
    tokens = [plan.trace_tokens for plan in plans.values() if plan.trace_tokens]
    return {
        "dataset": recipe.dataset.path,
        "samples": population,
        "worker": recipe.worker,
        "measured": {"rows": measured},
        "bytes": {
            **planning.about(total, None if half is None else half * population),
            "per_sample": total / population,
            "per_token": total / (tokens[0] * population) if tokens else None,
        },
        "seconds": {
            "estimate": sum(span["estimate"] for span in spans),
            "low": sum(span["low"] for span in spans) if known else None,
            "high": sum(span["high"] for span in spans) if known else None,
        },
        "host_bytes": max(step["host_bytes"] for step in steps.values()),
        "gpu_bytes": max(gpu) if gpu else None,
        "signals": {
            name: planning.weight_values(plan, weight, population)
            for plan in plans.values()
            for name, weight in plan.weights.items()
        },
        "manifest_bytes": rest * sum(plan.shards(plan.recorded) for plan in plans.values()),
        "steps": steps,
        "projections": [
            planning.projection(plans, rest, population, count, machines, recipe.portion_rows)
            for count in PROJECTED_SAMPLES
        ],
    }
