"""The tables of a tape: their Arrow schemas, and how values become rows and back.

A row of ``topk`` or ``hidden`` belongs to one trace (``trace_index`` >= 0) or to the audio (-1);
rows are joined by ``sample_id``, never by order. ``hidden`` says which rows of the layer arrays are
whose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE, IntArray, Sample, TopK, Trace

FORMAT_NAME = "teachertape"
FORMAT_VERSION = 1
AUDIO_ROW = -1
"""``trace_index`` of a row that belongs to the audio, not to a trace."""

_STRING = pa.string()
_IDS = pa.list_(pa.int32())

SCHEMAS: dict[str, pa.Schema] = {
    "samples": pa.schema(
        [
            ("sample_id", _STRING),
            ("row_index", pa.int64()),
            ("question", _STRING),
            ("choices", pa.list_(_STRING)),
            ("answer", _STRING),
            ("metadata", _STRING),
            ("audio_sha256", _STRING),
            ("num_audio_samples", pa.int64()),
        ]
    ),
    "audio": pa.schema(
        [("sample_id", _STRING), ("audio", pa.large_binary()), ("audio_dtype", _STRING)]
    ),
    "descriptions": pa.schema([("sample_id", _STRING), ("description", _STRING)]),
    "trace": pa.schema(
        [
            ("sample_id", _STRING),
            ("trace_index", pa.int32()),
            ("text", _STRING),
            ("token_ids", _IDS),
            ("prompt_token_ids", _IDS),
            ("finish_reason", _STRING),
            ("answer", _STRING),
            ("correct", pa.bool_()),
            ("logprob", pa.float64()),
        ]
    ),
    "topk": pa.schema(
        [
            ("sample_id", _STRING),
            ("trace_index", pa.int32()),
            ("target_ids", _IDS),
            ("k", pa.int32()),
            ("token_ids", _IDS),
            ("logprobs", pa.list_(pa.float32())),
            ("tail", pa.list_(pa.float32())),
        ]
    ),
    "hidden": pa.schema(
        [
            ("sample_id", _STRING),
            ("trace_index", pa.int32()),
            ("kind", _STRING),
            ("offset", pa.int64()),
            ("count", pa.int64()),
            ("target_ids", _IDS),
            ("times_s", pa.list_(pa.float32())),
        ]
    ),
}
"""Table name -> columns. ``topk`` lists are [T, k] flattened, ``times_s`` is [A, 2] flattened."""

GROUP_TABLES: dict[str, tuple[str, ...]] = {
    "samples": ("samples", "audio"),
    "descriptions": ("descriptions",),
    TEXT_SOURCE: ("trace", "topk", "hidden"),
    AUDIO_SOURCE: ("topk", "hidden"),
}
"""Group -> the tables its shards may hold."""

Row = dict[str, Any]


def encode_audio(audio: NDArray[np.float32]) -> tuple[bytes, str]:
    """Encode audio losslessly: 16-bit words where every value is one, float32 otherwise."""
    scaled = audio * np.float32(32768.0)
    if np.abs(scaled).max(initial=0.0) <= 32768.0 and scaled.max(initial=0.0) < 32768.0:
        words = scaled.astype("<i2")
        if np.array_equal(words.astype(np.float32), scaled):
            return words.tobytes(), "int16"
    return audio.astype("<f4").tobytes(), "float32"


def decode_audio(data: bytes, dtype: str) -> NDArray[np.float32]:
    """Decode what ``encode_audio`` wrote."""
    if dtype == "int16":
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768.0)
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def sample_rows(sample: Sample, audio_sha256: str, num_audio_samples: int) -> dict[str, list[Row]]:
    """Return the rows of a sample; without audio (a reference only) there is no ``audio`` row."""
    row = {
        "sample_id": sample.sample_id,
        "row_index": sample.row_index,
        "question": sample.question,
        "choices": list(sample.choices),
        "answer": sample.answer,
        "metadata": json.dumps(dict(sample.metadata), ensure_ascii=False, sort_keys=True),
        "audio_sha256": audio_sha256,
        "num_audio_samples": num_audio_samples,
    }
    if sample.audio is None:
        return {"samples": [row]}
    data, dtype = encode_audio(sample.audio)
    audio = {"sample_id": sample.sample_id, "audio": data, "audio_dtype": dtype}
    return {"samples": [row], "audio": [audio]}


def trace_row(sample_id: str, trace_index: int, trace: Trace) -> Row:
    """Return the ``trace`` row of one trace."""
    return {"sample_id": sample_id, "trace_index": trace_index, **vars(trace)}


def trace_of(row: Mapping[str, Any]) -> Trace:
    """Return the trace of a ``trace`` row."""
    values = {name: row[name] for name in Trace.__dataclass_fields__}
    for name in ("token_ids", "prompt_token_ids"):
        values[name] = np.asarray(values[name], dtype=np.int64)
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


def topk_of(row: Mapping[str, Any]) -> TopK:
    """Return the top-k of a ``topk`` row."""
    shape = (len(row["target_ids"]), row["k"])
    return TopK(
        target_ids=np.asarray(row["target_ids"], dtype=np.int64),
        token_ids=np.asarray(row["token_ids"], dtype=np.int64).reshape(shape),
        logprobs=np.asarray(row["logprobs"], dtype=np.float32).reshape(shape),
        tail=np.asarray(row["tail"], dtype=np.float32),
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


def to_table(name: str, rows: list[Row]) -> pa.Table:
    """Return the rows as an Arrow table of the schema ``name``."""
    schema = SCHEMAS[name]
    columns = [_column(field.type, [row[field.name] for row in rows]) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if not (pa.types.is_list(kind) and pa.types.is_primitive(kind.value_type)):
        return pa.array(values, type=kind)
    item = kind.value_type.to_pandas_dtype()
    arrays = [np.empty(0, item) if value is None else np.asarray(value, item) for value in values]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    flat = np.concatenate(arrays) if arrays else np.empty(0, item)
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(flat, type=kind.value_type), type=kind, mask=missing
    )
