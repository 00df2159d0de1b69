"""The tables of a tape: their Arrow schemas, which signal is in which, and what they sum up to.

A row of ``topk`` or ``hidden`` belongs to one trace (``trace_index`` >= 0) or to the audio (-1);
rows are joined by ``sample_id``, never by order. ``hidden`` says which rows of the layer arrays are
whose.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE

FORMAT_NAME = "teachertape"
FORMAT_VERSION = 1
AUDIO_ROW = -1
"""``trace_index`` of a row that belongs to the audio, not to a trace."""

STATES_PROFILES = ("hot", "archive", "lossy2x")
"""How layer arrays may be stored; see ``cache_schema.codecs.states_profiles``."""

HIDDEN_KINDS = ("token", "audio", "frame")
MAX_VOCABULARY = 1 << 20
"""Token ids are below this."""

TOPK_CODECS = ("hot", "compact")
"""How top-k may be stored; see ``cache_schema.codecs.topk_compact``."""

MAX_ENTRIES = 1 << 24
"""Most kept or drawn entries of one trace: a packed row cannot unfold into more."""

_STRING = pa.string()
_IDS = pa.list_(pa.field("item", pa.int32(), nullable=False))
_FLOATS = pa.list_(pa.field("item", pa.float32(), nullable=False))
_NULLABLE = {"correct", "target_ids of hidden", "times_s"}


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
}
SCHEMAS = {table: _schema(table, columns) for table, columns in _COLUMNS.items()}
"""Table name -> columns. ``topk`` lists are [T, k] flattened, ``times_s`` is [A, 2] flattened."""

GROUP_TABLES: dict[str, tuple[str, ...]] = {
    "samples": ("samples", "audio"),
    "descriptions": ("descriptions",),
    TEXT_SOURCE: ("trace", "topk", "topk_compact", "sampled", "hidden"),
    AUDIO_SOURCE: ("topk", "topk_compact", "sampled", "hidden"),
}
"""Group -> the tables its shards may hold."""

SIGNAL_TABLES: dict[str, tuple[str, ...]] = {
    "trace": ("trace",),
    "topk": ("topk", "topk_compact"),
    "sampled": ("sampled",),
    "hidden": ("hidden",),
}
"""Signal -> the tables that may hold it, of which a source uses one."""


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
        }
    if table in SIGNAL_TABLES["topk"]:
        return {"topk_tokens": len(row["target_ids"])}
    if table == "sampled":
        return {"sampled_tokens": len(row["target_ids"])}
    if table == "hidden":
        return {f"hidden_{row['kind']}_positions": row["count"]}
    return {}
