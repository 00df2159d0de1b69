"""One forward pass that keeps chosen layers and unembeds chosen positions only.

Layer 0 is the embedding output (the first block's input), layer N the output of block N, the last
one before the final norm (``output_hidden_states`` would give it after). ``[B, T, V]`` never
exists: the unembedding sees only the positions asked for.

Shapes: B rows, T input positions, D width, N asked positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audio_models.decoder import decoder_of
from audio_models.valid_frames import sent


@dataclass(frozen=True, kw_only=True)
class Forward:
    """What one pass left.

    Attributes:
        states: layer number -> [B, T, D], in the model's dtype, part of the autograd graph if one
            is recorded; [M, D] at the M ``state_positions``, row after row, where they were given.
        readout_ND: the unembedding's input (after the final norm) at the asked positions.
        logits_NV: the model's own logits there; no rows if ``unembed_now`` was false.
    """

    states: dict[int, Tensor]
    readout_ND: Tensor  # noqa: N815
    logits_NV: Tensor  # noqa: N815


def flatten_positions(positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (rows [N], columns [N]) for one tensor of input positions a row."""
    counts = torch.tensor([len(columns) for columns in positions])
    return torch.repeat_interleave(torch.arange(len(positions)), counts), torch.cat(list(positions))


def forward_with_states(
    model: Any,
    inputs: Mapping[str, Tensor],
    layers: Sequence[int],
    logit_positions: Sequence[Tensor],
    unembed_now: bool = True,
    state_positions: Sequence[Tensor] | None = None,
) -> Forward:
    """Run the model once.

    Args:
        model: a transformers audio language model; gradients flow if autograd is on.
        inputs: its keyword arguments, on its device.
        layers: layer numbers to keep.
        logit_positions: for each row the input positions to unembed (any length, zero too).
        unembed_now: ``False`` leaves the unembedding to ``unembed``, chunk by chunk.
        state_positions: for each row the input positions whose states are kept, taken from a layer
            as it is computed, so that the rest of it is freed at once; all by default.
    """
    device = inputs["input_ids"].device
    rows, columns = (sent(index, device) for index in flatten_positions(logit_positions))
    blocks = decoder_of(model).blocks
    states: dict[int, Tensor] = {}
    readouts: list[Tensor] = []
    kept_at = None
    if state_positions is not None:
        at_rows, at_columns = flatten_positions(state_positions)
        kept_at = sent(at_rows, device), sent(at_columns, device)
    with (
        _keep_states(blocks, layers, states, kept_at),
        _cut_readout(model.get_output_embeddings(), rows, columns, readouts, unembed_now),
    ):
        output = model(**inputs, use_cache=False)
    (readout_ND,) = readouts
    return Forward(states=states, readout_ND=readout_ND, logits_NV=output.logits)


def unembed(model: Any, readout_ND: Tensor) -> Tensor:
    """Return logits [N, V] of unembedding inputs [N, D]."""
    logits_NV: Tensor = model.get_output_embeddings()(readout_ND)
    return logits_NV


@contextmanager
def _keep_states(
    blocks: Any,
    layers: Sequence[int],
    states: dict[int, Tensor],
    kept_at: tuple[Tensor, Tensor] | None,
) -> Iterator[None]:
    """Hook the chosen blocks.

    Hooks hold the output itself and add nothing to the graph, or the rows and columns of it that
    are kept.
    """

    def keep(layer: int, states_BTD: Tensor) -> None:
        if kept_at is not None:
            rows, columns = (index.to(states_BTD.device) for index in kept_at)  # if it is split
            states_BTD = states_BTD[rows, columns]
        states[layer] = states_BTD

    def keep_input(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0, args[0] if args else kwargs["hidden_states"])

    def keep_output(layer: int) -> Any:
        def hook(_module: Any, _args: tuple[Any, ...], output: Any) -> None:
            keep(layer, output[0] if isinstance(output, tuple) else output)

        return hook

    handles = []
    for layer in layers:
        if layer == 0:
            handles.append(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True))
        else:
            handles.append(blocks[layer - 1].register_forward_hook(keep_output(layer)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _cut_readout(
    unembedding: Any, rows: Tensor, columns: Tensor, readouts: list[Tensor], unembed_now: bool
) -> Iterator[None]:
    """Replace the unembedding's input [B, T, D] by the asked positions [N, D]."""

    def cut(_module: Any, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden_BTD = args[0]
        device = hidden_BTD.device
        readout_ND = hidden_BTD[rows.to(device), columns.to(device)]
        readouts.append(readout_ND)
        return (readout_ND if unembed_now else readout_ND[:0],)

    handle = unembedding.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
