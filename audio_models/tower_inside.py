"""The audio tower inside a whole model: where it is, and its last states, there or run alone.

They are what the last block leaves, before a final norm of the tower, before pooling, and before
what projects them to the language model: the top layer of ``audio_models.tower``, at its frames.

Shapes: F tower frames of a recording, N of all of them, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from audio_models.blocks import Blocks
from audio_models.families import family_of
from audio_models.features import TOKEN_KEYS
from audio_models.inputs import AudioBatch
from audio_models.tower_layouts import TowerCall, TowerLayout
from cache_schema.errors import ModelError


def layout_of(model: str, architecture: str) -> TowerLayout:
    """Return the layout of the audio tower of an architecture.

    Args:
        model: what it is called in messages.
        architecture: the class named in its configuration.

    Raises:
        ModelError: it is not known.
    """
    layout = family_of(architecture).tower
    if layout is None:
        raise ModelError(
            f"model {model!r}: the audio tower of {architecture or 'its class'} is not known here: "
            "there is no family of that class with a `tower` in audio_models/families.py (where "
            "the tower is in the model, how it is called, which frames are valid); use a model of "
            "a family that has one, or its audio encoder on its own"
        )
    return layout


def tower_size(model: str, config: Any, layout: TowerLayout) -> tuple[int, int]:
    """Return the blocks and the width of a model's audio tower, from its configuration.

    Raises:
        ModelError: it lacks them.
    """
    found = getattr(config, "thinker_config", config)  # a composite names the tower's model inside
    for name in layout.config:
        found = getattr(found, name, None)
    num_layers, width = (getattr(found, name, None) for name in (layout.num_layers, "hidden_size"))
    if not isinstance(num_layers, int) or not isinstance(width, int):
        raise ModelError(
            f"model {model!r}: config.{'.'.join(layout.config)} lacks {layout.num_layers} or "
            "hidden_size; is it whole?"
        )
    return num_layers, width


class InnerTower:
    """The audio tower of a model that is loaded.

    Args:
        model: an audio language model, adapted by peft or not.

    Attributes:
        num_layers: its blocks.
        width: D.

    Raises:
        ModelError: the family's tower is not known.
    """

    def __init__(self, model: Any) -> None:
        network = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._name = type(network).__name__
        self._layout = layout_of(self._name, self._name)
        self.num_layers, self.width = tower_size(self._name, network.config, self._layout)
        self._module = network
        for name in self._layout.module:
            self._module = getattr(self._module, name)
        self._last = Blocks(self._module, self.num_layers).last

    @contextmanager
    def read(self) -> Iterator[list[Tensor]]:
        """Collect what the last block leaves, whole, in every pass of the tower that runs inside.

        The hook adds nothing to the graph: a block that is computed again in the backward pass runs
        without it. ``frames`` makes of it what stands for the recordings.
        """
        outputs: list[Tensor] = []

        def keep(_module: Any, _args: Any, output: Any) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)

        handle = self._last.register_forward_hook(keep)
        try:
            yield outputs
        finally:
            handle.remove()

    def frames(self, batch: AudioBatch, outputs: Sequence[Tensor]) -> Tensor:
        """Return [N, D]: the frames of a batch's recordings, of a pass of the whole model.

        Args:
            batch: what the model read.
            outputs: what ``read`` collected meanwhile.

        Raises:
            ModelError: the tower ran otherwise than its layout says.
        """
        return self._select(list(self._calls(batch)), outputs, batch)

    def run(self, batch: AudioBatch) -> Tensor:
        """Return the same, [N, D], of a pass of the tower alone.

        Raises:
            ModelError: as of ``frames``.
        """
        calls = list(self._calls(batch))
        with self.read() as outputs:
            for call in calls:
                self._module(**call.inputs)
        return self._select(calls, outputs, batch)

    def _calls(self, batch: AudioBatch) -> Iterator[TowerCall]:
        features = {key: value for key, value in batch.inputs.items() if key not in TOKEN_KEYS}
        num_frames = [len(times) for times in batch.tower_times_s]
        return self._layout.calls(self._module, features, batch.num_features, num_frames)

    def _select(
        self, calls: Sequence[TowerCall], outputs: Sequence[Tensor], batch: AudioBatch
    ) -> Tensor:
        if len(calls) != len(outputs):
            raise ModelError(
                f"{self._name}: the last block of its audio tower ran {len(outputs)} times for a "
                f"batch, expected {len(calls)} (does it drop layers while it trains?)"
            )
        parts = [call.select(output) for call, output in zip(calls, outputs, strict=True)]
        frames_ND = parts[0] if len(parts) == 1 else torch.cat(parts)
        expected = (sum(map(len, batch.tower_times_s)), self.width)
        if tuple(frames_ND.shape) != expected:
            raise ModelError(
                f"{self._name}: the top layer of its audio tower has states "
                f"{tuple(frames_ND.shape)}, expected {expected} (frames, width)"
            )
        return frames_ND
