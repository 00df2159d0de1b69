"""What is tried once when an encoder is loaded: its states, and whether it hears padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from audio_models.encoders.encoder import AudioEncoder
from audio_models.frames import FrameOutputs
from audio_models.moved import moved
from cache_schema.commands.console import say
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray


@torch.no_grad()
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

    It is tried in float32 whatever the weights are kept in, before they are on their device: what
    half precision rounds away would hide it.

    Two short ones half a frame apart are tried: where two vectors of the front end are put together
    in one frame (SEW), one of them ends in the middle of it.
    """
    if encoder.front.window:
        return False
    shorter = [_noise(encoder, frames) for frames in (7.25, 7.75)]
    layers = range(encoder.shape.num_layers + 1)
    with _in_float32(encoder.module):
        alone = [_run(encoder, [audio], layers) for audio in shorter]
        beside = _run(encoder, [*shorter, _noise(encoder, 14.25)], layers)
    for ones, other in zip(zip(*map(_values, alone), strict=True), _values(beside), strict=True):
        one = torch.cat(ones)
        if moved(one, other[: len(one)], torch.float32):
            say(
                f"{encoder.path} hears padding, so only recordings of equal length are heard "
                "together"
            )
            return True
    return False


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Run what is inside with weights in float32; afterwards they are the very ones they were.

    So are tensors that modules keep of a pass: Wav2Vec2-Conformer's position embeddings would stay
    in float32 on the CPU for the next recording of that length.
    """
    held = [
        tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()
    ]
    stored = [tensor.data for tensor in held]
    attributes = [(inside, dict(vars(inside))) for inside in module.modules()]
    try:
        for tensor in held:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(held, stored, strict=True):
            tensor.data = data
        for inside, before in attributes:
            kept = [name for name, value in vars(inside).items() if isinstance(value, Tensor)]
            vars(inside).update({name: before.get(name) for name in kept})


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
    return [value for value in (*outputs.states.values(), *heads) if value is not None]
