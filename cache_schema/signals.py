"""The tables of a tape: their Arrow schemas, which signal is in which, and what they sum up to.

A row of ``topk`` or ``hidden`` belongs to one trace (``trace_index`` >= 0), or to the audio or the
description (-1); rows are joined by ``sample_id``, never by order. ``hidden`` says which rows of
the layer arrays are whose.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE

FORMAT_NAME = "teachertape"
FORMAT_VERSION = 1
AUDIO_ROW = -1
"""``trace_index`` of a row that belongs to the audio, or to the description, not to a trace."""

STATES_PROFILES = ("hot", "archive", "lossy2x")
"""How layer arrays may be stored; see ``cache_schema.codecs.states_profiles``."""

HIDDEN_KINDS = ("token", "audio", "frame", "text")
HEARD = "heard"
"""Kind of the groups of listening models, and their table; a group is named ``heard_<column>``."""

ORIGINS = ("free", "label", "given")
"""Where a trace may come from; see ``cache_schema.types.Trace``."""

REJECT_REASONS = ("wrong answer", "truncated", "no answer", "not judged", "not chosen")
"""Reasons that are summed up by name; every other is summed up as ``OTHER_REASON``."""

OTHER_REASON = "other"
MAX_VOCABULARY = 1 << 20
"""Token ids are below this."""

TOPK_CODECS = ("hot", "compact")
"""How top-k may be stored; see ``cache_schema.codecs.topk_compact``."""

MAX_ENTRIES = 1 << 24
"""Most kept or drawn entries of one trace: a packed row cannot unfold into more."""

MAX_CLASSES = 1 << 16
"""Most classes of a classifier."""

MAX_FRAME_LOGITS = 1 << 26
"""Most logits of one recording's frames, F * C: 256 MiB."""

FIRST_GROUPS = ("samples", "descriptions")
"""Groups that are united, or travel, first: rows of others belong to their samples."""

A_RECORDING = ("utterance_logits", "embedding")
"""Signals, and their tables, of one row of one size a recording; they are of no tokens."""

CLASS_SIGNALS = ("utterance_logits", "frame_logits", "embedding")
"""Signals of classifiers and pooled embeddings; each has one table, of its own name."""

_STRING = pa.string()
_IDS = pa.list_(pa.field("item", pa.int32(), nullable=False))
_FLOATS = pa.list_(pa.field("item", pa.float32(), nullable=False))
_LAYERS = pa.list_(pa.field("item", pa.int32(), nullable=False))
_NULLABLE = {"correct", "target_ids of hidden", "times_s of hidden"}


def _schema(table: str, columns: dict[str, pa.DataType]) -> pa.Schema:
    """Return a schema whose columns have no nulls but where a value may be unknown."""
    return pa.schema(
        [
            pa.field(name, kind, nullable=bool({name, f"{name} of {table}"} & _NULLABLE))
            for name, kind in columns.items()
        ]
    )


_TRACE_KEY = {"sample_id": _STRING, "trace_index": pa.int32()}
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "samples": {
        "sample_id": _STRING,
        "row_index": pa.int64(),
        "question": _STRING,
        "choices": pa.list_(pa.field("item", _STRING, nullable=False)),
        "answer": _STRING,
        "metadata": _STRING,
        "audio_sha256": _STRING,
        "num_audio_samples": pa.int64(),
    },
    "audio": {"sample_id": _STRING, "audio": pa.large_binary(), "audio_dtype": _STRING},
    "descriptions": {"sample_id": _STRING, "description": _STRING},
    "trace": {
        **_TRACE_KEY,
        "text": _STRING,
        "token_ids": _IDS,
        "prompt_token_ids": _IDS,
        "finish_reason": _STRING,
        "answer": _STRING,
        "correct": pa.bool_(),
        "logprob": pa.float64(),
        "origin": _STRING,
        "draw": pa.int32(),
        "seed": pa.int64(),
    },
    "rejected": {
        **_TRACE_KEY,
        "draw": pa.int32(),
        "text": _STRING,
        "finish_reason": _STRING,
        "answer": _STRING,
        "correct": pa.bool_(),
        "logprob": pa.float64(),
        "origin": _STRING,
        "seed": pa.int64(),
        "reason": _STRING,
    },
    "topk": {
        **_TRACE_KEY,
        "target_ids": _IDS,
        "k": pa.int32(),
        "token_ids": _IDS,
        "logprobs": _FLOATS,
        "tail": _FLOATS,
    },
    "topk_compact": {
        **_TRACE_KEY,
        "target_ids": _IDS,
        "k": pa.int32(),
        "packed": pa.large_binary(),
    },
    "lens": {
        **_TRACE_KEY,
        "target_ids": _IDS,
        "layers": _LAYERS,
        "k": pa.int32(),
        "token_ids": _IDS,
        "logprobs": _FLOATS,
        "tail": _FLOATS,
    },
    "lens_compact": {
        **_TRACE_KEY,
        "target_ids": _IDS,
        "layers": _LAYERS,
        "k": pa.int32(),
        "packed": pa.large_binary(),
    },
    "sampled": {
        **_TRACE_KEY,
        "target_ids": _IDS,
        "num_draws": pa.int32(),
        "packed": pa.large_binary(),
    },
    "hidden": {
        **_TRACE_KEY,
        "kind": _STRING,
        "offset": pa.int64(),
        "count": pa.int64(),
        "target_ids": _IDS,
        "times_s": _FLOATS,
    },
    "utterance_logits": {**_TRACE_KEY, "logits": _FLOATS},
    "frame_logits": {**_TRACE_KEY, "logits": _FLOATS, "times_s": _FLOATS},
    "embedding": {**_TRACE_KEY, "embedding": _FLOATS},
    HEARD: {"sample_id": _STRING, "text": _STRING, "segments": _STRING},
}
SCHEMAS = {table: _schema(table, columns) for table, columns in _COLUMNS.items()}
"""Table name -> columns as they are written. Lists are flattened: those of ``topk`` are [T, k],
those of ``lens`` [T, M, k] and [T, M], of ``frame_logits`` [F, C], ``times_s`` is [A, 2] or
[F, 2]."""

LATER_COLUMNS = {"trace": ("origin", "draw", "seed")}
"""Table -> trailing columns that tapes of the first release lack, all together."""

GROUP_TABLES: dict[str, tuple[str, ...]] = {
    "samples": ("samples", "audio"),
    "descriptions": ("descriptions",),
    HEARD: (HEARD,),
    TEXT_SOURCE: (
        "trace",
        "rejected",
        "topk",
        "topk_compact",
        "lens",
        "lens_compact",
        "sampled",
        "hidden",
    ),
    AUDIO_SOURCE: (
        "topk",
        "topk_compact",
        "lens",
        "lens_compact",
        "sampled",
        "hidden",
        *CLASS_SIGNALS,
    ),
}
"""Kind of group -> the tables its shards may hold."""

SIGNAL_TABLES: dict[str, tuple[str, ...]] = {
    "trace": ("trace",),
    "topk": ("topk", "topk_compact"),
    "lens": ("lens", "lens_compact"),
    "sampled": ("sampled",),
    "hidden": ("hidden",),
    **{signal: (signal,) for signal in CLASS_SIGNALS},
}
"""Signal -> the tables that may hold it, of which a source uses one."""

SIGNAL_OF = {table: signal for signal, tables in SIGNAL_TABLES.items() for table in tables}
"""Table of a source -> the signal it holds."""

CODEC_OF = {
    "topk": ("topk", "hot"),
    "topk_compact": ("topk", "compact"),
    "lens": ("lens", "hot"),
    "lens_compact": ("lens", "compact"),
}
"""Table -> its signal and the codec it is stored in, of signals that may be stored in several."""


def schemas_of(table: str) -> tuple[pa.Schema, ...]:
    """Return the schemas a table may have: as it is written, then as the first release wrote it."""
    now = SCHEMAS[table]
    later = LATER_COLUMNS.get(table, ())
    return (now, pa.schema(list(now)[: -len(later)])) if later else (now,)


def totals_of(table: str, row: dict[str, Any]) -> dict[str, int]:
    """Return what a row adds to its shard's totals."""
    if table == "samples":
        return {"audio_samples": row["num_audio_samples"]}
    if table == "trace":
        return {
            "trace_tokens": len(row["token_ids"]),
            "traces_right": int(row["correct"] is True),
            "traces_judged": int(row["correct"] is not None),
            "traces_truncated": int(row["finish_reason"] == "length"),
            **_origin_totals(row.get("origin", ORIGINS[0])),
        }
    if table == "rejected":
        reason = row["reason"] if row["reason"] in REJECT_REASONS else OTHER_REASON
        return {"traces_rejected": 1, f"rejected: {reason}": 1}
    if table in CODEC_OF:
        return {f"{CODEC_OF[table][0]}_tokens": len(row["target_ids"])}
    if table == "sampled":
        return {"sampled_tokens": len(row["target_ids"])}
    if table == "hidden":
        return {f"hidden_{row['kind']}_positions": row["count"]}
    if table == "frame_logits":
        return {"frame_logits_frames": len(row["times_s"]) // 2}
    return {}


def _origin_totals(origin: str) -> dict[str, int]:
    """Return what is summed up of a trace's origin: those that are not the teacher's own."""
    return {} if origin == ORIGINS[0] else {f"traces_{origin}": 1}
