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
from cache_schema.errors import ModelError

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
                With 0 it must stay uncompiled, as must a model without the interface: there hooks
                would not run.
            num_layers: how many blocks it has.

        Raises:
            ModelError: its blocks or its final norm cannot be told.
        """
        self.decoder: Decoder = find_decoder(model, num_layers)
        self.has_interface = supports_eagle3(model)
        self._class = type(model).__name__
        self._num_layers = num_layers
        # The last layer is what the check compares.
        wanted = sorted({*layers, num_layers})
        # The interface hands out the embedding output itself, and block 1 adds to it in place: a
        # copy is taken before.
        hooked = [n for n in wanted if not self.has_interface or n == 0]
        self._reported = tuple(n for n in wanted if n not in hooked)
        self._hooked: dict[int, Tensor] = {}
        interface: Any = model
        if self._reported:
            interface.set_aux_hidden_state_layers(self._reported)  # numbered as ours are
        for layer in hooked:
            self._hook(layer)

    def states(self, reported: Sequence[Tensor] | None) -> Mapping[int, Tensor]:
        """Return layer -> [S, D] of the step that just ran.

        Args:
            reported: what the model returned beside its output, if it has the interface.

        Raises:
            ModelError: some layer was not reported.
        """
        found = reported or ()
        if len(found) != len(self._reported):
            raise ModelError(f"vLLM's {self._class} reported {len(found)} of {self._reported}")
        return {**self._hooked, **dict(zip(self._reported, found, strict=True))}

    def problem(
        self, states: Mapping[int, Tensor], output_SD: Tensor, rows_n: Tensor
    ) -> str | None:
        """Return what is wrong with the states, empty if nothing is; ``None`` if none is finite.

        Args:
            states: layer -> [S, D].
            output_SD: the model's output, after the final norm.
            rows_n: which rows to compare.
        """
        normed_nD = self.decoder.norm(states[self._num_layers][rows_n]).float()
        wanted_nD = output_SD[rows_n].float()
        finite_n = (normed_nD.isfinite() & wanted_nD.isfinite()).all(dim=-1)
        if not finite_n.any():
            return None
        normed_nD, wanted_nD = normed_nD[finite_n], wanted_nD[finite_n]
        relative = float((normed_nD - wanted_nD).norm() / wanted_nD.norm().clamp_min(1e-30))
        if relative <= MOST_DIFFERENT:
            return ""
        return (
            f"vLLM's {self._class} reports other hidden states than its final norm reads "
            f"(relative difference {relative:.2f}), so they cannot be trusted; use "
            "`--engine transformers`, or record no layers (`--text-layers none`)"
        )

    def _hook(self, layer: int) -> None:
        # Copied, all of them: later blocks add in place, on a GPU if not on a CPU.
        def keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._hooked[0] = _first_states([*args, *kwargs.values()]).clone()

        def keep_output(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, tuple) and output[1] is not None:
                self._hooked[layer] = output[0] + output[1]
            else:
                self._hooked[layer] = (output[0] if isinstance(output, tuple) else output).clone()

        if layer == 0:
            self.decoder.blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True)
        else:
            self.decoder.blocks[layer - 1].register_forward_hook(keep_output)


def _first_states(values: Sequence[Any]) -> Tensor:
    """Return the first floating [S, D] among a block's arguments: positions are integers."""
    return next(v for v in values if isinstance(v, Tensor) and v.is_floating_point())
