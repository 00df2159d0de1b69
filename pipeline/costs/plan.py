"""From measured rows to all of them: bytes, seconds and memory of each step.

Of a shard's bytes a part is there once (schemas, array metadata, the manifest's line) and a part
grows with its samples. Time is start-up + samples x time a sample + shards x time to commit one.
The interval is that of the mean of N rows drawn at random (95 %, Student's t, without replacement):
it knows that lengths vary, and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema import Tape
from cache_schema.signals import HEARD
from cache_schema.types import TEXT_SOURCE
from pipeline.costs.measure import Timing
from pipeline.costs.weigh import Numbers, TableWeight, present, weights_of, work_of
from pipeline.recipe import ExtractRecipe
from pipeline.step import group_of

BYTES_A_SAMPLE, INDEX_BYTES_A_ROW = 320, 24
"""Memory a step takes for one sample of the tape it reads, whatever its length, and for each row of
its tables when the index is made: the bars, and the figure with traces, of ``benchmarks/run.py
streaming``."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step was measured at, and how that grows.

    Attributes:
        population: rows of the dataset.
        samples: samples the step will take on.
        recorded: samples it will record.
        per_sample_s: time of one, warm.
        spread: half of the interval of the mean amount of work, as a part of it; ``None`` unknown.
        per_shard: samples a shard holds.
        weights: group and table -> what it records.
        timing: what its process showed.
        batch: samples it will handle together.
        table_rows: rows a sample has in the tables that are indexed, on average.
    """

    population: int
    samples: int
    recorded: int
    per_sample_s: float
    spread: float | None
    per_shard: int
    weights: Mapping[str, TableWeight]
    timing: Timing
    batch: int
    table_rows: float

    def shards(self, samples: int) -> int:
        """Return how many shards so many samples make."""
        return math.ceil(samples / self.per_shard)

    def seconds(self, samples: int) -> float:
        """Return the time of so many samples."""
        commits_s = self.timing.commit_s * self.shards(samples)
        return self.timing.start_s + samples * self.per_sample_s + commits_s

    @property
    def trace_tokens(self) -> float:
        """Tokens of the traces of a dataset row, on average; 0 if this step records none."""
        trace = self.weights.get(f"{TEXT_SOURCE}/trace")
        return 0.0 if trace is None else float(trace.tokens.mean())


def plan_step(
    recipe: ExtractRecipe,
    step: str,
    population: int,
    chosen: Sequence[int],
    timing: Timing,
    tape: Tape,
) -> Plan:
    """Return what one step was measured at.

    Args:
        recipe: what would be extracted.
        step: its name.
        population: rows of the dataset that are this worker's.
        chosen: those that were measured.
        timing: what the step's process showed.
        tape: what the steps made of the measured rows.
    """
    group = group_of(step, recipe)
    weights = weights_of(tape, group, chosen)
    if step == "textualize":
        for name, shards in tape.shards.items():
            if tape.groups[name].kind == HEARD and shards:
                weights |= weights_of(tape, name, chosen)
    work = work_of(step, tape, chosen)
    recorded = len(tape.recorded(group))
    growing = sum(float(weight.growing.sum()) for weight in weights.values()) / recorded
    fitting = (recipe.tape.shard_mb << 20) / max(growing, 1.0)  # padding may hide one short row
    per_shard = max(1, int(min(recipe.tape.shard_samples, fitting)))
    per_sample_s = timing.timed_s / max(timing.timed, 1)
    if step == "textual" and not timing.cold:  # the timed batch may have had longer traces
        handled = work[present(tape, tape.recorded("descriptions"), chosen) > 0]
        per_sample_s *= _share(handled, handled[-timing.timed :])
    half, mean = half_width(work, population), float(work.mean())
    batches = {
        "textual": recipe.textual.batch_samples,
        "acoustic": recipe.acoustic.batch_size or timing.batch,
    }
    return Plan(
        population=population,
        samples=round(population * timing.handled / len(chosen)),
        recorded=round(population * recorded / len(chosen)),
        per_sample_s=per_sample_s,
        spread=None if half is None or mean == 0 else half / mean,
        per_shard=per_shard,
        weights=weights,
        timing=timing,
        batch=batches.get(step, 1),
        table_rows=len(tape.catalog.index.row_key) / len(tape),
    )


def _share(handled: Numbers, timed: Numbers) -> float:
    """Return how much more work a handled row was than a timed one; failed rows tell nothing."""
    means = [float(work[work > 0].mean()) for work in (handled, timed) if (work > 0).any()]
    return means[0] / means[1] if len(means) == 2 else 1.0


def half_width(values: Numbers, population: int) -> float | None:
    """Return half of the 95 % interval of the mean of a sample without replacement."""
    count = len(values)
    if count == population:
        return 0.0
    if count == 1:
        return None
    z, free = 1.96, count - 1  # Student's t by Cornish and Fisher's expansion
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return t * float(values.std(ddof=1)) * math.sqrt((1 - count / population) / count)


def about(value: float, half: float | None) -> dict[str, float | None]:
    """Return an estimate and its interval."""
    low, high = (None, None) if half is None else (max(value - half, 0.0), value + half)
    return {"estimate": value, "low": low, "high": high}


def total_bytes(plans: Mapping[str, Plan], rest: float, factor: float = 1.0) -> float:
    """Return the bytes of ``factor`` times this dataset's samples.

    Args:
        plans: step -> what it was measured at.
        rest: bytes a shard beside its tables.
        factor: how many times the samples.
    """
    total = 0.0
    for plan in plans.values():
        count = round(plan.recorded * factor)
        once = rest + sum(weight.once for weight in plan.weights.values())
        growing = sum(float(weight.growing.mean()) for weight in plan.weights.values())
        total += plan.shards(count) * once + plan.population * growing * factor
    return total


def bytes_a_row(plans: Mapping[str, Plan]) -> Numbers:
    """Return what each measured row weighs, all tables together, [N]."""
    weights: Numbers = np.sum(
        [weight.growing for plan in plans.values() for weight in plan.weights.values()], axis=0
    )
    return weights


def step_values(plan: Plan, total: int) -> dict[str, Any]:
    """Return a step as JSON values; ``total`` samples are on the tape it reads."""
    timing = plan.timing
    seconds = plan.seconds(plan.samples)
    width = None if plan.spread is None else plan.samples * plan.per_sample_s * plan.spread
    tables = sum(
        float(w.growing.sum()) for name, w in plan.weights.items() if not name.endswith("/hidden")
    )
    a_sample = tables / max(int(timing.handled), 1)
    gathered = 2 * a_sample * min(plan.per_shard, plan.recorded)  # rows, and the table made of them
    index = total * (BYTES_A_SAMPLE + INDEX_BYTES_A_ROW * plan.table_rows)
    return {
        "samples": plan.samples,
        "start_s": timing.start_s,
        "per_sample_s": plan.per_sample_s,
        "commit_s": timing.commit_s,
        "seconds": about(seconds, width),
        "host_bytes": int(timing.host_bytes + gathered + index),
        "gpu_bytes": timing.gpu_bytes,
        "batch": {"measured": timing.batch, "run": plan.batch},
    }


def weight_values(plan: Plan, weight: TableWeight, population: int) -> dict[str, Any]:
    """Return what a table weighs as JSON values."""
    growing, tokens = float(weight.growing.mean()) * population, float(weight.tokens.mean())
    half = half_width(weight.growing, population)
    total = growing + weight.once * plan.shards(plan.recorded)
    return {
        "bytes": about(total, None if half is None else half * population),
        "per_sample": total / max(plan.recorded, 1),
        "per_token": total / (tokens * population) if tokens else None,
    }


def projection(
    plans: Mapping[str, Plan],
    rest: float,
    population: int,
    samples: int,
    workers: Sequence[int],
    portion_rows: int,
) -> dict[str, Any]:
    """Return what so many samples like these would cost, on one machine and on several like it.

    Every worker starts each step once, and takes whole portions; a step begins when the one before
    is done. What they share, the disk and the data set's server, is not measured: what they
    would write in a second is told instead.

    Args:
        plans: step -> what it was measured at.
        rest: bytes a shard beside its tables.
        population: rows of the dataset.
        samples: of the larger one.
        workers: numbers of machines.
        portion_rows: rows a worker takes at a time.
    """
    factor = samples / population
    size = total_bytes(plans, rest, factor)
    on = []
    for count in workers:
        seconds = 0.0
        for plan in plans.values():
            whole = round(plan.samples * factor)
            portions = math.ceil(math.ceil(whole / portion_rows) / count)
            seconds += plan.seconds(min(whole, portions * portion_rows))
        on.append({"workers": count, "seconds": seconds, "bytes_per_s": size / seconds})
    seconds = sum(plan.seconds(round(plan.samples * factor)) for plan in plans.values())
    return {"samples": samples, "bytes": size, "seconds": seconds, "on": on}
