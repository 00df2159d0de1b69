"""Traces again: token by token, and whether rounding explains where one turns off.

A trace is told by its origin and the number of its draw; which number it has on a tape depends on
which traces were kept. From the token on at which two traces differ their prefixes differ too, so
everything recorded of them is compared up to that position, the position itself included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from cache_schema import TapeRow
from cache_schema.maker import GroupInfo
from cache_schema.types import Rejected, TopK, Trace
from pipeline.replay.bounds import Bounds
from pipeline.replay.found import Found
from pipeline.replay.measure import first_difference

Key = tuple[str, int]
_BESIDE = ("text", "finish_reason", "answer", "correct", "seed")
"""What follows from a trace's tokens and its draw."""

_LEAST_DRAWN = 1e-3
"""Tokens less probable are hardly those between which rounding decided."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row of the tape and the one of the replay.

    Attributes:
        again: trace index of the replay's.
        turns_off: position at which the traces differ, ``None`` if they do not.
    """

    again: int
    turns_off: int | None = None


def compare_traces(
    found: Found, info: GroupInfo, bounds: Bounds, row: TapeRow, other: TapeRow
) -> dict[int, Pair]:
    """Compare the traces of a sample; return trace index on the tape -> pair.

    Args:
        found: where it is counted.
        info: the source.
        bounds: what rounding explains.
        row: the sample on the tape.
        other: the sample on the replay.
    """
    again = {_key(trace): index for index, trace in enumerate(other.traces)}
    dropped = {_key(one): one for one in other.rejected}
    pairs: dict[int, Pair] = {}
    traces = row.traces
    for index, trace in enumerate(traces):
        key = _key(trace)
        if key not in again:
            _kept_otherwise(found, bounds, row.sample_id, key, key in dropped)
            continue
        pair = Pair(
            again=again[key],
            turns_off=first_difference(trace.token_ids, other.traces[again[key]].token_ids),
        )
        pairs[index] = pair
        _compare(found, info, bounds, row, index, pair, (trace, other.traces[pair.again]))
    rejected = {_key(one): one for one in row.rejected}
    for key, one in rejected.items():
        _compare_rejected(found, bounds, row.sample_id, one, dropped.get(key), key in again)
    known = {_key(trace) for trace in traces} | rejected.keys()
    for key in sorted((again.keys() | dropped.keys()) - known):
        found.refuse(row.sample_id, f"{_name(key)} is made again, and is not on the tape")
    return pairs


def _key(trace: Trace | Rejected) -> Key:
    return trace.origin, trace.draw


def _name(key: Key) -> str:
    return f"trace {key[1]} ({key[0]})"


def _compare(
    found: Found,
    info: GroupInfo,
    bounds: Bounds,
    row: TapeRow,
    index: int,
    pair: Pair,
    traces: tuple[Trace, Trace],
) -> None:
    one, two = traces
    name = _name(_key(one))
    if not np.array_equal(one.prompt_token_ids, two.prompt_token_ids):
        found.add(row.sample_id, equal=False, problem=f"{name}: the prompt is another one")
        return
    if pair.turns_off is None:
        apart = [field for field in _BESIDE if getattr(one, field) != getattr(two, field)]
        problem = f"{name}: equal tokens, but {', '.join(apart)} differ" if apart else ""
        measures = _logprobs(one, two, bounds)
        same = not apart and (one.logprob == two.logprob or np.isnan(one.logprob))
        found.add(row.sample_id, equal=bool(same), measures=measures, problem=problem)
        return
    at = pair.turns_off
    problem, tie = _explained(info, bounds, row, index, at, traces)
    where = f"{name} turns off at token {at} of {len(one.token_ids)}"
    if tie:
        found.tie(f"{row.sample_id}: {where}, {tie}")
    found.add(row.sample_id, equal=False, problem=f"{where}: {problem}" if problem else "")


def _logprobs(one: Trace, two: Trace, bounds: Bounds) -> Mapping[str, tuple[float, float | None]]:
    """Return how far their log-probabilities are apart a token, where both were measured."""
    apart = abs(one.logprob - two.logprob) / max(1, len(one.token_ids))
    return {} if np.isnan(apart) else {"logprob a token": (apart, bounds.logprob)}


def _explained(
    info: GroupInfo,
    bounds: Bounds,
    row: TapeRow,
    index: int,
    at: int,
    traces: tuple[Trace, Trace],
) -> tuple[str, str]:
    """Return what is wrong with another token at a position, or else why rounding explains it."""
    if info.identity.get("given"):
        return "given traces are read, not written", ""
    name = f"{info.group}/topk"
    topk = row.signal(name, index) if index in row.traces_of(name) else None
    if not isinstance(topk, TopK):
        return "without recorded logits nothing says how near the tokens were", ""
    if at >= min(len(topk.target_ids), *(len(trace.token_ids) for trace in traces)):
        return "one ends where the other goes on", ""
    known = dict(zip(topk.token_ids[at].tolist(), topk.logprobs[at].tolist(), strict=True))
    written, token = (int(trace.token_ids[at]) for trace in traces)
    if token not in known or written not in known:
        return "at a token outside the recorded top-k", ""
    gap = known[written] - known[token]
    if info.identity.get("temperature"):
        shares = [float(np.exp(known[one])) for one in (written, token)]
        told = f"drawn, of probability {shares[0]:.3g} and now {shares[1]:.3g}"
        if bounds.redraws and min(shares) >= _LEAST_DRAWN:
            return "", told
        return f"{told}, where rounding does not decide", ""
    if abs(gap) <= bounds.tie_nats:
        return "", f"{gap:.3g} nats apart"
    return f"{gap:.3g} nats apart, a tie is at most {bounds.tie_nats:.3g}", ""


def _kept_otherwise(
    found: Found, bounds: Bounds, sample_id: str, key: Key, is_dropped: bool
) -> None:
    """Count a kept trace that the replay did not keep: another trace may have been chosen."""
    if is_dropped and bounds.redraws:
        found.tie(f"{sample_id}: {_name(key)} is not kept again")
        found.add(sample_id, equal=False)
    else:
        how = "was made and not kept" if is_dropped else "was not made again"
        found.add(sample_id, equal=False, problem=f"{_name(key)} {how}")


def _compare_rejected(
    found: Found,
    bounds: Bounds,
    sample_id: str,
    one: Rejected,
    two: Rejected | None,
    is_kept: bool,
) -> None:
    """Compare a trace that was not kept: of its tokens the text is all there is."""
    name = _name(_key(one))
    if two is None:
        problem = f"{name}, not kept, {'is kept now' if is_kept else 'was not made again'}"
        apart = [problem]
    else:
        names = [field.name for field in fields(Rejected) if field.name != "logprob"]
        apart = [field for field in names if getattr(one, field) != getattr(two, field)]
        problem = f"{name}, not kept: {', '.join(apart)} differ"
    explained = bounds.redraws and (is_kept or "text" in apart)
    if apart and explained:
        found.tie(f"{sample_id}: {problem}")
    found.add(sample_id, equal=not apart, problem=problem if apart and not explained else "")
