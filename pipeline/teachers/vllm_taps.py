"""How states leave a model inside vLLM, and the check that they are what they are taken for.

Classes with vLLM's EAGLE-3 interface return the input of chosen blocks beside their output, so it
is compiled and captured in CUDA graphs with the rest. From other classes the states are taken by
hooks on their blocks, which run only where the model is not compiled.

A block of vLLM returns its output, or its output and the residual still to be added. Some classes
return other pairs; so what is taken for the last block's output is compared with what the final
norm reads, and a class that differs is refused.

Shapes: S tokens of a step, n wanted ones, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.interfaces import supports_eagle3

from audio_models.decoder import Decoder, find_decoder

MOST_DIFFERENT = 0.05
"""Relative difference, after the final norm, that rounding may make: bfloat16 makes 0.01, the layer
before differs by more than 0.14."""


class Taps:
    """The states of chosen layers, step after step."""

    def __init__(self, model: nn.Module, layers: Sequence[int], num_layers: int) -> None:
        """Attach to a model that is loaded and not compiled yet.

        Args:
            model: vLLM's.
            layers: layer numbers, ascending: 0 is the embedding output, N what leaves block N.
            num_layers: how many blocks it has.

        Raises:
            ModelError: its blocks or its final norm cannot be told.
        """
        self.decoder: Decoder = find_decoder(model, num_layers)
        self.through_interface = supports_eagle3(model)
        self._class = type(model).__name__
        self._num_layers = num_layers
        # The last layer is what the check compares.
        self._layers = tuple(sorted({*layers, num_layers}))
        self._hooked: dict[int, Tensor] = {}
        interface: Any = model
        if self.through_interface:
            interface.set_aux_hidden_state_layers(self._layers)  # numbered as ours are
        else:
            self._hook()

    def states(self, reported: Sequence[Tensor] | None) -> Mapping[int, Tensor]:
        """Return layer -> [S, D] of the step that just ran.

        Args:
            reported: what the model returned beside its output, if it has the interface.

        Raises:
            ValueError: some layer was not reported.
        """
        if not self.through_interface:
            return self._hooked
        if reported is None or len(reported) != len(self._layers):
            count = 0 if reported is None else len(reported)
            raise ValueError(f"{self._class} reported {count} of layers {self._layers}")
        return dict(zip(self._layers, reported, strict=True))

    def problem(self, states: Mapping[int, Tensor], output_SD: Tensor, rows_n: Tensor) -> str:
        """Return what is wrong with the states, or an empty string.

        Args:
            states: layer -> [S, D].
            output_SD: the model's output, after the final norm.
            rows_n: which rows to compare.
        """
        normed_nD = self.decoder.norm(states[self._num_layers][rows_n]).float()
        wanted_nD = output_SD[rows_n].float()
        relative = float((normed_nD - wanted_nD).norm() / wanted_nD.norm().clamp_min(1e-30))
        if relative <= MOST_DIFFERENT:
            return ""
        return (
            f"vLLM's {self._class} reports other hidden states than its final norm reads "
            f"(relative difference {relative:.2f}), so they cannot be trusted; use "
            "`--engine transformers`, or record no layers (`--text-layers none`)"
        )

    def _hook(self) -> None:
        def keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            values = [*args, *kwargs.values()]
            self._hooked[0] = kwargs.get("hidden_states", _first_states(values))

        def keep_output(layer: int) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                # Copied: the next block adds to the residual in place.
                if isinstance(output, tuple) and output[1] is not None:
                    self._hooked[layer] = output[0] + output[1]
                else:
                    self._hooked[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        for layer in self._layers:
            if layer == 0:
                self.decoder.blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True)
            else:
                self.decoder.blocks[layer - 1].register_forward_hook(keep_output(layer))


def _first_states(values: Sequence[Any]) -> Tensor:
    """Return the first floating [S, D] among a block's arguments: positions are integers."""
    return next(v for v in values if isinstance(v, Tensor) and v.is_floating_point())
