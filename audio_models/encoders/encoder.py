"""An acoustic encoder, with or without a head, as a frame model.

Shapes: B recordings, F frames, N valid frames of all, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from audio_models.blocks import Blocks
from audio_models.encoders.alone import RowsAlone
from audio_models.encoders.fronts import ROW_LENGTHS, FrontEnd
from audio_models.encoders.heads import HeadReader
from audio_models.frames import FrameBatch, FrameOutputs, FrameShape
from audio_models.valid_frames import ValidFrames
from cache_schema.errors import UsageError
from cache_schema.types import FloatArray


@dataclass(kw_only=True)
class AudioEncoder:
    """A ``FrameModel``: front end, network, the blocks its states come from, its head.

    Attributes:
        path: directory, hub id or pipeline, as given.
        shape: what it has to give.
        module: the network, in evaluation mode.
        front: recordings -> inputs.
        blocks: where the states are read.
        head: reads logits and embedding.
        alone: the modules that hear padding; ``None`` if there are none.
        fold: states [B, T, D] as the blocks have them -> [B, F, D]; ``None`` where they are frames.
        may_pad: whether recordings of different lengths may share a batch.
        max_audio_s: seconds the front end hears at once.
    """

    path: str
    shape: FrameShape
    module: Any
    front: FrontEnd
    blocks: Blocks
    head: HeadReader
    alone: RowsAlone | None = None
    fold: Callable[[Tensor], Tensor] | None = None
    may_pad: bool = True
    max_audio_s: float = field(init=False)
    window_s: float = field(init=False)

    def __post_init__(self) -> None:
        """Take over what the front end can hear."""
        self.max_audio_s = self.front.max_audio_s
        self.window_s = self.front.max_audio_s if self.front.window else 0.0

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        parameter: Tensor = next(self.module.parameters())
        return parameter.device

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build the inputs of one batch on the CPU, see ``FrameModel.build``.

        Raises:
            AudioError: a recording is empty, not finite, too long or too short for one frame.
        """
        return self.front.build(audios)

    def forward(self, batch: FrameBatch, layers: Sequence[int]) -> FrameOutputs:
        """Run a batch that is on the device; only the chosen layers are kept.

        Raises:
            UsageError: there is no such layer.
            ModelError: the network ran other blocks, or made fewer frames, than its configuration
                says.
        """
        if layers and not 0 <= min(layers) <= max(layers) <= self.shape.num_layers:
            raise UsageError(
                f"layers {list(layers)}: {self.path} has layers 0 to {self.shape.num_layers}"
            )
        counts = batch.num_frames
        inputs = self.cast(batch)
        valid = ValidFrames.first(counts, self.device)

        def keep(states_BTD: Tensor) -> Tensor:
            return valid.take(states_BTD if self.fold is None else self.fold(states_BTD))

        with (
            self._rows(batch),
            _no_warning_of_masks("attention_mask" in inputs),
            self.head.listen(),
            self.blocks.read(layers, keep) as states,
        ):
            output = self.module(**inputs)
        logits, embedding = self.head.utterance(output)
        return FrameOutputs(
            states={layer: states[layer] for layer in layers},
            utterance_logits_BC=logits,
            frame_logits_NC=self.head.frames(output, valid),
            embedding_BE=embedding,
        )

    def cast(self, batch: FrameBatch) -> dict[str, Any]:
        """Return the network's keyword arguments, features in the dtype of its weights."""
        dtype = next(self.module.parameters()).dtype
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in batch.inputs.items()
            if name != ROW_LENGTHS
        }

    def _rows(self, batch: FrameBatch) -> Any:
        """Let what hears padding run row by row where a batch has padding."""
        if self.alone is None or ROW_LENGTHS not in batch.inputs:
            return nullcontext()
        return self.alone.lengths(batch.inputs[ROW_LENGTHS], batch.num_frames)


@contextmanager
def _no_warning_of_masks(padded: bool) -> Iterator[None]:
    """Silence torch's advice to whoever wrote WavLM's attention, in the pass run inside.

    transformers makes its mask of keys bool and its position bias float; the result is right.
    """
    if not padded:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
        yield
