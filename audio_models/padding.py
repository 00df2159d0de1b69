"""Whether a model hears the padding of a batch: tried, for families nobody listed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audio_models.forward import forward_with_states
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from audio_models.moved import moved
from cache_schema.types import SAMPLE_RATE_HZ

SECONDS = (0.43, 1.57)
"""Below and above one second: some towers take longer ones to pieces of a second."""


@torch.no_grad()  # what a module keeps of a pass must be of use to training
def hears_padding(lm: AudioLM) -> bool:
    """Return whether the states of a recording are others beside a longer one than alone.

    In the type of the weights, also where the passes around it are under autocast.
    """
    requests = [
        Request(audio=_noise(min(seconds, lm.max_audio_s)), text="What?") for seconds in SECONDS
    ]
    with torch.autocast(lm.device.type, enabled=False):
        alone = _last_states(lm, requests[:1])
        beside = _last_states(lm, requests)[: len(alone)]
    return moved(alone, beside, alone.dtype)


def _noise(seconds: float) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(0.0, 0.1, int(seconds * SAMPLE_RATE_HZ))
    return drawn.astype(np.float32)


def _last_states(lm: AudioLM, requests: list[Request]) -> Tensor:
    """Return the last layer at audio positions, [positions, D], recording after recording."""
    batch = build_inputs(lm, requests).to(lm.device)
    nowhere = [positions[:0] for positions in batch.predict_positions]
    forward = forward_with_states(
        lm.model,
        batch.inputs,
        [lm.num_layers],
        nowhere,
        unembed_now=False,
        state_positions=batch.audio_positions,
    )
    return forward.states[lm.num_layers]
