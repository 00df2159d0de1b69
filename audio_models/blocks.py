"""States before and after the blocks of a transformer encoder, of text or audio, of any family.

Layer 0 is what block 1 reads (the embedding output), layer N what block N + 1 reads, and the last
layer the output of the last block, before a final norm if the family has one. What the next block
reads is the output of block N, and also right where something stands between two blocks (DeBERTa's
convolution). Families that run one block many times (ALBERT) are counted by the call.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
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

    @contextmanager
    def read(self, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """Collect the chosen layers, [B, T, D] each, of the one forward pass run inside.

        Raises:
            ModelError: the pass ran another number of blocks.
        """
        states: dict[int, Tensor] = {}
        calls = 0

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal calls
            if calls in layers:
                states[calls] = args[0] if args else kwargs["hidden_states"]
            calls += 1

        def after(_module: Any, _args: Any, output: Any) -> None:
            if calls == self._num_layers and calls in layers:
                states[calls] = output[0] if isinstance(output, tuple) else output

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

    @torch.inference_mode()
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
        same = reported is not None and len(reported) == self._num_layers + 1
        if same and reported is not None:
            same = all(torch.equal(states[n], reported[n]) for n in range(self._num_layers))
            same = same and self._ends_in(states[self._num_layers], reported[-1])
        if not same:
            raise ModelError(
                f"{type(self._model).__name__}: its blocks' states are not the hidden states that "
                "the model reports itself; this family cannot be read"
            )

    def _ends_in(self, last: Tensor, reported: Tensor) -> bool:
        """Whether the last layer is what is reported, or is that before the final norm."""
        if torch.equal(last, reported):
            return True
        inside = set(self._blocks.modules())
        norms = [
            module
            for module in self._model.modules()
            if module not in inside
            and "norm" in type(module).__name__.lower()
            and getattr(module, "weight", torch.empty(0)).shape == last.shape[-1:]
        ]
        return any(torch.equal(norm(last), reported) for norm in norms)
