"""What a replay found, as lines of verify's page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.replay.found import BEYOND, EQUAL, WITHIN

_SAID = {
    EQUAL: "equal, bit by bit",
    WITHIN: "the same up to rounding",
    BEYOND: "DIFFERENT, beyond what rounding explains",
}


def replay_lines(values: dict[str, Any]) -> list[str]:
    """Return them."""
    lines = []
    for one in values["sources"]:
        lines += ["", *_source_lines(one, values["seed"])]
    return lines


def _source_lines(one: dict[str, Any], seed: int) -> Iterator[str]:
    yield f"replay of {one['source']}: {_SAID[one['verdict']]}"
    now, then = one["engine_version"], one["recorded_engine_version"]
    engine = f"{one['engine']} {now}" + ("" if now == then else f", recorded with {then}")
    yield f"  {one['teacher']} ({engine}; {one['dtype']}), {one['seconds']:.1f} s"
    chosen = ", ".join(one["samples"])
    yield f"  {len(one['samples'])} of {one['of']} samples (--seed {seed}): {chosen}"
    for signal in one["signals"]:
        yield from _signal_lines(signal)


def _signal_lines(signal: dict[str, Any]) -> Iterator[str]:
    rows, equal = signal["rows"], signal["equal"]
    yield f"  {signal['signal']:<10} {_SAID[signal['verdict']]}: {equal} of {rows} rows equal"
    ties = signal["near_ties"]
    for line in ties["first"]:
        yield f"    near tie: {line}"
    if ties["count"] > len(ties["first"]):
        yield f"    ... and {ties['count'] - len(ties['first'])} more near ties"
    if signal["verdict"] == EQUAL:
        return
    for name, measure in signal["measures"].items():
        bound = "" if measure["bound"] is None else f", expected at most {measure['bound']:.3g}"
        worst = f"{measure['worst']:.3g} ({measure['worst_sample']})"
        yield f"    {name}: worst {worst}{bound}; mean {measure['mean']:.3g}"
