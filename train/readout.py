"""From states to logits: the student's own output, and its layers by the logit lens.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audio_models.decoder import decoder_of, lens_logits, logits_of
from audio_models.forward import unembed

Read = Callable[[Tensor], Tensor]
"""States [N, D] -> logits [N, V]."""

_PROBES = 2


def output_reader(model: Any) -> Read:
    """Return what makes the model's own logits from the inputs of its unembedding.

    Most classes only unembed. Where a class does more (a scale, a soft cap), which shows in the
    logits of random states, its own code is used, at the cost of what that does around it.
    """
    weight = model.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    probe_ND = torch.randn(_PROBES, weight.shape[1], generator=generator).to(weight)
    with torch.no_grad():
        plain = torch.equal(unembed(model, probe_ND), logits_of(model, probe_ND))

    def read(readout_ND: Tensor) -> Tensor:
        return unembed(model, readout_ND) if plain else logits_of(model, readout_ND)

    return read


def lens_reader(model: Any, trained: bool) -> Read:
    """Return what reads any layer through the final norm and the unembedding of the model.

    Args:
        model: the student.
        trained: whether those two get gradient; the states do, always.
    """

    def read(states_ND: Tensor) -> Tensor:
        if trained:
            return lens_logits(model, states_ND)
        modules = (decoder_of(model).norm, model.get_output_embeddings())
        with _fixed(p for module in modules for p in module.parameters()):
            return lens_logits(model, states_ND)

    return read


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
