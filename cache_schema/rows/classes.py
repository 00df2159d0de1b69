"""Rows of classifiers and of pooled embeddings, and back.

What the numbers stand for (names of classes, how an embedding was pooled) is said once, in the
facts of the group; a row is read with them and must be as they say.

Shapes: F frames, C classes, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.rows.checks import Row, check_times, checked
from cache_schema.signals import AUDIO_ROW, MAX_FRAME_LOGITS
from cache_schema.types import Embedding, FloatArray, FrameLogits, UtteranceLogits


def utterance_logits_row(sample_id: str, logits: NDArray[Any]) -> Row:
    """Return the ``utterance_logits`` row of a recording; ``logits`` is float [C]."""
    assert logits.ndim == 1
    return {"sample_id": sample_id, "trace_index": AUDIO_ROW, "logits": _float32(logits)}


def frame_logits_row(sample_id: str, logits: NDArray[Any], times_s: NDArray[Any]) -> Row:
    """Return the ``frame_logits`` row of a recording.

    Args:
        sample_id: whose.
        logits: float [F, C].
        times_s: float [F, 2], start and end of each frame in seconds of the recording.
    """
    assert logits.ndim == 2
    assert times_s.shape == (len(logits), 2)
    return {
        "sample_id": sample_id,
        "trace_index": AUDIO_ROW,
        "logits": _float32(logits).reshape(-1),
        "times_s": _float32(times_s).reshape(-1),
    }


def embedding_row(sample_id: str, values: NDArray[Any]) -> Row:
    """Return the ``embedding`` row of a recording; ``values`` is float [E]."""
    assert values.ndim == 1
    return {"sample_id": sample_id, "trace_index": AUDIO_ROW, "embedding": _float32(values)}


def _float32(values: NDArray[Any]) -> FloatArray:
    """Return numbers as float32; what is too large becomes infinite, which the writer refuses."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


@checked
def utterance_logits_of(row: Mapping[str, Any], facts: Mapping[str, Any]) -> UtteranceLogits:
    """Return the logits of an ``utterance_logits`` row."""
    logits, labels = row["logits"], facts["labels"]
    _check_key(row)
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} logits, its group names {len(labels)} classes")
    _check_finite(logits, "logits")
    return UtteranceLogits(logits=logits, labels=tuple(labels), multi_label=facts["multi_label"])


@checked
def frame_logits_of(row: Mapping[str, Any], facts: Mapping[str, Any]) -> FrameLogits:
    """Return the logits of a ``frame_logits`` row."""
    logits, labels = row["logits"], facts["labels"]
    num_frames, odd = divmod(len(row["times_s"]), 2)
    _check_key(row)
    if odd:
        raise ValueError(f"{len(row['times_s'])} times, expected a start and an end of each frame")
    if len(logits) > MAX_FRAME_LOGITS:
        raise ValueError(f"{len(logits)} logits of one recording, at most {MAX_FRAME_LOGITS}")
    if len(logits) != num_frames * len(labels):
        raise ValueError(
            f"{len(logits)} logits, expected {num_frames} frames of the {len(labels)} classes "
            "that its group names"
        )
    _check_finite(logits, "logits")
    return FrameLogits(
        logits=logits.reshape(num_frames, len(labels)),
        times_s=check_times(row["times_s"], num_frames),
        labels=tuple(labels),
        multi_label=facts["multi_label"],
    )


@checked
def embedding_of(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Embedding:
    """Return the embedding of an ``embedding`` row."""
    values = row["embedding"]
    _check_key(row)
    if len(values) != facts["width"]:
        raise ValueError(f"an embedding of width {len(values)}, its group says {facts['width']}")
    _check_finite(values, "an embedding")
    return Embedding(values=values, pooling=facts["pooling"])


def _check_key(row: Mapping[str, Any]) -> None:
    if row["trace_index"] != AUDIO_ROW:
        raise ValueError(f"trace index {row['trace_index']}: it is of the recording, {AUDIO_ROW}")


def _check_finite(values: FloatArray, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} with a value that is not finite")


CLASS_DECODERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], Any]] = {
    "utterance_logits": utterance_logits_of,
    "frame_logits": frame_logits_of,
    "embedding": embedding_of,
}
"""Table -> what reads its rows, with the facts of its group."""
