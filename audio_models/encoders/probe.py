"""What is tried once when an encoder is loaded: its states, and whether it hears padding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audio_models.encoders.encoder import AudioEncoder
from audio_models.frames import FrameOutputs
from cache_schema.console import say
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray

PADDING_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far padding may move a value, of the largest one. Other shapes round otherwise: below 1e-5 in
float32. Group norms over padding moved states by 0.1 to 1."""


@torch.inference_mode()
def check_states(encoder: AudioEncoder) -> None:
    """Compare the states that are read with those the network reports itself.

    Raises:
        ModelError: they differ, so this is a family whose states cannot be read.
    """
    batch = encoder.build([_noise(encoder, 8.25)]).to(encoder.device)
    inputs = encoder.cast(batch)
    encoder.blocks.check_reported(
        lambda: encoder.module(**inputs, output_hidden_states=True).hidden_states
    )


@torch.inference_mode()
def hears_padding(encoder: AudioEncoder) -> bool:
    """Return whether recordings sound otherwise beside a longer one than alone, and say so.

    Two short ones half a frame apart are tried: where two vectors of the front end are put together
    in one frame (SEW), one of them ends in the middle of it.
    """
    if encoder.front.window:
        return False
    shorter = [_noise(encoder, frames) for frames in (7.25, 7.75)]
    layers = range(encoder.shape.num_layers + 1)
    alone = [_run(encoder, [audio], layers) for audio in shorter]
    beside = _run(encoder, [*shorter, _noise(encoder, 14.25)], layers)
    tolerance = PADDING_TOLERANCE[next(encoder.module.parameters()).dtype]
    for ones, other in zip(zip(*map(_values, alone), strict=True), _values(beside), strict=True):
        one = torch.cat(ones)
        if (one - other[: len(one)]).abs().max() > tolerance * one.abs().max():
            say(
                f"{encoder.path} hears padding, so only recordings of equal length are heard "
                "together"
            )
            return True
    return False


def _noise(encoder: AudioEncoder, frames: float) -> FloatArray:
    """Return noise of so many frames beyond the fewest there can be."""
    seconds = encoder.front.min_audio_s + frames * encoder.front.hop_s
    seconds = min(seconds, encoder.front.max_audio_s)
    drawn = np.random.default_rng(int(4 * frames)).normal(0.0, 0.1, int(seconds * SAMPLE_RATE_HZ))
    return drawn.astype(np.float32)


def _run(encoder: AudioEncoder, audios: list[FloatArray], layers: range) -> FrameOutputs:
    return encoder.forward(encoder.build(audios).to(encoder.device), layers)


def _values(outputs: FrameOutputs) -> list[Tensor]:
    heads = (outputs.utterance_logits_BC, outputs.frame_logits_NC, outputs.embedding_BE)
    return [value.float() for value in (*outputs.states.values(), *heads) if value is not None]
