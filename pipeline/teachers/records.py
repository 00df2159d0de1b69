"""One fixed-size record a position: how signals travel from an engine's worker to us.

Shapes: T trace tokens, k kept logits, M lens layers, n draws, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError
from cache_schema.types import FloatArray, IntArray
from pipeline.teachers.base import Entries, TokenSignals, Wanted

Records = NDArray[np.void]

SETTINGS_KEY = "teachertape"
"""Key of vLLM's ``additional_config`` with what to report; being part of vLLM's configuration, it
also keeps compiled graphs of other layers apart."""

REQUEST_KEY = "signals"
"""Key of a request's ``extra_args`` with which positions to report."""


def record_dtype(wanted: Wanted, width: int, states_dtype: str) -> np.dtype[np.void]:
    """Return the type of one position's record.

    Args:
        wanted: which signals.
        width: D.
        states_dtype: ``float32``, ``float16`` or ``bfloat16``, whose bits travel as uint16.
    """
    k, lens, lens_k = wanted.top_k, len(wanted.lens), wanted.lens_top_k
    fields: list[tuple[str, str, tuple[int, ...]]] = [("target_logprob", "<f4", ())]
    if k:
        fields += [("topk_ids", "<i4", (k,)), ("topk_logprobs", "<f4", (k,)), ("tail", "<f4", ())]
    if lens:
        fields += [
            ("lens_ids", "<i4", (lens, lens_k)),
            ("lens_logprobs", "<f4", (lens, lens_k)),
            ("lens_tail", "<f4", (lens,)),
        ]
    if wanted.draws:
        fields.append(("drawn_ids", "<i4", (wanted.draws,)))
    if wanted.layers:
        kind = "<u2" if states_dtype == "bfloat16" else np.dtype(states_dtype).str
        fields.append(("states", kind, (len(wanted.layers), width)))
    return np.dtype(fields)


def as_settings(wanted: Wanted, width: int, states_dtype: str) -> dict[str, Any]:
    """Return what a worker must know, as plain values; ``from_settings`` reads it."""
    return {"wanted": asdict(wanted), "width": width, "states_dtype": states_dtype}


def from_settings(settings: Mapping[str, Any]) -> tuple[Wanted, np.dtype[np.void]]:
    """Return which signals a worker reports, and in which records."""
    told = settings["wanted"]
    layers = {name: tuple(told[name]) for name in ("layers", "lens")}
    wanted = Wanted(**{**told, **layers})
    return wanted, record_dtype(wanted, settings["width"], settings["states_dtype"])


def signals_of(
    records: Records | None, target_ids: IntArray, target_logprobs: FloatArray, wanted: Wanted
) -> TokenSignals:
    """Return the signals of one trace.

    Args:
        records: [T], ``None`` if nothing but the log-probabilities was wanted.
        target_ids: int64 [T].
        target_logprobs: float32 [T].
        wanted: which signals the records hold.

    Raises:
        ModelError: the engine reports on more or fewer tokens than the trace has.
    """
    if len(target_logprobs) != len(target_ids):
        raise ModelError(
            f"{len(target_logprobs)} log-probabilities for {len(target_ids)} trace tokens"
        )
    if records is None:
        return TokenSignals(
            target_ids=target_ids, target_logprobs=target_logprobs,
            topk=None, states={}, lens=None, drawn_ids=None,
        )  # fmt: skip
    if len(records) != len(target_ids):
        raise ModelError(f"signals of {len(records)} positions for {len(target_ids)} trace tokens")
    states = {layer: records["states"][:, i] for i, layer in enumerate(wanted.layers)}
    return TokenSignals(
        target_ids=target_ids,
        target_logprobs=target_logprobs,
        topk=_entries(records, "topk_ids", "topk_logprobs", "tail") if wanted.top_k else None,
        states=states,
        lens=_entries(records, "lens_ids", "lens_logprobs", "lens_tail") if wanted.lens else None,
        drawn_ids=records["drawn_ids"].astype(np.int64) if wanted.draws else None,
    )


def _entries(records: Records, ids: str, logprobs: str, tail: str) -> Entries:
    return Entries(
        token_ids=records[ids].astype(np.int64),
        logprobs=np.ascontiguousarray(records[logprobs]),
        tail=np.ascontiguousarray(records[tail]),
    )
