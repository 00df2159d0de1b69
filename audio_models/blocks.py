"""States before and after the blocks of a transformer encoder, of text or audio, of any family.

Layer 0 is what block 1 reads (the embedding output), layer N what block N + 1 reads, and the last
layer the output of the last block, before a final norm if the family has one. What the next block
reads is the output of block N, and also right where something stands between two blocks (DeBERTa's
convolution). Families that run one block many times (ALBERT) are counted by the call.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cache_schema.errors import ModelError


class Blocks:
    """The blocks of a model, found by their number.

    Args:
        model: an encoder, or the part of one that holds its blocks.
        num_layers: how often a block runs in a forward pass.

    Raises:
        ModelError: the model has no list of blocks.
    """

    def __init__(self, model: Any, num_layers: int) -> None:
        named = sorted(model.named_modules(), key=lambda item: item[0].count("."))
        lists = [module for _, module in named if isinstance(module, nn.ModuleList) and len(module)]
        exact = [blocks for blocks in lists if len(blocks) == num_layers]
        if not lists:
            raise ModelError(f"{type(model).__name__}: no list of blocks to read states from")
        self._model = model
        self._blocks = (exact or lists)[0]
        self._num_layers = num_layers

    @property
    def last(self) -> nn.Module:
        """The last block."""
        return self._blocks[-1]

    @contextmanager
    def read(
        self, layers: Collection[int], keep: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[dict[int, Tensor]]:
        """Collect the chosen layers of the one forward pass run inside.

        Args:
            layers: their numbers.
            keep: states [B, T, D] -> a copy of those that are kept, run on a layer as soon as it is
                computed, so that the rest of it can be freed at once; all of them by default.

        Raises:
            ModelError: the pass ran another number of blocks.
        """
        states: dict[int, Tensor] = {}
        calls = 0

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal calls
            if calls in layers:
                layer_BTD = args[0] if args else kwargs["hidden_states"]
                states[calls] = layer_BTD if keep is None else keep(layer_BTD)
            calls += 1

        def after(_module: Any, _args: Any, output: Any) -> None:
            if calls == self._num_layers and calls in layers:
                layer_BTD = output[0] if isinstance(output, tuple) else output
                states[calls] = layer_BTD if keep is None else keep(layer_BTD)

        handles = []
        for block in self._blocks:
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(after))
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()
        if calls != self._num_layers:
            raise ModelError(
                f"{type(self._model).__name__}: {calls} blocks ran, expected {self._num_layers}; "
                "states of this family cannot be read"
            )

    def check(self, ids_1T: Tensor) -> None:
        """Compare what is read of a text with the hidden states transformers reports itself.

        Raises:
            ModelError: they differ, so this is a family whose states cannot be read.
        """
        self.check_reported(
            lambda: self._model(input_ids=ids_1T, output_hidden_states=True).hidden_states
        )

    @torch.no_grad()  # not inference mode: modules may keep what they made, for training too
    def check_reported(self, run: Callable[[], Sequence[Tensor] | None]) -> None:
        """Compare what is read with the hidden states the model reports itself.

        Args:
            run: runs the model once and returns [B, T, D] for each layer, 0 included; the last one
                may be behind a final norm.

        Raises:
            ModelError: they differ, so this is a family whose states cannot be read.
        """
        with self.read(range(self._num_layers + 1)) as states:
            reported = run()
        check_same(type(self._model).__name__, states, reported, self.norms)

    @property
    def norms(self) -> list[nn.Module]:
        """The norms outside the blocks; one of them may be the final one."""
        inside = set(self._blocks.modules())
        return [
            module
            for module in self._model.modules()
            if module not in inside and "norm" in type(module).__name__.lower()
        ]


def check_same(
    name: str,
    states: Mapping[int, Tensor],
    reported: Sequence[Tensor] | None,
    norms: Sequence[nn.Module],
) -> None:
    """Compare the states read at all blocks with the hidden states a model reports, bit by bit.

    Args:
        name: the model's class, for the message.
        states: layer -> [B, T, D], of all layers.
        reported: [B, T, D] for each layer, 0 included; the last one may be behind a final norm.
        norms: the norms that can be meant.

    Raises:
        ModelError: they differ, so this is a family whose states cannot be read.
    """
    last = len(states) - 1
    same = reported is not None and len(reported) == len(states)
    if same and reported is not None:
        same = all(torch.equal(states[layer], reported[layer]) for layer in range(last))
        same = same and _ends_in(states[last], reported[-1], norms)
    if not same:
        raise ModelError(
            f"{name}: its blocks' states are not the hidden states that the model reports itself; "
            "this family cannot be read"
        )


def _ends_in(last: Tensor, reported: Tensor, norms: Sequence[nn.Module]) -> bool:
    """Whether the last layer is what is reported, or is that before the final norm."""
    if torch.equal(last, reported):
        return True
    weights = [getattr(norm, "weight", None) for norm in norms]
    return any(
        torch.equal(norm(last), reported)
        for norm, weight in zip(norms, weights, strict=True)
        if weight is not None and weight.shape == last.shape[-1:]
    )
