"""Values become rows of the tape's tables, and back; a row from anyone is checked on its way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs import sampled, topk_compact
from cache_schema.codecs.pcm import decode_audio, encode_audio
from cache_schema.errors import TapeError
from cache_schema.rows.checks import (
    Row,
    check_entries,
    check_mass,
    check_times,
    checked,
    token_ids_of,
)
from cache_schema.rows.classes import CLASS_DECODERS
from cache_schema.rows.lens import compact_lens_of, lens_of, lens_row
from cache_schema.rows.texts import check_origin, heard_of, heard_row, rejected_of, rejected_row
from cache_schema.signals import AUDIO_ROW, HEARD, HIDDEN_KINDS, LATER_COLUMNS
from cache_schema.types import FloatArray, IntArray, Sample, Sampled, TopK, Trace

Facts = Mapping[str, Mapping[str, Any]]
"""Signal -> what a group says of it."""

__all__ = [
    "DECODERS",
    "Row",
    "audio_of",
    "compact_row",
    "decode",
    "heard_row",
    "hidden_row",
    "lens_row",
    "place_of",
    "rejected_row",
    "sample_rows",
    "sampled_row",
    "topk_row",
    "trace_row",
]


def sample_rows(sample: Sample, audio_sha256: str, num_audio_samples: int) -> dict[str, list[Row]]:
    """Return the rows of a sample; without audio (a reference only) there is no ``audio`` row."""
    row = {
        "sample_id": sample.sample_id,
        "row_index": sample.row_index,
        "question": sample.question,
        "choices": list(sample.choices),
        "answer": sample.answer,
        "metadata": json.dumps(_finite(dict(sample.metadata)), ensure_ascii=False, sort_keys=True),
        "audio_sha256": audio_sha256,
        "num_audio_samples": num_audio_samples,
    }
    if sample.audio is None:
        return {"samples": [row]}
    data, dtype = encode_audio(sample.audio)
    audio = {"sample_id": sample.sample_id, "audio": data, "audio_dtype": dtype}
    return {"samples": [row], "audio": [audio]}


@checked
def audio_of(row: Mapping[str, Any], num_audio_samples: int) -> FloatArray:
    """Return the recording of an ``audio`` row, float32 [num_audio_samples]."""
    audio = decode_audio(row["audio"], row["audio_dtype"])
    if len(audio) != num_audio_samples:
        raise ValueError(f"{len(audio)} audio samples, its sample has {num_audio_samples}")
    if not np.isfinite(audio).all():
        raise ValueError("audio that is not finite")
    return audio


def _finite(value: Any) -> Any:
    """Return a JSON value with null for every number that is not finite: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def trace_row(sample_id: str, trace_index: int, trace: Trace) -> Row:
    """Return the ``trace`` row of one trace."""
    return {"sample_id": sample_id, "trace_index": trace_index, **vars(trace)}


@checked
def trace_of(row: Mapping[str, Any]) -> Trace:
    """Return the trace of a ``trace`` row."""
    older = "origin" not in row  # a tape of the first release: the defaults are what it meant
    absent = LATER_COLUMNS["trace"] if older else ()
    values = {name: row[name] for name in Trace.__dataclass_fields__ if name not in absent}
    for name in ("token_ids", "prompt_token_ids"):
        values[name] = token_ids_of(values[name], name)
    trace = Trace(**values)
    check_origin(trace.origin, trace.draw, trace.seed)
    return trace


def topk_row(sample_id: str, trace_index: int, topk: TopK) -> Row:
    """Return the ``topk`` row of one trace."""
    num_tokens, k = topk.token_ids.shape
    assert topk.logprobs.shape == (num_tokens, k)
    assert topk.tail.shape == topk.target_ids.shape == (num_tokens,)
    return {
        "sample_id": sample_id,
        "trace_index": trace_index,
        "target_ids": topk.target_ids,
        "k": k,
        "token_ids": topk.token_ids.reshape(-1),
        "logprobs": topk.logprobs.reshape(-1),
        "tail": topk.tail,
    }


@checked
def topk_of(row: Mapping[str, Any]) -> TopK:
    """Return the top-k of a ``topk`` row."""
    shape = (len(row["target_ids"]), row["k"])
    check_entries(shape[0] * shape[1])
    topk = TopK(
        target_ids=token_ids_of(row["target_ids"], "target_ids"),
        token_ids=token_ids_of(row["token_ids"], "token_ids").reshape(shape),
        logprobs=row["logprobs"].reshape(shape),
        tail=row["tail"],
    )
    check_mass(topk.logprobs, topk.tail)
    return topk


_PACKED = ("token_ids", "logprobs", "tail")


def compact_row(row: Mapping[str, Any]) -> Row:
    """Return the ``topk_compact`` row of a ``topk`` row, or the ``lens_compact`` row of a ``lens``.

    Raises:
        TapeError: its rows are not sorted, or are no distribution.
    """
    shape = (len(row["tail"]), row["k"])
    return {
        **{name: value for name, value in row.items() if name not in _PACKED},
        "packed": topk_compact.encode(
            row["token_ids"].reshape(shape), row["logprobs"].reshape(shape), row["tail"]
        ),
    }


@checked
def compact_topk_of(row: Mapping[str, Any]) -> TopK:
    """Return the top-k of a ``topk_compact`` row."""
    num_tokens, k = len(row["target_ids"]), row["k"]
    check_entries(num_tokens * k)
    ids, logprobs, tail = topk_compact.decode(row["packed"], num_tokens, k)
    return TopK(
        target_ids=token_ids_of(row["target_ids"], "target_ids"),
        token_ids=ids.astype(np.int64),
        logprobs=logprobs,
        tail=tail,
    )


def sampled_row(sample_id: str, trace_index: int, drawn: Sampled) -> Row:
    """Return the ``sampled`` row of one trace.

    Raises:
        TapeError: counts and offsets contradict each other.
    """
    return {
        "sample_id": sample_id,
        "trace_index": trace_index,
        "target_ids": drawn.target_ids,
        "num_draws": drawn.num_draws,
        "packed": sampled.encode(drawn.token_ids, drawn.counts, drawn.offsets, drawn.num_draws),
    }


@checked
def sampled_of(row: Mapping[str, Any]) -> Sampled:
    """Return the drawn tokens of a ``sampled`` row."""
    num_tokens, num_draws = len(row["target_ids"]), row["num_draws"]
    check_entries(num_tokens * num_draws)
    ids, counts, offsets = sampled.decode(row["packed"], num_tokens, num_draws)
    return Sampled(
        target_ids=token_ids_of(row["target_ids"], "target_ids"),
        token_ids=ids.astype(np.int64),
        counts=counts.astype(np.int64),
        offsets=offsets,
        num_draws=num_draws,
    )


def hidden_row(
    sample_id: str,
    trace_index: int,
    kind: str,
    span: tuple[int, int],
    target_ids: IntArray | None,
    times_s: NDArray[np.float32] | None,
) -> Row:
    """Return the ``hidden`` row that places ``span`` = (offset, count) of the layer arrays."""
    return {
        "sample_id": sample_id,
        "trace_index": trace_index,
        "kind": kind,
        "offset": span[0],
        "count": span[1],
        "target_ids": target_ids,
        "times_s": None if times_s is None else times_s.reshape(-1),
    }


@checked
def place_of(row: Mapping[str, Any], positions: int) -> dict[str, Any]:
    """Return ``start``, ``count``, ``kind``, ``target_ids`` and ``times_s`` of a ``hidden`` row.

    Args:
        row: of the ``hidden`` table.
        positions: rows of the shard's layer arrays.
    """
    start, count, kind = row["offset"], row["count"], row["kind"]
    if not (start >= 0 <= count and start + count <= positions):
        raise ValueError(f"rows {start} to {start + count} of arrays of {positions}")
    if kind not in HIDDEN_KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(HIDDEN_KINDS)}")
    target_ids, times_s = row["target_ids"], row["times_s"]
    if (kind in ("token", "text")) != (target_ids is not None):
        raise ValueError(f"kind {kind!r} {'without' if target_ids is None else 'with'} target_ids")
    if target_ids is not None and len(target_ids) != count:
        raise ValueError(f"{len(target_ids)} target ids for {count} states")
    if times_s is not None:
        times_s = check_times(times_s, count)
    if kind == "text" and (times_s is not None or row["trace_index"] != AUDIO_ROW):
        raise ValueError("states of a text with times, or of a trace: expected neither")
    return {
        "start": start,
        "count": count,
        "kind": kind,
        "target_ids": None if target_ids is None else token_ids_of(target_ids, "target_ids"),
        "times_s": times_s,
    }


DECODERS: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
    "trace": trace_of,
    "topk": topk_of,
    "topk_compact": compact_topk_of,
    "lens": lens_of,
    "lens_compact": compact_lens_of,
    "sampled": sampled_of,
    "rejected": rejected_of,
    HEARD: heard_of,
}
"""Table -> what reads its rows, of those that say everything themselves; ``decode`` reads any."""


def decode(table: str, row: Mapping[str, Any], signals: Facts, where: str) -> Any:
    """Return the value of a row of any signal but states, which are read through ``place_of``.

    Args:
        table: its table.
        row: the row, number lists as arrays.
        signals: what its group says of its signals: names of classes are there, not in the rows.
        where: what to call the row in an error.

    Raises:
        TapeError: the row breaks the format, or is not as its group says.
    """
    if table not in CLASS_DECODERS:
        return DECODERS[table](row, where)
    if table not in signals:
        raise TapeError(f"{where}: its group records no signal {table!r}")
    return CLASS_DECODERS[table](row, signals[table], where)
