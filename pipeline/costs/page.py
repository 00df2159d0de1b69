"""The estimate as a page for people, and what it must be read with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.recipe import ExtractRecipe
from pipeline.units import size_text

MACHINES = (8, 64)
"""Numbers of workers that are told where none is asked for."""


def notes_on(recipe: ExtractRecipe, values: dict[str, Any], cold: Sequence[str]) -> list[str]:
    """Return what the estimate must be read with.

    Args:
        recipe: what would be extracted.
        values: the estimate.
        cold: steps whose time a sample has some start-up in it.
    """
    measured, steps = values["measured"], values["steps"]
    failed, most = sum(measured["failed"].values()), recipe.failures.max_fraction
    notes = []
    if failed > most * measured["rows"]:
        notes.append(
            f"{failed} of {measured['rows']} measured rows failed: extract-teachers stops above "
            f"{most:.1%} (--set failures.max_fraction=...)"
        )
    if measured["rows"] == 1 and not measured["exact"]:
        notes.append("one measured row gives no interval: raise --measure")
    if cold and values["samples"] > 1:
        notes.append(f"{', '.join(cold)}: too few rows to tell start-up from time a sample")
    for name, step in steps.items():
        full = min(step["batch"]["run"], step["samples"])
        if step["batch"]["measured"] < full:
            notes.append(
                f"{name}: measured {step['batch']['measured']} at a time, extract-teachers handles "
                f"{full}: its time is an upper bound and its memory a lower one, on a GPU by far; "
                f"--measure {2 * full} fills the batch"
            )
    if "textual" in steps and values["gpu_bytes"] and recipe.textual.engine == "vllm":
        part = recipe.textual.vllm.get("gpu_memory_utilization", 0.9)
        notes.append(f"vLLM takes {part:.0%} of a GPU's memory whatever the model")
    left = values["left"]
    if left is not None and "textual" not in steps and "acoustic" in steps:
        notes.append("acoustic: measured on answers; a tape with traces is read on its traces")
    high = values["bytes"]["high"]
    if left is None and values["disk"]["fits"] and (high or 0) > values["disk"]["free_bytes"]:
        notes.append("the upper end of the interval does not fit the free disk space")
    return notes


def page(values: dict[str, Any]) -> str:
    """Return the estimate as a page."""
    measured, disk = values["measured"], values["disk"]
    whole, seconds = values["bytes"], values["seconds"]
    cost = f"{_interval(whole, size_text)} and {_interval(seconds, _time)}"
    free = f"{size_text(disk['free_bytes'])} free at {disk['out']}"
    headline = f"{cost} for {_count(values['samples'])} samples; {free}"
    if not disk["fits"]:
        headline = f"DOES NOT FIT: {cost} for {_count(values['samples'])} samples, only {free}"
    how = "every row was measured" if measured["exact"] else "(95 % intervals: lengths vary)"
    lines = [headline, f"measured {measured['rows']} of {_count(values['samples'])} rows {how}"]
    lines += [f"  failed: {count} x {why}" for why, count in measured["failed"].items()]
    if values["worker"] != "0/1":
        lines.append(f"this is the share of --worker {values['worker']}")
    lines += ["", *_signals(values), "", *_steps(values)]
    if values["left"] is not None:
        left = values["left"]
        samples = ", ".join(f"{step} {_count(count)}" for step, count in left["samples"].items())
        lines += ["", f"left on the tape at {disk['out']}: {size_text(left['bytes'])} and "]
        lines[-1] += f"{_time(left['seconds'])}; samples left: {samples}"
    lines += ["", *map(page_of_projection, values["projections"])]
    lines += ["", *(f"note: {note}" for note in values["notes"])] if values["notes"] else []
    return "\n".join(lines)


def _signals(values: dict[str, Any]) -> list[str]:
    lines = [f"{'bytes':<24}{'in all':>28}{'a sample':>12}{'a token':>12}"]
    rows = {**values["signals"], "all, with the manifest": {"bytes": values["bytes"]}}
    for name, row in rows.items():
        facts = {**row["bytes"], **row}
        token = "" if facts["per_token"] is None else size_text(facts["per_token"])
        size = _interval(row["bytes"], size_text)
        lines.append(f"  {name:<22}{size:>28}{size_text(facts['per_sample']):>12}{token:>12}")
    return lines


def _steps(values: dict[str, Any]) -> list[str]:
    lines = [f"{'time':<14}{'start-up':>10}{'a sample':>12}{'in all':>28}{'host':>11}{'GPU':>11}"]
    for name, step in values["steps"].items():
        lines.append(
            f"  {name:<12}{_time(step['start_s']):>10}{_time(step['per_sample_s']):>12}"
            f"{_interval(step['seconds'], _time):>28}{size_text(step['host_bytes']):>11}"
            f"{'-' if step['gpu_bytes'] is None else size_text(step['gpu_bytes']):>11}"
        )
    return lines


def page_of_projection(row: dict[str, Any]) -> str:
    """Return what a larger data set would cost as a line."""
    each = ", ".join(f"{_time(one['seconds'])} on {one['workers']:,}" for one in row["on"])
    fastest = max(row["on"], key=lambda one: one["workers"])
    rate = f"{size_text(fastest['bytes_per_s'])} a second written by {fastest['workers']:,}"
    return (
        f"{row['samples']:>11,} samples like these: {size_text(row['bytes'])}, "
        f"{_time(row['seconds'])} on one machine, {each} (--worker auto); {rate}"
    )


def _interval(value: dict[str, Any], told: Any) -> str:
    if value["low"] is None or value["low"] == value["high"]:
        return str(told(value["estimate"]))
    return f"{told(value['estimate'])} ({told(value['low'])} - {told(value['high'])})"


def _count(number: int) -> str:
    return f"{number:,}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
