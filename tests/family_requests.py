"""Requests to tiny models of any family, and transformers' own pass over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from audio_models.inputs import AudioBatch, Request
from audio_models.load import AudioLM

SECONDS = (0.5, 1.37, 3.3, 0.9)
"""Of the four requests: below and above one second, where Qwen3-Omni's pieces end."""


def tone(seconds: float, frequency_hz: float) -> np.ndarray:
    times_s = np.arange(round(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def one_request(lm: AudioLM, seconds: float, answer: str = "three, odd") -> Request:
    ids = np.asarray(lm.tokenizer(answer)["input_ids"], dtype=np.int64)
    return Request(audio=tone(seconds, 200.0 * seconds + 90), text="Which?", response_ids=ids)


def requests_for(lm: AudioLM) -> list[Request]:
    answers = ("yes", "no, odd", "three", "nothing at all")
    return [one_request(lm, s, a) for s, a in zip(SECONDS, answers, strict=True)]


def plain(lm: AudioLM, batch: AudioBatch, network: torch.nn.Module | None = None) -> Any:
    """Run transformers' own forward pass."""
    with torch.no_grad():
        return (network or lm.model)(**batch.inputs, output_hidden_states=True, use_cache=False)
