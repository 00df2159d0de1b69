"""What turns a recording into frames: an audio encoder, with or without a head, or an audio tower.

A frame model is loaded once, builds the inputs of a batch on the CPU, and runs them on its device.
Frames that stand for padding never leave it.

Layer 0 is what the first block reads, layer n the output of block n, the last one before a final
norm if the family has one (``audio_models.blocks``).

Shapes: B recordings, F valid frames of one, N valid frames of all, recording after recording; D
width, C classes, E width of the pooled embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from cache_schema.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class FrameShape:
    """What a frame model has to give, told from its configuration alone.

    Attributes:
        num_layers: blocks; states exist for layers 0 to ``num_layers``.
        width: size D of one state.
        dtype: what the weights are stored in: ``float32``, ``bfloat16`` or ``float16``.
        utterance_labels: the classes of utterance logits, in order; empty for none.
        frame_labels: the classes of frame logits, in order; empty for none.
        multi_label: whether the classes are judged each by itself (sigmoid), not against each other
            (softmax).
        embedding_width: size E of the pooled embedding a head computes; 0 for none.
    """

    num_layers: int
    width: int
    dtype: str
    utterance_labels: tuple[str, ...] = ()
    frame_labels: tuple[str, ...] = ()
    multi_label: bool = False
    embedding_width: int = 0


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Inputs of one forward pass.

    Attributes:
        inputs: keyword arguments of the model.
        times_s: for each recording float32 [F, 2], start and end of each valid frame in seconds.
    """

    inputs: Mapping[str, Any]
    times_s: Sequence[FloatArray]

    @property
    def num_frames(self) -> list[int]:
        """Valid frames of each recording."""
        return [len(times) for times in self.times_s]

    def to(self, device: torch.device) -> FrameBatch:
        """Return the batch with its tensors on ``device``."""
        moved = {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in self.inputs.items()
        }
        return replace(self, inputs=moved)


@dataclass(frozen=True, kw_only=True)
class FrameOutputs:
    """What one forward pass left, on the model's device, part of the graph if one is recorded.

    Attributes:
        states: layer -> [N, D], in the model's dtype.
        utterance_logits_BC: raw logits of a whole recording; ``None`` without such a head.
        frame_logits_NC: raw logits of each valid frame; ``None`` without such a head.
        embedding_BE: the pooled embedding of a whole recording; ``None`` without one.
    """

    states: Mapping[int, Tensor]
    utterance_logits_BC: Tensor | None = None  # noqa: N815
    frame_logits_NC: Tensor | None = None  # noqa: N815
    embedding_BE: Tensor | None = None  # noqa: N815


class FrameModel(Protocol):
    """An audio encoder or an audio tower, ready to run.

    Attributes:
        path: directory, hub id or pipeline, as given.
        shape: what it has to give.
        module: the torch module, in evaluation mode.
        max_audio_s: seconds the front end hears at once; infinite where it has no window.
        window_s: seconds that every recording is filled up to; 0 where it is taken as it is.
        may_pad: whether recordings of different lengths may share a batch: what the model says of
            one does not depend on the padding beside it.
    """

    path: str
    shape: FrameShape
    module: Any
    max_audio_s: float
    window_s: float
    may_pad: bool

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build the inputs of one batch on the CPU.

        Args:
            audios: float32 [num_samples] each, mono, 16 kHz; of one length unless ``may_pad``.

        Raises:
            AudioError: a recording is empty, not finite, too long or too short for one frame.
        """

    def forward(self, batch: FrameBatch, layers: Sequence[int]) -> FrameOutputs:
        """Run a batch that is on the device; only the chosen layers are kept.

        Raises:
            ModelError: the model ran otherwise than its configuration says.
        """
