"""Rows of the logit lens: top-k of chosen layers, and back.

Shapes: T trace tokens, M layers, k kept ids; n = T * M distributions, token by token, of a token in
the order of ``layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache_schema.codecs import topk_compact
from cache_schema.manifest import MAX_LAYER
from cache_schema.rows.checks import Row, check_entries, check_mass, checked, token_ids_of
from cache_schema.signals import MAX_VOCABULARY
from cache_schema.types import Lens


def lens_row(sample_id: str, trace_index: int, lens: Lens) -> Row:
    """Return the ``lens`` row of one trace."""
    num_tokens, num_layers, k = lens.token_ids.shape
    assert lens.logprobs.shape == (num_tokens, num_layers, k)
    assert lens.tail.shape == (num_tokens, num_layers)
    assert (len(lens.target_ids), len(lens.layers)) == (num_tokens, num_layers)
    return {
        "sample_id": sample_id,
        "trace_index": trace_index,
        "target_ids": lens.target_ids,
        "layers": np.asarray(lens.layers, dtype=np.int64),
        "k": k,
        "token_ids": lens.token_ids.reshape(-1),
        "logprobs": lens.logprobs.reshape(-1),
        "tail": lens.tail.reshape(-1),
    }


@checked
def lens_of(row: Mapping[str, Any]) -> Lens:
    """Return the lens of a ``lens`` row."""
    layers = _layers_of(row)
    count, k = len(row["target_ids"]) * len(layers), row["k"]
    check_entries(count * k)
    logprobs = row["logprobs"].reshape(count, k)
    check_mass(logprobs, row["tail"])
    ids = token_ids_of(row["token_ids"], "token_ids").reshape(count, k)
    return _lens(row, layers, (ids, logprobs, row["tail"]))


@checked
def compact_lens_of(row: Mapping[str, Any]) -> Lens:
    """Return the lens of a ``lens_compact`` row."""
    layers = _layers_of(row)
    count, k = len(row["target_ids"]) * len(layers), row["k"]
    check_entries(count * k)
    return _lens(row, layers, topk_compact.decode(row["packed"], count, k))


def _layers_of(row: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the layers of a row, refusing what no reader could make an array of."""
    layers = tuple(int(layer) for layer in row["layers"][: MAX_LAYER + 2])
    ascending = list(layers) == sorted(set(layers))
    if not (layers and ascending and layers[0] >= 0 and layers[-1] <= MAX_LAYER):
        raise ValueError(f"layers {layers[:8]}: expected ascending numbers from 0 to {MAX_LAYER}")
    if not 1 <= row["k"] <= MAX_VOCABULARY:
        raise ValueError(f"k {row['k']}: expected 1 to {MAX_VOCABULARY}")
    return layers


def _lens(row: Mapping[str, Any], layers: tuple[int, ...], kept: tuple[Any, Any, Any]) -> Lens:
    ids, logprobs, tail = kept
    shape = (len(row["target_ids"]), len(layers), row["k"])
    return Lens(
        target_ids=token_ids_of(row["target_ids"], "target_ids"),
        layers=layers,
        token_ids=ids.astype(np.int64).reshape(shape),
        logprobs=logprobs.reshape(shape),
        tail=tail.reshape(shape[:2]),
    )
