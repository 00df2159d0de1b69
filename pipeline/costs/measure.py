"""The measuring behind ``pipeline estimate``: real steps on a few rows, in a folder that goes away.

Each step runs in a process of its own, as in ``extract-teachers``, on rows drawn one from each of N
equal stretches of the dataset: spread evenly, without falling into step with a pattern in it. What
it says of itself is when its counter moved; from outside, its memory is looked at ten times a
second.

Start-up must not be multiplied by the samples, so the clock that counts runs when all is warm. A
step is run on one row first and on the others then, which is one more load of the model. The
textual step would start its engine twice, so it is run once, in two batches, the second of which
counts.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema import open_tape
from cache_schema.commands.console import REPORTED, report_error, say
from cache_schema.commands.progress import Counter
from cache_schema.commands.recipes import as_toml, load_recipe
from cache_schema.errors import QuarantineError, UsageError
from pipeline.audio.resample import load_resampler
from pipeline.costs.watch import Watched, own_peak_bytes
from pipeline.dataset.rows import open_rows
from pipeline.extract import StepFailedError, run_step
from pipeline.recipe import ExtractRecipe
from pipeline.step import group_of


@dataclass(frozen=True, kw_only=True)
class MeasuredRecipe(ExtractRecipe):
    """A recipe whose worker handles a few rows only.

    Attributes:
        rows: their indexes.
    """

    rows: frozenset[int] = frozenset()

    def mine(self, row_indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these rows are among the few, bool [n]."""
        return np.isin(row_indices, np.fromiter(self.rows, np.int64, len(self.rows)))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one step's process showed.

    Attributes:
        start_s: start-up and end: imports, the dataset opened, the model or the engine loaded.
        timed_s: time of the samples that were timed warm.
        timed: how many they are, the last ones of those handled.
        handled: samples the step took on, the ones that failed included.
        commit_s: time to commit a shard once its samples are handed over.
        batch: samples handled together, at most.
        cold: whether nothing was warm, so that ``timed_s`` has some start-up in it.
        host_bytes: largest memory of its processes together.
        gpu_bytes: largest memory taken on one GPU, ``None`` without one.
    """

    start_s: float
    timed_s: float
    timed: int
    handled: int
    commit_s: float
    batch: int
    cold: bool
    host_bytes: int
    gpu_bytes: int | None


def rows_of(recipe: ExtractRecipe) -> range:
    """Return the indexes of this worker's rows.

    Raises:
        DatasetError: the dataset cannot be used.
    """
    return range(recipe.worker_index, len(open_rows(recipe.dataset)), recipe.num_workers)


def spread(rows: Sequence[int], count: int, seed: int) -> list[int]:
    """Draw one row from each of ``count`` equal stretches; all of them where there are no more."""
    if count >= len(rows):
        return list(rows)
    draw = random.Random(seed)
    edges = [len(rows) * i // count for i in range(count + 1)]
    return [rows[draw.randrange(a, b)] for a, b in pairwise(edges)]


def measure(
    recipe: ExtractRecipe, steps: Sequence[str], rows: Sequence[int], folder: Path, debug: bool
) -> dict[str, Timing]:
    """Run the steps on a few rows, into ``folder / "tape"``.

    Raises:
        StepFailedError: a step failed; it has said why.
        UsageError: a step found its settings wrong.
        QuarantineError: a step could record none of the rows.
    """
    tape = folder / "tape"
    few = replace(
        recipe,
        tape=replace(recipe.tape, out=str(tape), shard_mb=1 << 20, shard_samples=1 << 30),
        failures=replace(recipe.failures, max_fraction=1.0),
    )
    (folder / "recipe.toml").write_text(as_toml(few), encoding="utf-8")
    (folder / "rows.json").write_text(json.dumps(list(rows)), encoding="utf-8")
    timings = {}
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step}: measuring {len(rows)} rows")
        timings[step] = _run(step, folder, debug)
        opened = open_tape(tape)
        if not opened.recorded(group_of(step, recipe)):
            reasons = {f"{q.group}: {q.reason}: {q.detail}": 0 for q in opened.quarantined}
            shown = "\n".join(f"  {reason}" for reason in list(reasons)[:5])
            raise QuarantineError(f"{step}: none of {len(rows)} measured rows succeeded:\n{shown}")
    return timings


def _run(step: str, folder: Path, debug: bool) -> Timing:
    command = [sys.executable, "-m", "pipeline.costs.measure", step, str(folder)]
    spawned_s = time.monotonic()
    with Watched([*command, *(["--debug"] if debug else [])], folder) as watched:
        status = watched.wait()
    ended_s = time.monotonic()
    if status != 0:
        failed = UsageError if status == 2 else StepFailedError
        raise failed(f"step {step} failed (exit status {status})")
    told = json.loads((folder / f"{step}.json").read_text(encoding="utf-8"))
    return _timing(told, watched, spawned_s, ended_s)


def _timing(told: dict[str, Any], watched: Watched, spawned_s: float, ended_s: float) -> Timing:
    """Tell start-up from work: see the module's description."""
    counters: list[dict[str, Any]] = told["counters"]
    memory = {"host_bytes": max(watched.host_bytes, told["host_bytes"])}
    if not counters:  # there was nothing to do; the caller finds nothing recorded
        counters = [{"opened_s": ended_s, "marks": [[ended_s, 0]], "closed_s": ended_s}]
    first, last = counters[0], counters[-1]
    times_s = [last["opened_s"], *(time_s for time_s, _ in last["marks"])]
    counts = [0, *(count for _, count in last["marks"])]
    cold = len(counters) == 1 and len(counts) < 3
    begin = 1 if len(counters) == 1 and not cold else 0
    timed = sum(counts[begin + 1 :])
    timed_s = times_s[-1] - times_s[begin]
    handled = sum(count for counter in counters for _, count in counter["marks"])
    warming = first["marks"][0]
    excess_s = warming[0] - first["opened_s"] - warming[1] * timed_s / max(timed, 1)
    return Timing(
        start_s=first["opened_s"]
        - spawned_s
        + (0.0 if cold else max(excess_s, 0.0))
        + (ended_s - last["closed_s"]),
        timed_s=timed_s,
        timed=timed,
        handled=handled,
        commit_s=last["closed_s"] - times_s[-1],
        batch=max(counts),
        cold=cold,
        gpu_bytes=watched.gpu_bytes,
        **memory,
    )


def _watch_counters() -> list[dict[str, Any]]:
    """From now on, note when each step's counter opens, moves and closes; in this process only."""
    seen: list[dict[str, Any]] = []
    opened, advance, closed = Counter.__init__, Counter.advance, Counter.__exit__

    def noted_open(self: Counter, *told: Any) -> None:
        seen.append({"opened_s": time.monotonic(), "marks": []})
        opened(self, *told)

    def noted_advance(self: Counter, count: int = 1) -> None:
        seen[-1]["marks"].append([time.monotonic(), count])
        advance(self, count)

    def noted_close(self: Counter, *error: Any) -> None:
        seen[-1]["closed_s"] = time.monotonic()
        closed(self, *error)

    for name, function in (
        ("__init__", noted_open),
        ("advance", noted_advance),
        ("__exit__", noted_close),
    ):
        setattr(Counter, name, function)
    return seen


def as_one(counters: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the counters that one run opened one after the other as one, or none.

    Listeners go over all samples before the first is described: the last counter's marks are kept,
    the time of the others comes before them. What lies between two, a model that is loaded, is put
    before the first: it is start-up.
    """
    if not counters:
        return []
    first, last = counters[0], counters[-1]
    between_s = sum(b["opened_s"] - a["closed_s"] for a, b in pairwise(counters))
    return [{**last, "opened_s": first["opened_s"] + between_s}]


def _run_measured(step: str, folder: Path) -> None:
    """Run one step in this process and leave its times in the folder."""
    seen = _watch_counters()
    counters: list[dict[str, Any]] = []
    loaded = load_recipe(ExtractRecipe, folder / "recipe.toml")
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    recipe = MeasuredRecipe(**vars(loaded), rows=frozenset(rows))
    if step == "textual":
        described = len(open_tape(recipe.tape.out).recorded("descriptions"))
        half = max(1, min(recipe.textual.batch_samples, (described + 1) // 2))
        recipe = replace(recipe, textual=replace(recipe.textual, batch_samples=half))
    else:
        if step != "ingest":
            tape = open_tape(recipe.tape.out)
            bad = {q.sample_id for q in tape.quarantined}
            rows = [row.row_index for row in tape if row.sample_id not in bad] or rows
        if step == "ingest":
            load_resampler()  # once, at the first recording of another rate: not a row's work
        if len(rows) > 1:
            run_step(step, replace(recipe, rows=frozenset(rows[:1])))
            counters += as_one(seen)
            seen.clear()
    run_step(step, recipe)
    counters += as_one(seen) if step == "textualize" else seen
    told = {"counters": counters, "host_bytes": own_peak_bytes()}
    (folder / f"{step}.json").write_text(json.dumps(told), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Run one measured step: ``python -m pipeline.costs.measure STEP FOLDER [--debug]``."""
    try:
        _run_measured(arguments[0], Path(arguments[1]))
    except KeyboardInterrupt:
        return 130
    except REPORTED as error:
        return report_error(error, "--debug" in arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
