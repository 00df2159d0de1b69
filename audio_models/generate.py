"""Batched greedy generation from audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GenerationConfig

from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from cache_schema.types import IntArray


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer: int64 ids, the stop token included, and their text without special tokens.

    ``finish_reason`` is ``stop``, or ``length`` for an answer cut at ``max_new_tokens``.
    """

    token_ids: IntArray
    text: str
    finish_reason: str


def generate(
    lm: AudioLM, requests: Sequence[Request], max_new_tokens: int, batch_size: int
) -> list[Generation]:
    """Answer every request greedily, in the order given.

    Rows of similar length share a batch, padded on the left; a row's answer does not depend on the
    others (ties of logits within rounding excepted). Sampling settings and penalties that ship with
    a checkpoint are left out: they would make scores incomparable.

    Raises:
        AudioError: a recording cannot be heard; see ``build_inputs``.
    """
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].audio), i))
    answers: dict[int, Generation] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _generate_batch(lm, [requests[i] for i in chosen], max_new_tokens)
        answers.update(zip(chosen, batch, strict=True))
    return [answers[i] for i in range(len(requests))]


def stop_token_ids(lm: AudioLM) -> tuple[int, ...]:
    """Return every id that ends a turn: the tokenizer's and the checkpoint's, ascending."""
    found: set[int] = set()
    for value in (lm.tokenizer.eos_token_id, lm.model.generation_config.eos_token_id):
        if value is not None:
            found.update(value if isinstance(value, list) else [value])
    return tuple(sorted(found))


@torch.no_grad()
def _generate_batch(
    lm: AudioLM, requests: Sequence[Request], max_new_tokens: int
) -> list[Generation]:
    batch = build_inputs(lm, requests, padding_side="left").to(lm.device)
    stops = stop_token_ids(lm)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=list(stops) or None,
        pad_token_id=lm.tokenizer.pad_token_id,
    )
    output_BT = lm.model.generate(**batch.inputs, generation_config=settings)
    new_BR = output_BT[:, batch.inputs["input_ids"].shape[1] :].cpu().numpy()
    return [_finish(lm, ids, stops) for ids in new_BR]


def _finish(lm: AudioLM, ids: IntArray, stops: Sequence[int]) -> Generation:
    ends = np.flatnonzero(np.isin(ids, stops))
    kept = ids[: ends[0] + 1] if len(ends) else ids
    return Generation(
        token_ids=kept.astype(np.int64),
        text=lm.tokenizer.decode(kept, skip_special_tokens=True),
        finish_reason="stop" if len(ends) else "length",
    )
