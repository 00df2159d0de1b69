"""A source on the tape and the same made again: row by row, signal by signal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cache_schema import Tape, TapeRow
from cache_schema.maker import GroupInfo
from cache_schema.signals import CLASS_SIGNALS
from cache_schema.types import (
    TEXT_SOURCE,
    Embedding,
    FrameLogits,
    Lens,
    Sampled,
    TopK,
)
from pipeline.replay.bounds import LOSSY_FACTOR, Bounds, bounds_of
from pipeline.replay.found import Found
from pipeline.replay.measure import Distributions, drawn_moved, kl_of, relative_l2
from pipeline.replay.traces import Pair, compare_traces

Measures = dict[str, tuple[float, float | None]]
Compared = tuple[bool, Measures, str]
"""Whether every number is the same, the measures, and what no measure says."""

_SECONDS = 1e-4
"""Seconds that a position's times may differ."""


def compare_source(again: Tape, info: GroupInfo, rows: Iterable[TapeRow]) -> list[Found]:
    """Compare the samples of a source.

    Args:
        again: the replay.
        info: the source, as the tape has it.
        rows: the samples on the tape.

    Returns:
        What was found, a signal each; ``samples`` besides where one was not made again.

    Raises:
        TapeError: something on the tape is damaged.
    """
    bounds = bounds_of(info)
    found = {name: Found(name) for name in ("samples", *info.signals)}
    made = again.recorded(info.group)
    failed = {one.sample_id: one for one in again.quarantined if one.group == info.group}
    for row in rows:
        if row.sample_id not in made:
            one = failed.get(row.sample_id)
            why = "nothing was recorded" if one is None else f"{one.reason}: {one.detail}"
            found["samples"].add(row.sample_id, equal=False, problem=f"not made again: {why}")
            continue
        other = again[row.sample_id]
        pairs = None
        if "trace" in info.signals and info.kind == TEXT_SOURCE:
            pairs = compare_traces(found["trace"], info, bounds, row, other)
        for signal in info.signals:
            if signal != "trace":
                _compare_signal(found[signal], info, bounds, (row, other), pairs)
    return [one for one in found.values() if one.rows or one.num_beyond or one.signal != "samples"]


def _compare_signal(
    found: Found,
    info: GroupInfo,
    bounds: Bounds,
    both: tuple[TapeRow, TapeRow],
    pairs: Mapping[int, Pair] | None,
) -> None:
    row, other = both
    name = f"{info.group}/{found.signal}"
    there = other.traces_of(name)
    matched = set()
    for index in row.traces_of(name):
        pair = Pair(again=index) if pairs is None else pairs.get(index)
        if pair is None:
            continue  # the trace was not made, or kept, again: counted there
        matched.add(pair.again)
        if pair.again not in there:
            found.add(row.sample_id, equal=False, problem=f"row {index} was not made again")
            continue
        if found.signal == "hidden":
            compared = _hidden(info, bounds, both, index, pair)
        else:
            values = row.signal(name, index), other.signal(name, pair.again)
            compared = COMPARERS[found.signal](*values, pair.turns_off, bounds)
        found.add(row.sample_id, equal=compared[0], measures=compared[1], problem=compared[2])
    expected = set(there) if pairs is None else {pair.again for pair in pairs.values()} & set(there)
    for index in sorted(expected - matched):
        found.refuse(row.sample_id, f"row {index} is made again, and is not on the tape")


def _cut(turns_off: int | None) -> tuple[slice, slice]:
    """Return the positions that are compared, and those whose next token must be equal."""
    if turns_off is None:
        return slice(None), slice(None)
    return slice(turns_off + 1), slice(turns_off)


def _distributions(
    tape: TopK | Lens, again: TopK | Lens, turns_off: int | None, bounds: Bounds
) -> Compared:
    here, before = _cut(turns_off)
    if not np.array_equal(tape.target_ids[before], again.target_ids[before]):
        return False, {}, "its tokens are others"
    one, two = (
        Distributions(d.token_ids[here], d.logprobs[here], d.tail[here]) for d in (tape, again)
    )
    if one.ids.shape != two.ids.shape:
        return False, {}, f"its shape is {one.ids.shape}, made again {two.ids.shape}"
    equal = one.equals(two)
    if not len(one.tail):
        return equal, {}, ""
    if isinstance(tape, TopK):
        return equal, _of_layer("", one, two, bounds), ""
    measures: Measures = {}
    for number, layer in enumerate(tape.layers):
        parts = [d.part((slice(None), number)) for d in (one, two)]
        measures |= _of_layer(f" of layer {layer}", parts[0], parts[1], bounds)
    return equal, measures, ""


def _of_layer(name: str, one: Distributions, two: Distributions, bounds: Bounds) -> Measures:
    nats = kl_of(one, two)
    tops = one.ids[:, :1] == two.ids[:, :1]
    return {
        f"KL{name}": (float(nats.max()), bounds.kl_max),
        f"mean KL{name}": (float(nats.mean()), None),
        f"other top-1{name}": (float(1 - tops.mean()) if tops.size else 0.0, None),
    }


def _drawn(tape: Sampled, again: Sampled, turns_off: int | None, bounds: Bounds) -> Compared:
    here, before = _cut(turns_off)
    if not np.array_equal(tape.target_ids[before], again.target_ids[before]):
        return False, {}, "its tokens are others"
    if tape.num_draws != again.num_draws:
        return False, {}, f"{tape.num_draws} draws, made again {again.num_draws}"
    tokens = len(tape.target_ids[here])
    moved = drawn_moved(tape, again, tokens)
    share = max(0, moved - 1) / max(1, tokens * tape.num_draws)
    return moved == 0, {"drawn otherwise": (share, bounds.drawn_moved)}, ""


def _vector(tape: Any, again: Any, _: int | None, bounds: Bounds) -> Compared:
    one, two = (v.values if isinstance(v, Embedding) else v.logits for v in (tape, again))
    if one.shape != two.shape:
        return False, {}, f"its shape is {one.shape}, made again {two.shape}"
    problem = ""
    if isinstance(tape, FrameLogits) and not _same_times(tape.times_s, again.times_s):
        problem = "its frames' times are others"
    measures: Measures = {"relative error": (relative_l2(one, two), bounds.rel_l2)}
    return not problem and np.array_equal(one, two), measures, problem


COMPARERS: dict[str, Callable[[Any, Any, int | None, Bounds], Compared]] = {
    "topk": _distributions,
    "lens": _distributions,
    "sampled": _drawn,
    **dict.fromkeys(CLASS_SIGNALS, _vector),
}
"""Signal -> what compares its rows, of all but traces and states."""


def _hidden(
    info: GroupInfo, bounds: Bounds, both: tuple[TapeRow, TapeRow], index: int, pair: Pair
) -> Compared:
    """Compare states, a layer each; what ``lossy2x`` lost was measured, and is allowed for."""
    name = f"{info.group}/hidden"
    layers = tuple(info.signals["hidden"]["layers"])
    place = both[0].hidden_place(name, index, layers)
    tape, again = place.read(), both[1].hidden_place(name, pair.again, layers).read()
    here, before = _cut(pair.turns_off)
    one, two = tape.states[here], again.states[here]
    if tape.kind != again.kind or one.shape != two.shape:
        told = [f"{len(s)} states of kind {h.kind}" for h, s in ((tape, one), (again, two))]
        return False, {}, f"{told[0]}, made again {told[1]}"
    problem = ""
    if not _same_ids(tape.target_ids, again.target_ids, before):
        problem = "its tokens are others"
    elif not _same_times(tape.times_s, again.times_s):
        problem = "its positions' times are others"
    measures: Measures = {}
    for number, layer in enumerate(layers):
        lost = place.states.errors.get(str(layer), {}).get("standardised_relative_error", 0.0)
        error = relative_l2(one[:, number], two[:, number])
        measures[f"relative error of layer {layer}"] = (error, bounds.rel_l2 + LOSSY_FACTOR * lost)
        if lost:
            measures[f"lossy2x recorded of layer {layer}"] = (lost, None)
    return not problem and np.array_equal(one, two), measures, problem


def _same_ids(one: Any, two: Any, part: slice) -> bool:
    if one is None or two is None:
        return one is two
    return np.array_equal(one[part], two[part])


def _same_times(one: Any, two: Any) -> bool:
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and bool(np.abs(one - two).max(initial=0.0) <= _SECONDS)
