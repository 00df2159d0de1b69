"""Front ends with one window: every recording fills it, and what is behind a recording is silence.

Only the frames that begin before a recording ends are its own. No batch has padding.

Shapes: B recordings, M mel bins, T mel frames of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from audio_models.encoders.fronts import frame_times
from audio_models.frames import FrameBatch
from audio_models.waveforms import prepare_waveforms
from cache_schema.errors import ModelError
from cache_schema.types import FloatArray


class WindowFront:
    """A window of mel frames, several of them to a frame of the model.

    Args:
        model: whose front end, for messages.
        extractor: the transformers feature extractor.
        name: the model's argument that takes the features.
        hop_samples: from one frame to the next.
        num_frames: of a whole window.
        max_audio_s: seconds of the window.
    """

    window = True

    def __init__(
        self,
        *,
        model: str,
        extractor: Any,
        name: str,
        hop_samples: int,
        num_frames: int,
        max_audio_s: float,
    ) -> None:
        self._model, self._extractor, self._name = model, extractor, name
        self._hop_samples, self._num_frames = hop_samples, num_frames
        self._rate = int(extractor.sampling_rate)
        self.hop_s = hop_samples / self._rate
        self.max_audio_s, self.min_audio_s = max_audio_s, self.hop_s

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build the features of whole windows, [B, ...] as the model takes them.

        Args:
            audios: float32 [num_samples] each, mono, 16 kHz.

        Raises:
            AudioError: a recording is empty, not finite, too long or too short for one frame.
        """
        waves = prepare_waveforms(
            audios,
            model=self._model,
            sample_rate_hz=self._rate,
            max_audio_s=self.max_audio_s,
            min_audio_s=self.min_audio_s,
        )
        made = [
            self._extractor(wave, sampling_rate=self._rate, return_tensors="pt")[self._name]
            for wave in waves
        ]
        counts = [min(-(-len(wave) // self._hop_samples), self._num_frames) for wave in waves]
        times = frame_times(counts, self.hop_s, audios)
        return FrameBatch(inputs={self._name: torch.cat(made)}, times_s=times)


def whisper_window(model: str, extractor: Any, config: Any) -> WindowFront:
    """Return the front end of Whisper: two mel frames of 10 ms to a frame.

    Raises:
        ModelError: the feature extractor's window or mel bins are not the model's.
    """
    made = (getattr(extractor, "nb_max_frames", None), getattr(extractor, "feature_size", None))
    _same_window(model, made, (2 * config.max_source_positions, config.num_mel_bins))
    hop_samples = 2 * extractor.hop_length
    return WindowFront(
        model=model,
        extractor=extractor,
        name="input_features",
        hop_samples=hop_samples,
        num_frames=config.max_source_positions,
        max_audio_s=config.max_source_positions * hop_samples / extractor.sampling_rate,
    )


def spectrogram_window(model: str, extractor: Any, config: Any) -> WindowFront:
    """Return the front end of the Audio Spectrogram Transformer: a column of patches to a frame.

    Mel frames are 10 ms apart, each of 25 ms; a longer recording would be cut in silence. Patches
    begin ``time_stride`` mel frames apart as long as a whole one fits, so the end of a full window
    has no frame: of the 10.255 s that the published models hear (1024 mel frames, patches of 16,
    stride 10), the last frame is 10.0 to 10.1 s, its patch hears up to 10.175 s, and what is behind
    that is heard by nothing.

    Raises:
        ModelError: the feature extractor's window or mel bins are not the model's.
    """
    made = (getattr(extractor, "max_length", None), getattr(extractor, "num_mel_bins", None))
    _same_window(model, made, (config.max_length, config.num_mel_bins))
    return WindowFront(
        model=model,
        extractor=extractor,
        name="input_values",
        hop_samples=config.time_stride * extractor.sampling_rate // 100,
        num_frames=patch_grid(config)[1],
        max_audio_s=0.01 * config.max_length + 0.015,
    )


def patch_grid(config: Any) -> tuple[int, int]:
    """Return how many patches a spectrogram is wide in frequency and in time."""
    return (
        (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1,
        (config.max_length - config.patch_size) // config.time_stride + 1,
    )


def _same_window(model: str, made: tuple[Any, Any], needed: tuple[int, int]) -> None:
    if made != needed:
        raise ModelError(
            f"model {model!r}: its feature extractor makes (mel frames, mel bins) {made}, its "
            f"encoder takes {needed}; preprocessor_config.json is another model's"
        )
