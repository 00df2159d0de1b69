"""States read at the blocks, compared once with the hidden states the model reports itself.

Classes are read without being known by name (``audio_models.decoder``, ``audio_models.blocks``);
one that does something else between its blocks would be recorded wrongly, and is refused instead.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_models.blocks import Blocks, check_same
from audio_models.decoder import decoder_of
from audio_models.forward import forward_with_states
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from audio_models.tower_layouts import TowerCall
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray


def second_of_noise(max_audio_s: float) -> FloatArray:
    """Return float32 noise of one second, or of all a front end hears: what models are tried on."""
    drawn = np.random.default_rng(0).normal(0.0, 0.1, int(min(1.0, max_audio_s) * SAMPLE_RATE_HZ))
    return drawn.astype(np.float32)


@torch.no_grad()
def check_lm_states(lm: AudioLM) -> None:
    """Compare the states of every layer of an audio language model with what it reports itself.

    One pass over a second of noise and one word. It is for teachers: what a student computes is
    trained, whatever it is.

    Raises:
        ModelError: they differ, or it reports none; the class is named.
    """
    request = Request(audio=second_of_noise(lm.max_audio_s), text="What?")
    batch = build_inputs(lm, [request]).to(lm.device)
    inputs: dict[str, Any] = {**batch.inputs, "output_hidden_states": True}
    with _last_output(lm.model.get_decoder()) as outputs:
        forward = forward_with_states(
            lm.model,
            inputs,
            range(lm.num_layers + 1),
            [positions[:0] for positions in batch.predict_positions],
            unembed_now=False,
        )
    reported = getattr(outputs[-1], "hidden_states", None)
    norm = decoder_of(lm.model).norm
    check_same(type(lm.model).__name__, forward.states, reported, [norm])


@torch.no_grad()
def check_tower_states(tower: Any, num_layers: int, call: TowerCall) -> None:
    """Compare the states of an audio tower with those it reports itself, where it does.

    Phi-4-multimodal reports none. Where a tower pools behind its last block (Qwen2-Audio, Audio
    Flamingo 3) what it reports last has other positions, and only the layers before are compared.

    Args:
        tower: the module.
        num_layers: its blocks.
        call: a pass of it.

    Raises:
        ModelError: they differ; the class is named.
    """
    blocks = Blocks(tower, num_layers)
    with blocks.read(range(num_layers + 1)) as states:
        output = tower(**call.inputs, output_hidden_states=True)
    reported: Sequence[Tensor] | None = getattr(output, "hidden_states", None)
    if reported is None:
        return
    if reported[-1].shape != states[num_layers].shape:
        reported = (*reported[:-1], states[num_layers])
    check_same(type(tower).__name__, states, reported, blocks.norms)


@contextmanager
def _last_output(module: Any) -> Iterator[list[Any]]:
    """Collect what a module returns in the pass run inside."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
