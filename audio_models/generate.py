"""Batched generation from audio, greedy or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from audio_models.drawing import Drawn, Watched, draws_of
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from cache_schema.types import IntArray


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer: int64 ids, the stop token included, and their text without special tokens.

    ``finish_reason`` is ``stop``, or ``length`` for an answer cut at ``max_new_tokens``. ``finite``
    says whether the logits it was read from were numbers: where not, it is no answer at all.
    """

    token_ids: IntArray
    text: str
    finish_reason: str
    finite: bool = True


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 takes the most probable token; otherwise logits are divided by it.
        top_p: only the most probable tokens that hold this much probability together.
        seed: of the random numbers; 0 temperature draws none.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


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
    lengths = [0 if each.audio is None else len(each.audio) for each in requests]
    order = sorted(range(len(requests)), key=lambda i: (lengths[i], i))
    answers: dict[int, Generation] = {}
    decoding = Decoding(max_new_tokens=max_new_tokens)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = generate_batch(lm, [requests[i] for i in chosen], decoding)
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
def generate_batch(
    lm: AudioLM, requests: Sequence[Request], decoding: Decoding, keys: Sequence[str] = ()
) -> list[Generation]:
    """Answer requests in one batch, padded on the left; see ``generate``.

    Args:
        lm: the model.
        requests: the rows.
        decoding: how tokens are chosen.
        keys: a name for each row's random numbers (``audio_models.drawing``), where some are drawn.

    Raises:
        AudioError: a recording cannot be heard; see ``build_inputs``.
    """
    batch = build_inputs(lm, requests, padding_side="left").to(lm.device)
    num_prompt = batch.inputs["input_ids"].shape[1]
    stops = stop_token_ids(lm)
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=list(stops) or None,
        pad_token_id=lm.tokenizer.pad_token_id,
    )
    watched = Watched(len(requests), num_prompt, lm.device)
    output_BT = lm.model.generate(
        **batch.inputs,
        generation_config=settings,
        logits_processor=LogitsProcessorList([watched, *_drawing(decoding, keys, num_prompt)]),
    )
    new_BR = output_BT[:, num_prompt:].cpu().numpy()
    bad_B = watched.first_bad_B.tolist()
    return [_finish(lm, ids, stops, bad) for ids, bad in zip(new_BR, bad_B, strict=True)]


def _drawing(
    decoding: Decoding, keys: Sequence[str], num_prompt: int
) -> list[TemperatureLogitsWarper | TopPLogitsWarper | Drawn]:
    """Return what makes the most probable token the drawn one; nothing at temperature 0."""
    if decoding.temperature == 0.0:
        return []
    draws_BR = draws_of(decoding.seed, keys, decoding.max_new_tokens)
    narrow = [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1.0 else []
    return [TemperatureLogitsWarper(decoding.temperature), *narrow, Drawn(draws_BR, num_prompt)]


def _finish(lm: AudioLM, ids: IntArray, stops: Sequence[int], first_bad: int) -> Generation:
    ends = np.flatnonzero(np.isin(ids, stops))
    kept = ids[: ends[0] + 1] if len(ends) else ids
    return Generation(
        token_ids=kept.astype(np.int64),
        text=lm.tokenizer.decode(kept, skip_special_tokens=True),
        finish_reason="stop" if len(ends) else "length",
        finite=first_bad >= len(kept),
    )
