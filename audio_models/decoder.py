"""Where a language model's blocks and its final norm are, and reading a layer through the norm.

Classes differ in names only: a decoder is the module that holds a list of as many blocks as the
configuration says, and a final norm beside it.

Shapes: N rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from cache_schema.errors import ModelError

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "final_norm")
"""What the final norm is called, beside the blocks."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The blocks of a language model, in order, and the norm its unembedding reads through."""

    blocks: nn.ModuleList
    norm: nn.Module


def find_decoder(model: nn.Module, num_layers: int) -> Decoder:
    """Return the blocks and the final norm of a model.

    Args:
        model: a language model, or what contains one.
        num_layers: how many blocks it has.

    Raises:
        ModelError: there are none, or several that could be meant.
    """
    found = []
    for module in model.modules():
        norms = [getattr(module, name) for name in FINAL_NORMS if hasattr(module, name)]
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == num_layers and norms:
                found += [Decoder(blocks=child, norm=norms[0])]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__}: expected one list of {num_layers} blocks with a final norm "
            f"({', '.join(FINAL_NORMS)}) beside it, found {len(found)}"
        )
    return found[0]


def decoder_of(model: Any) -> Decoder:
    """Return the blocks and the final norm of a transformers language model.

    Raises:
        ModelError: they cannot be told.
    """
    if model not in _FOUND:  # looking for it takes as long as reading a hundred positions
        layers = int(model.config.get_text_config().num_hidden_layers)
        _FOUND[model] = find_decoder(model.get_decoder(), layers)
    return _FOUND[model]


_FOUND: WeakKeyDictionary[Any, Decoder] = WeakKeyDictionary()


def lens_logits(model: Any, states_ND: Tensor) -> Tensor:
    """Read states through the model's own final norm and unembedding (the logit lens).

    Args:
        model: a transformers causal language model.
        states_ND: states of any layer, before the final norm.

    Returns:
        Logits [N, V]; for the last layer they are the model's own.
    """
    return logits_of(model, decoder_of(model).norm(states_ND))


def logits_of(model: Any, normed_ND: Tensor) -> Tensor:
    """Unembed states that are through the final norm.

    It is the class's own code with all it does to logits (scaling, soft caps): the decoder inside
    is made to return the states.

    Returns:
        Logits [N, V].
    """
    ids_1N = torch.zeros((1, len(normed_ND)), dtype=torch.long, device=normed_ND.device)
    with _answering(model.get_decoder(), normed_ND[None]):
        logits_1NV: Tensor = model(input_ids=ids_1N, use_cache=False).logits
    return logits_1NV[0]


@dataclass
class _Answer(BaseModelOutputWithPastAndCrossAttentions):
    """What any class reads of its decoder's output; mixtures of experts look for their routers."""

    router_logits: tuple[Tensor, ...] | None = None


@contextmanager
def _answering(decoder: Any, states: Tensor) -> Iterator[None]:
    """Let a decoder return these states, whatever it is given."""
    answer: Any = states

    def forward(*_args: Any, **_settings: Any) -> _Answer:
        return _Answer(last_hidden_state=answer)

    decoder.forward = forward
    try:
        yield
    finally:
        del decoder.forward
