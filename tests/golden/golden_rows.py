"""What the golden tapes hold: samples, and the rows and states of each teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.rows.classes import frame_logits_row, utterance_logits_row
from cache_schema.rows.values import (
    hidden_row,
    lens_row,
    rejected_row,
    sampled_row,
    topk_row,
    trace_row,
)
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Lens, Rejected, Sample, Sampled, TopK, Trace

WIDTH, K, DRAWS = 8, 4, 10
LAYERS = (0, 12)
LENS_LAYERS = (1, 3)


LABELS = ["Speech", "Sprache „laut“", "音楽", ""]
"""Names of classes; one of them may be empty."""


def classified(index: int) -> tuple[dict[str, list[dict[str, Any]]], list[Any]]:
    """Return the classifier's rows of sample ``index``; the first has no frames."""
    name, ids = f"golden-{index}", np.array([5, 131_071, 0])[: 1 + index]
    rng = np.random.default_rng(300 + index)
    edges_s = np.linspace(0, 0.0375, index + 1)
    frames_s = np.stack([edges_s[:-1], edges_s[1:]], axis=1)
    place, states = heard(index)
    rows = {
        "utterance_logits": [utterance_logits_row(name, rng.normal(0, 4, len(LABELS)))],
        "frame_logits": [frame_logits_row(name, rng.normal(0, 4, (index, 2)), frames_s)],
    }
    response = rng.normal(0, 3, (len(ids), WIDTH)).astype(np.float32)
    token = hidden_row(name, 0, "token", (0, 0), ids, None)
    return rows, [(place, {2: states[LAYERS[0]]}), (token, {2: response})]


def lens(ids: NDArray[np.int64]) -> Lens:
    """Return the same two distributions for every token, the first layer the less certain."""
    kept = np.array([[0.25, 0.25, 0.125, 0.0625], [0.875, 0.0625, 0.03125, 0.0]])
    tokens = len(ids)
    with np.errstate(divide="ignore"):
        logprobs = np.log(kept).astype(np.float32)
    names = [[5, 131_072, (1 << 20) - 1, 7], [(1 << 20) - 1, 0, 65_536, 5]]
    return Lens(
        target_ids=ids,
        layers=LENS_LAYERS,
        token_ids=np.tile(names, (tokens, 1, 1)),
        logprobs=np.tile(logprobs, (tokens, 1, 1)),
        tail=np.tile(np.array([0.3125, 0.03125], np.float32), (tokens, 1)),
    )


def told_apart(index: int) -> dict[str, list[dict[str, Any]]]:
    """Return the textual rows of sample ``index``: of the last only what was not kept."""
    name = f"golden-{index}"
    rows: dict[str, list[dict[str, Any]]] = {"trace": [], "lens": [], "rejected": []}
    for number in range(2 - index):
        ids = np.array([131_071, 5, 0])[: 3 - number]
        trace = Trace(
            text=f"<RESPONSE>{number}</RESPONSE>",
            token_ids=ids,
            prompt_token_ids=np.arange(2),
            finish_reason="stop",
            answer=str(number),
            correct=True,
            logprob=-1.25,
            origin=("label", "free")[number] if index == 0 else "given",
            draw=3 - number,
            seed=(1 << 63) - 1 if number else -7,
        )
        rows["trace"].append(trace_row(name, number, trace))
        rows["lens"].append(lens_row(name, number, lens(ids)))
    for number in range(index):
        rejected = Rejected(
            draw=number,
            text="„drei“",
            finish_reason=("stop", "length")[number],
            answer="3",
            correct=(False, None)[number],
            logprob=-8.5,
            origin="free",
            seed=number,
            reason=("wrong answer", "of another kind")[number],
        )
        rows["rejected"].append(rejected_row(name, number, rejected))
    return rows


def sample(index: int) -> Sample:
    """Return sample ``index``; the audio of the second is no 16-bit words."""
    ramp = np.arange(600 + index, dtype=np.float32) / 1024 - 0.1 * (index == 1)
    return Sample(
        sample_id=f"golden-{index}",
        row_index=index,
        audio=ramp.astype(np.float32),
        question="Wie viele?",
        choices=("one", "zwei", "三"),
        answer="三",
        metadata={"speaker": "ann", "index": index, "nested": {"a": [1, None]}},
    )


def spoken(index: int) -> tuple[dict[str, list[dict[str, Any]]], list[Any]]:
    """Return the textual teacher's rows of sample ``index``: two traces, one of them empty."""
    rows: dict[str, list[dict[str, Any]]] = {"trace": [], "topk": [], "sampled": []}
    hidden = []
    for number, tokens in enumerate((3 + index, 0)):
        rng = np.random.default_rng(10 * index + number)
        ids = np.array([131_071, 131_072, 262_143, (1 << 20) - 1, 0])[:tokens]
        kept = np.array([0.5, 0.25, 0.125, 0.0625])
        trace = Trace(
            text=f"<RESPONSE>{number}</RESPONSE>",
            token_ids=ids,
            prompt_token_ids=np.arange(2),
            finish_reason="length" if number else "stop",
            answer=str(number),
            correct=(True, None)[number],
            logprob=-1.25,
        )
        topk = TopK(
            target_ids=ids,
            token_ids=np.tile([5, 131_072, (1 << 20) - 1, 7], (tokens, 1)),
            logprobs=np.tile(np.log(kept), (tokens, 1)).astype(np.float32),
            tail=np.full(tokens, 0.0625, np.float32),
        )
        drawn = Sampled(
            target_ids=ids,
            token_ids=np.tile([3, 70_000, (1 << 20) - 1], tokens),
            counts=np.tile([7, 2, 1], tokens),
            offsets=np.arange(tokens + 1) * 3,
            num_draws=DRAWS,
        )
        name = f"golden-{index}"
        rows["trace"].append(trace_row(name, number, trace))
        rows["topk"].append(topk_row(name, number, topk))
        rows["sampled"].append(sampled_row(name, number, drawn))
        states = {n: (n + rng.normal(0, 2, (tokens, WIDTH))).astype(np.float32) for n in LAYERS}
        hidden.append((hidden_row(name, number, "token", (0, 0), ids, None), states))
    return rows, hidden


def heard(index: int) -> Any:
    """Return the acoustic teacher's states of sample ``index``."""
    rng = np.random.default_rng(100 + index)
    count = 2 + index
    edges_s = np.linspace(0, 0.0375, count + 1, dtype=np.float32)
    times_s = np.stack([edges_s[:-1], edges_s[1:]], axis=1)
    states = {n: rng.normal(0, 3, (count, WIDTH)).astype(np.float32) for n in LAYERS}
    return hidden_row(f"golden-{index}", AUDIO_ROW, "audio", (0, 0), None, times_s), states
