"""Values become rows of the tape's tables, and back; a row from anyone is checked on its way."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs import sampled, topk_compact
from cache_schema.codecs.pcm import decode_audio, encode_audio
from cache_schema.errors import TapeError
from cache_schema.signals import HIDDEN_KINDS, MAX_ENTRIES, MAX_VOCABULARY
from cache_schema.types import FloatArray, IntArray, Sample, Sampled, TopK, Trace

Row = dict[str, Any]
T = TypeVar("T")

MASS_TOLERANCE = 1e-2
"""How far a token's kept probabilities and its tail may be from 1 together."""


def checked(decode: Callable[..., T]) -> Callable[..., T]:
    """Name the row, given as ``where`` last, in every error of a decoder."""

    @functools.wraps(decode)
    def wrapped(*args: Any) -> T:
        try:
            return decode(*args[:-1])
        except (TapeError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TapeError(f"{args[-1]}: {error}") from error

    return wrapped


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
    values = {name: row[name] for name in Trace.__dataclass_fields__}
    for name in ("token_ids", "prompt_token_ids"):
        values[name] = _ids(values[name], name)
    return Trace(**values)


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
    _check_entries(shape[0] * shape[1])
    topk = TopK(
        target_ids=_ids(row["target_ids"], "target_ids"),
        token_ids=_ids(row["token_ids"], "token_ids").reshape(shape),
        logprobs=row["logprobs"].reshape(shape),
        tail=row["tail"],
    )
    _check_mass(topk)
    return topk


def compact_row(row: Mapping[str, Any]) -> Row:
    """Return the ``topk_compact`` row of a ``topk`` row.

    Raises:
        TapeError: its rows are not sorted, or are no distribution.
    """
    shape = (len(row["target_ids"]), row["k"])
    return {
        **{name: row[name] for name in ("sample_id", "trace_index", "target_ids", "k")},
        "packed": topk_compact.encode(
            row["token_ids"].reshape(shape), row["logprobs"].reshape(shape), row["tail"]
        ),
    }


@checked
def compact_topk_of(row: Mapping[str, Any]) -> TopK:
    """Return the top-k of a ``topk_compact`` row."""
    num_tokens, k = len(row["target_ids"]), row["k"]
    _check_entries(num_tokens * k)
    ids, logprobs, tail = topk_compact.decode(row["packed"], num_tokens, k)
    return TopK(
        target_ids=_ids(row["target_ids"], "target_ids"),
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
    _check_entries(num_tokens * num_draws)
    ids, counts, offsets = sampled.decode(row["packed"], num_tokens, num_draws)
    return Sampled(
        target_ids=_ids(row["target_ids"], "target_ids"),
        token_ids=ids.astype(np.int64),
        counts=counts.astype(np.int64),
        offsets=offsets,
        num_draws=num_draws,
    )


def _check_entries(count: int) -> None:
    if not 0 <= count <= MAX_ENTRIES:
        raise ValueError(f"{count} entries in one trace, at most {MAX_ENTRIES} are read")


def _ids(values: NDArray[Any], name: str) -> IntArray:
    """Return token ids as int64, refusing what no vocabulary has."""
    if len(values) and not (values.min() >= 0 and values.max() < MAX_VOCABULARY):
        raise ValueError(f"{name} outside 0 to {MAX_VOCABULARY - 1}")
    return values.astype(np.int64)


def _check_mass(topk: TopK) -> None:
    """Refuse log-probabilities and tails that are no distribution."""
    if topk.tail.shape != topk.target_ids.shape:
        raise ValueError(f"{len(topk.tail)} tails for {len(topk.target_ids)} tokens")
    mass = np.exp(topk.logprobs).sum(axis=1) + topk.tail
    if not (topk.logprobs[:, 1:] <= topk.logprobs[:, :-1]).all():
        raise ValueError("log-probabilities that ascend: the most probable comes first")
    if not (np.abs(mass - 1) <= MASS_TOLERANCE).all() or (topk.tail < 0).any():
        raise ValueError("log-probabilities and tail that are not finite or do not sum to 1")


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
    if (kind == "token") != (target_ids is not None):
        raise ValueError(f"kind {kind!r} {'without' if target_ids is None else 'with'} target_ids")
    if target_ids is not None and len(target_ids) != count:
        raise ValueError(f"{len(target_ids)} target ids for {count} states")
    if times_s is not None and len(times_s) != 2 * count:
        raise ValueError(f"{len(times_s)} times for {count} states")
    return {
        "start": start,
        "count": count,
        "kind": kind,
        "target_ids": None if target_ids is None else _ids(target_ids, "target_ids"),
        "times_s": None if times_s is None else times_s.reshape(-1, 2),
    }


DECODERS: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
    "trace": trace_of,
    "topk": topk_of,
    "topk_compact": compact_topk_of,
    "sampled": sampled_of,
}
"""Table -> what reads its rows; states are read through ``place_of``."""
