"""``pipeline inspect CACHE SAMPLE_ID``: one sample as values and as a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from cache_schema import TapeRow
from cache_schema.types import (
    SAMPLE_RATE_HZ,
    Embedding,
    FrameLogits,
    Lens,
    Sampled,
    TopK,
    UtteranceLogits,
)
from pipeline.pages import page_of, titled

_HIGHEST = 3
"""Classes of a recording that are shown: those of the highest logits."""

_VERDICTS = {True: "right", False: "wrong", None: "not judged"}


def sample_values(row: TapeRow) -> dict[str, Any]:
    """Return one sample as JSON values, arrays as their shapes."""
    values: dict[str, Any] = {
        "sample_id": row.sample_id,
        "row_index": row.row_index,
        "audio_s": row.num_audio_samples / SAMPLE_RATE_HZ,
        "audio_sha256": row.audio_sha256,
        "question": row.question,
        "choices": list(row.choices),
        "answer": row.answer,
        "metadata": dict(row.metadata),
        "description": row.description,
        "traces": [
            {
                "text": trace.text,
                "answer": trace.answer,
                "correct": trace.correct,
                "finish_reason": trace.finish_reason,
                "tokens": len(trace.token_ids),
                "prompt_tokens": len(trace.prompt_token_ids),
                "logprob": trace.logprob,
                "origin": trace.origin,
                "draw": trace.draw,
                "seed": trace.seed,
            }
            for trace in row.traces
        ],
        "rejected": [asdict(rejected) for rejected in row.rejected],
        "heard": {column: asdict(heard) for column, heard in row.heard.items()},
        "signals": {},
    }
    for name in row.signals:
        values["signals"][name] = _facts_of(row, name)
    return values


def _hidden_facts(row: TapeRow, name: str) -> dict[str, Any]:
    """Return the shapes of states, of each row where there are several; they are not read."""
    place = row.hidden_place(name)
    facts: dict[str, Any] = {
        "positions": place.count,
        "layers": list(place.layers),
        "width": place.states.width,
        "kind": place.kind,
    }
    traces = row.traces_of(name)
    if len(traces) > 1:
        places = [(trace, row.hidden_place(name, trace)) for trace in traces]
        facts["rows"] = [
            {"trace": trace, "positions": one.count, "kind": one.kind} for trace, one in places
        ]
    return facts


def _class_facts(signal: UtteranceLogits | FrameLogits | Embedding) -> dict[str, Any]:
    """Return the shapes of a classifier's logits or of an embedding, and what stands out."""
    if isinstance(signal, Embedding):
        norm = float(np.linalg.norm(signal.values.astype(np.float64)))
        return {"width": len(signal.values), "pooling": signal.pooling, "norm": norm}
    facts: dict[str, Any] = {"classes": len(signal.labels), "multi_label": signal.multi_label}
    if isinstance(signal, FrameLogits):
        end_s = float(signal.times_s[-1, 1]) if len(signal.times_s) else 0.0
        return {"frames": len(signal.logits), **facts, "end_s": end_s}
    highest = np.argsort(-signal.logits, kind="stable")[:_HIGHEST].tolist()
    return {**facts, "highest": {signal.labels[at]: float(signal.logits[at]) for at in highest}}


def _facts_of(row: TapeRow, name: str) -> dict[str, Any]:
    """Return the shapes of a signal; states are not read."""
    if name.endswith("/hidden"):
        return _hidden_facts(row, name)
    signal = row[name]
    if isinstance(signal, UtteranceLogits | FrameLogits | Embedding):
        return _class_facts(signal)
    if isinstance(signal, Lens):
        return {
            "tokens": signal.token_ids.shape[0],
            "layers": list(signal.layers),
            "k": signal.token_ids.shape[2],
            "mean_tail": [float(tail) for tail in signal.tail.mean(axis=0)]
            if signal.tail.size
            else [],
        }
    if isinstance(signal, TopK):
        return {
            "tokens": signal.token_ids.shape[0],
            "k": signal.token_ids.shape[1],
            "mean_tail": float(signal.tail.mean()) if signal.tail.size else 0.0,
        }
    if isinstance(signal, Sampled):
        tokens = len(signal.target_ids)
        return {"tokens": tokens, "draws": signal.num_draws, "unique_ids": len(signal.token_ids)}
    return {"tokens": len(row.traces[0].token_ids)}


def sample_page(values: dict[str, Any]) -> str:
    """Return one sample as a page for people."""
    lines = [
        f"sample {values['sample_id']}   {values['audio_s']:.2f} s   row {values['row_index']}",
        *titled("question", values["question"]),
    ]
    if values["choices"]:
        lines.append(f"choices      {', '.join(values['choices'])}")
    lines += titled("answer", values["answer"])
    lines += [f"{key:<12} {value}" for key, value in values["metadata"].items()]
    lines += titled("description", f"{values['description']}")
    for column, heard in values["heard"].items():
        lines += titled("heard", f"{column}, {len(heard['segments'])} segments: {heard['text']}")
    for number, trace in enumerate(values["traces"]):
        told = "" if trace["origin"] == "free" else f", {trace['origin']}"
        lines += titled(
            f"trace {number}",
            f"{trace['tokens']} tokens, {trace['finish_reason']}, "
            f"{_VERDICTS[trace['correct']]}{told}: {trace['text']}",
        )
    for rejected in values["rejected"]:
        lines += titled(
            "not kept",
            f"draw {rejected['draw']}, {rejected['reason']}, "
            f"{_VERDICTS[rejected['correct']]}: {rejected['text']}",
        )
    for name, facts in values["signals"].items():
        several = facts.get("rows", [])
        told = "  ".join(f"{key} {value}" for key, value in facts.items() if key != "rows")
        lines.append(f"{name:<12} {told}")
        for one in several:
            whose = "recording" if one["trace"] < 0 else f"trace {one['trace']}"
            lines.append(f"             {whose}: {one['positions']} {one['kind']} positions")
    return page_of(lines)
