"""From states to logits: the student's own output, and its layers by the logit lens.

A layer's lens is the model's own final norm, then what makes logits of any readout.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audio_models.decoder import decoder_of, logits_of
from audio_models.forward import unembed
from train.losses.heads import GraphHead, Head, LinearHead

MakeHead = Callable[[bool], Head]
"""Whether its parameters get gradient -> the unembedding, for one pass."""

_PROBES = 2


def output_head(model: Any) -> MakeHead:
    """Return what makes the model's own logits from the inputs of its unembedding.

    Most classes only unembed. Where a class does more (a scale, a soft cap), which shows in the
    logits of random states, its own code is used, at the cost of what that does around it. So it is
    where the unembedding is no plain layer: one with adapters.
    """
    layer = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(0)
    probe_ND = torch.randn(_PROBES, layer.weight.shape[1], generator=generator).to(layer.weight)
    with torch.no_grad():
        plain = torch.equal(unembed(model, probe_ND), logits_of(model, probe_ND))
        vocab_size = len(unembed(model, probe_ND)[0])

    def make(trained: bool) -> Head:
        layer = model.get_output_embeddings()
        if plain and type(layer) is nn.Linear:
            return LinearHead(layer, trained)
        code = unembed if plain else logits_of

        def read(readout_ND: Tensor) -> Tensor:
            if trained:
                return code(model, readout_ND)
            with _fixed(layer.parameters()):
                return code(model, readout_ND)

        return GraphHead(read, vocab_size, trained)

    return make


def lens_inputs(model: Any, states_ND: Tensor, trained: bool) -> Tensor:
    """Return states of any layer through the model's final norm.

    Args:
        model: the student.
        states_ND: before that norm.
        trained: whether it gets gradient; the states do, always.
    """
    norm = decoder_of(model).norm
    with _fixed(() if trained else norm.parameters()):
        normed_ND: Tensor = norm(states_ND)
        return normed_ND


@contextmanager
def _fixed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters be constants of what is computed meanwhile."""
    trained = [each for each in parameters if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)
