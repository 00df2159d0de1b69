"""The audio tower of an audio language model, without projector and language model.

Its states are those of the tower inside the whole model, at the frames that stand for a recording:
what fills up a window or a batch is left out. Recordings that a tower could not keep from hearing
each other's padding run one after the other (``audio_models.tower_layouts``).

Shapes: F tower frames of a recording, N of all of them, D width.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from audio_models.blocks import Blocks
from audio_models.config import architecture_of, load_config
from audio_models.families import Family, family_of
from audio_models.features import encode_audio, feature_frames
from audio_models.frames import FrameBatch, FrameOutputs, FrameShape
from audio_models.front_end import window_s
from audio_models.load import (
    check_dtype,
    load_network,
    read_dtype,
    resolve_device,
    telling_dtype,
)
from audio_models.processors import (
    audio_extractor,
    audio_token_id,
    load_processor,
    longest_audio_s,
)
from audio_models.reported import check_tower_states, second_of_noise
from audio_models.tower_inside import layout_of, tower_size
from audio_models.tower_layouts import TowerCall, TowerLayout
from audio_models.waveforms import prepare_waveforms
from cache_schema.errors import AudioError, ModelError
from cache_schema.types import FloatArray


@dataclass(kw_only=True)  # not frozen: what a protocol names as attributes can be set
class AudioTower:
    """An audio tower ready to run: a ``FrameModel``, and the front end of its own inputs.

    Attributes:
        path: directory or hub id, as given.
        shape: its blocks and width.
        module: the tower, in evaluation mode.
        max_audio_s: seconds the front end hears; infinite where it takes as many windows as needed.
        window_s: seconds of the windows a recording is filled up to, 0 where there are none.
        may_pad: recordings of different lengths may share a batch.
        processor: the whole model's processor.
        tokenizer: the processor's tokenizer; the processor wants a placeholder with its audio.
        family: what the family needs of its own.
        layout: how its tower is called.
        audio_token_id: the placeholder.
        sample_rate_hz: what the feature extractor expects.
    """

    path: str
    shape: FrameShape
    module: Any
    max_audio_s: float
    processor: Any
    tokenizer: Any
    family: Family
    layout: TowerLayout
    audio_token_id: int
    sample_rate_hz: int
    window_s: float = field(init=False)
    may_pad: bool = True

    def __post_init__(self) -> None:
        """Find the blocks, and out what recordings are filled up to."""
        self.window_s = window_s(self)
        self._blocks = Blocks(self.module, self.shape.num_layers)

    @property
    def device(self) -> torch.device:
        """Device of the tower's first parameter."""
        parameter: torch.nn.Parameter = next(self.module.parameters())
        return parameter.device

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build the inputs of one batch on the CPU.

        Args:
            audios: float32 [num_samples] each, mono, 16 kHz.

        Raises:
            AudioError: a recording is empty, not finite, too long or too short for one frame.
        """
        heard = prepare_waveforms(
            audios,
            model=self.path,
            sample_rate_hz=self.sample_rate_hz,
            max_audio_s=self.max_audio_s,
            min_audio_s=self.family.min_audio_s,
        )
        encoded = encode_audio(self, heard, self.module.dtype)
        num_features = feature_frames(encoded)
        times_s = [
            self.layout.times_s(count, len(audio) / self.sample_rate_hz)
            for count, audio in zip(num_features, heard, strict=True)
        ]
        if not all(map(len, times_s)):
            raise AudioError("the recording is too short to be heard")
        return FrameBatch(
            inputs={**encoded.features, "num_features": num_features}, times_s=times_s
        )

    def check_states(self) -> None:
        """Compare the states that are read with those the tower reports itself, where it does.

        Raises:
            ModelError: they differ, so this is a family whose states cannot be read.
        """
        batch = self.build([second_of_noise(self.max_audio_s)]).to(self.device)
        for call in self._calls(batch):
            check_tower_states(self.module, self.shape.num_layers, call)

    def forward(self, batch: FrameBatch, layers: Sequence[int]) -> FrameOutputs:
        """Run a batch that is on the device; only the chosen layers are kept.

        Raises:
            ModelError: the tower ran otherwise than its configuration says.
        """
        kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for call in self._calls(batch):
            with self._blocks.read(kept, call.select) as states:
                self.module(**call.inputs)
            for layer, states_ND in states.items():
                kept[layer].append(states_ND)
        joined = {}
        for layer in list(kept):
            parts = kept.pop(layer)  # before the next one is joined, so that none is there twice
            joined[layer] = parts[0] if len(parts) == 1 else torch.cat(parts)
        expected = (sum(batch.num_frames), self.shape.width)
        for layer, states_ND in joined.items():
            if tuple(states_ND.shape) != expected:
                raise ModelError(
                    f"model {self.path!r}: layer {layer} of its audio tower has states "
                    f"{tuple(states_ND.shape)}, expected {expected} (frames, width)"
                )
        return FrameOutputs(states=joined)

    def _calls(self, batch: FrameBatch) -> Iterator[TowerCall]:
        features = {key: value for key, value in batch.inputs.items() if key != "num_features"}
        return self.layout.calls(
            self.module, features, batch.inputs["num_features"], batch.num_frames
        )


def tower_shape(model: str) -> FrameShape:
    """Return the blocks and the width of a model's audio tower, from its configuration alone.

    Raises:
        ModelError: nothing there, or the family's tower is not known.
    """
    config = load_config(model)
    return _shape(model, config, layout_of(model, architecture_of(config)))


def load_audio_tower(model: str, dtype: str = "auto", device: str = "auto") -> AudioTower:
    """Load an audio language model on the CPU and keep its audio tower, on the device; try it.

    Args:
        model: local directory or hub id in transformers' layout.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, or a torch device.

    Raises:
        ModelError: the model cannot be loaded, the family's tower is not known, or its states
            cannot be read, or it cannot compute in the dtype.
        UsageError: unknown dtype, or a device that is not there.
    """
    check_dtype(dtype)
    place = resolve_device(device)
    config = load_config(model)
    architecture = architecture_of(config)
    layout = layout_of(model, architecture)
    family = family_of(architecture)
    processor = load_processor(model, family)
    extractor = audio_extractor(processor, model)
    network = load_network(model, architecture, family, dtype)
    placeholder = audio_token_id(network.config, family, model)
    module = network
    for name in layout.module:
        module = getattr(module, name)
    del network
    gc.collect()  # models hold themselves in circles, and the rest is most of the memory
    tower = AudioTower(
        path=model,
        shape=_shape(model, config, layout),
        module=module.to(place),
        max_audio_s=longest_audio_s(processor, extractor, family),
        processor=processor,
        tokenizer=processor.tokenizer,
        family=family,
        layout=layout,
        audio_token_id=placeholder,
        sample_rate_hz=extractor.sampling_rate,
    )
    with telling_dtype(model, dtype, tower.device):
        tower.check_states()
    return tower


def _shape(model: str, config: Any, layout: TowerLayout) -> FrameShape:
    num_layers, width = tower_size(model, config, layout)
    dtype = str(read_dtype(model)).removeprefix("torch.")
    return FrameShape(num_layers=num_layers, width=width, dtype=dtype)
