"""Front ends: recordings -> padded inputs, and the seconds each frame stands for.

Every recording passes the feature extractor by itself and is padded afterwards, so nothing that is
computed over a recording (its mean, its variance) depends on the ones beside it. A mask is given
only where a batch has padding.

Frame i covers ``[i, i + 1] * stride / rate`` seconds of the recording, where ``stride`` is how far
apart, in samples, two frames of a front end begin (320 at 16 kHz, 20 ms, for nearly all families):
the share of the recording that is the frame's own. What it hears reaches further (the receptive
field of wav2vec 2.0 is 25 ms, that of a mel frame in the middle of its window). No frame ends
behind the recording: the last one of a windowed front end is cut there.

Shapes: B recordings, S samples, F frames, M mel bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audio_models.frames import FrameBatch
from audio_models.waveforms import prepare_waveforms
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray

ROW_LENGTHS = "row_lengths"
"""Among the inputs of a batch with padding: the length of each row, a list of numbers on the CPU.

The network does not get it; asking its mask on the device would be waited for."""


class FrontEnd(Protocol):
    """What a front end can hear, and how it is fed.

    Attributes:
        max_audio_s: seconds it hears at once; infinite where it has no window.
        min_audio_s: seconds below which there is no frame, or too few for the head.
        hop_s: seconds from one frame to the next.
        window: whether every recording fills the same window, so that no batch has padding.
    """

    max_audio_s: float
    min_audio_s: float
    hop_s: float
    window: bool

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build the inputs of a batch.

        Args:
            audios: float32 [num_samples] each, mono, 16 kHz.

        Raises:
            AudioError: a recording is empty, not finite, too long or too short for one frame.
        """


@dataclass(frozen=True, kw_only=True)
class Convolutions:
    """Convolutions without padding over samples, one behind the other.

    Attributes:
        kernels: samples or frames each one reads.
        strides: and how far it moves.
        squeeze: frames behind them that share one state (SEW); 1 for all other families.
    """

    kernels: Sequence[int]
    strides: Sequence[int]
    squeeze: int = 1

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return int(np.prod(self.strides)) * self.squeeze

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of so many samples: ``(n - kernel) // stride + 1`` each time."""
        length = num_samples
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            length = (length - kernel) // stride + 1
        return max(0, length // self.squeeze)

    def num_samples(self, num_frames: int) -> int:
        """Return the fewest samples that give so many frames."""
        length = num_frames * self.squeeze
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            length = (length - 1) * stride + kernel
        return length


class WaveformFront:
    """Waveforms in, one frame a total stride of the convolutions: wav2vec 2.0 and its kin.

    Args:
        model: whose front end, for messages.
        prepare: samples of one recording -> what the model reads (normalised, or as they are).
        sample_rate_hz: rate it takes.
        convolutions: how samples become frames.
        min_frames: fewest frames the head can use.
    """

    window = False
    max_audio_s = float("inf")

    def __init__(
        self,
        *,
        model: str,
        prepare: Callable[[FloatArray], FloatArray],
        sample_rate_hz: int,
        convolutions: Convolutions,
        min_frames: int,
    ) -> None:
        self._model, self._prepare, self._rate = model, prepare, sample_rate_hz
        self._convolutions = convolutions
        self.min_audio_s = convolutions.num_samples(min_frames) / sample_rate_hz
        self.hop_s = convolutions.stride / sample_rate_hz

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build ``input_values`` float32 [B, S] and, with padding, ``attention_mask`` [B, S]."""
        waves = prepare_waveforms(
            audios,
            model=self._model,
            sample_rate_hz=self._rate,
            max_audio_s=self.max_audio_s,
            min_audio_s=self.min_audio_s,
        )
        rows = [torch.from_numpy(self._prepare(wave)) for wave in waves]
        frames = [self._convolutions.num_frames(len(row)) for row in rows]
        times = frame_times(frames, self.hop_s, audios)
        return FrameBatch(inputs=_padded("input_values", rows), times_s=times)


class MelFront:
    """Mel features of any length in, one frame an input vector: Wav2Vec2-BERT.

    Args:
        model: whose front end, for messages.
        extractor: the transformers feature extractor.
        hop_s: seconds from one input vector to the next.
        min_frames: fewest frames the head can use.
    """

    window = False
    max_audio_s = float("inf")

    def __init__(self, *, model: str, extractor: Any, hop_s: float, min_frames: int) -> None:
        self._model, self._extractor, self.hop_s = model, extractor, hop_s
        # one vector is so many mel frames, each of 25 ms, the next 10 ms later
        self.min_audio_s = min_frames * hop_s + 0.015

    def build(self, audios: Sequence[FloatArray]) -> FrameBatch:
        """Build ``input_features`` [B, F, M] and, with padding, ``attention_mask`` [B, F]."""
        rate = self._extractor.sampling_rate
        waves = prepare_waveforms(
            audios,
            model=self._model,
            sample_rate_hz=rate,
            max_audio_s=self.max_audio_s,
            min_audio_s=self.min_audio_s,
        )
        rows = []
        for wave in waves:
            made = self._extractor(
                wave, sampling_rate=rate, return_tensors="pt", return_attention_mask=True
            )
            rows.append(made["input_features"][0, : int(made["attention_mask"].sum())])
        times = frame_times([len(row) for row in rows], self.hop_s, audios)
        return FrameBatch(inputs=_padded("input_features", rows), times_s=times)


def frame_times(
    num_frames: Sequence[int], hop_s: float, audios: Sequence[FloatArray]
) -> list[FloatArray]:
    """Return float32 [F, 2] for each recording: start and end of its frames, up to its end."""
    edges = [
        np.minimum(np.arange(count + 1) * hop_s, audio.size / SAMPLE_RATE_HZ)
        for count, audio in zip(num_frames, audios, strict=True)
    ]
    return [np.stack([edge[:-1], edge[1:]], axis=1).astype(np.float32) for edge in edges]


def _padded(name: str, rows: Sequence[Tensor]) -> dict[str, Any]:
    inputs: dict[str, Any] = {name: pad_sequence(list(rows), batch_first=True)}
    lengths = [len(row) for row in rows]
    if min(lengths) < max(lengths):
        heard_BT = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        inputs |= {"attention_mask": heard_BT.long(), ROW_LENGTHS: lengths}
    return inputs
