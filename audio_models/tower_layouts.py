"""How the audio tower of each family is called, and which of its states stand for the recording.

Towers differ in what they take: windows of one length side by side, the valid frames of all
recordings in one row, or a recording at a time where padding would be heard.

Shapes: B recordings, W windows of all of them, K mel bins, T feature frames, F tower frames, S
tower frames of a window, padding included; N tower frames of one call, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from audio_models.valid_frames import sent
from cache_schema.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class TowerCall:
    """One forward pass of a tower.

    Attributes:
        inputs: its keyword arguments.
        kept_N: int64 on the device, which of its states, [W, S, D] or [N, D] as one row of frames,
            stand for the recordings; ``None`` for the first ``num_frames``.
        num_frames: how many those are.
    """

    inputs: Mapping[str, Any]
    num_frames: int
    kept_N: Tensor | None = None  # noqa: N815

    def select(self, states: Tensor) -> Tensor:
        """Return a copy [num_frames, D] of the states that stand for the recordings."""
        frames_ND = states.reshape(-1, states.shape[-1])
        if self.kept_N is None:
            return frames_ND[: self.num_frames].clone()
        return frames_ND[self.kept_N]


@dataclass(frozen=True, kw_only=True)
class TowerLayout:
    """One family's tower.

    Attributes:
        module: attribute path of the tower, from the model.
        config: attribute path of its configuration, from the model's.
        calls: (tower, inputs, valid feature frames a recording, tower frames a recording) -> its
            forward passes, in the order of the recordings.
        num_layers: what its configuration calls the number of blocks.
        feature_s: seconds from one feature frame to the next.
        step: feature frames that become one tower frame.
        piece: feature frames of a piece that is convolved by itself, so that its last tower frame
            may stand for fewer than ``step``; ``None`` where there are no pieces.
    """

    module: tuple[str, ...]
    config: tuple[str, ...]
    calls: Callable[[Any, Mapping[str, Any], Sequence[int], Sequence[int]], Iterator[TowerCall]]
    num_layers: str = "num_hidden_layers"
    feature_s: float = 0.01
    step: int = 2
    piece: int | None = None

    def times_s(self, num_features: int, duration_s: float) -> FloatArray:
        """Return float32 [F, 2], start and end of each tower frame of a recording.

        Args:
            num_features: its valid feature frames.
            duration_s: its length; no frame ends later.
        """
        piece = self.piece or max(num_features, 1)
        starts = np.concatenate(
            [
                np.arange(first, min(first + piece, num_features), self.step)
                for first in range(0, num_features, piece)
            ]
            or [np.empty(0, dtype=np.int64)]
        )
        ends = np.minimum(starts + self.step, (starts // piece + 1) * piece)
        seconds = np.stack([starts, ends], axis=1) * self.feature_s
        return np.minimum(seconds, duration_s).astype(np.float32)


def _window_mask(num_features: Sequence[int], window: int) -> Tensor:
    """Return bool [W, S]: which tower frames of the windows of all recordings are valid.

    A recording's windows are full but for the last; a convolution of stride 2 halves them.
    """
    valid = [
        min(window, total - first) for total in num_features for first in range(0, total, window)
    ]
    frames_W = (torch.tensor(valid) + 1) // 2
    return torch.arange(window // 2) < frames_W[:, None]


def _numbers(mask: Tensor, device: torch.device) -> Tensor:
    """Return the numbers of what a mask of the CPU keeps, as one row, on the device."""
    return sent(mask.flatten().nonzero().flatten(), device)


def window_calls(
    _tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """All windows at once; the mask of feature frames goes along where the tower takes one."""
    features_WKT = inputs["input_features"]
    kept_WS = _window_mask(num_features, features_WKT.shape[-1])
    kept_N = _numbers(kept_WS, features_WKT.device)
    yield TowerCall(inputs=inputs, kept_N=kept_N, num_frames=sum(num_frames))


def unmasked_window_calls(
    tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """All windows at once, for towers that hear the silence a window is filled with."""
    features = {"input_features": inputs["input_features"]}
    return window_calls(tower, features, num_features, num_frames)


def masked_window_calls(
    tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """One window a recording; the mask of attention is made outside the tower, as Qwen2-Audio."""
    features_BKT = inputs["input_features"]
    kept_BS = _window_mask(num_features, features_BKT.shape[-1])
    mask = create_bidirectional_mask(
        config=tower.config,
        inputs_embeds=features_BKT.new_zeros((*kept_BS.shape, 1)),
        attention_mask=sent(kept_BS.long(), features_BKT.device),
    )
    yield TowerCall(
        inputs={"input_features": features_BKT, "attention_mask": mask},
        kept_N=_numbers(kept_BS, features_BKT.device),
        num_frames=sum(num_frames),
    )


def packed_calls(
    _tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """The valid feature frames of all recordings in one row, which the tower tells apart."""
    rows = zip(inputs["input_features"], num_features, strict=True)
    yield _packed([row_KT[:, :count] for row_KT, count in rows], sum(num_frames))


def packed_calls_alone(
    _tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """The same, one recording a pass: Qwen3-Omni pads its pieces before they are convolved."""
    rows = zip(inputs["input_features"], num_features, num_frames, strict=True)
    for row_KT, count, frames in rows:
        yield _packed([row_KT[:, :count]], frames)


def _packed(rows: Sequence[Tensor], num_frames: int) -> TowerCall:
    lens = sent(torch.tensor([row.shape[1] for row in rows]), rows[0].device)
    inputs = {"input_features": torch.cat(list(rows), dim=1), "feature_lens": lens}
    return TowerCall(inputs=inputs, num_frames=num_frames)


def granite_calls(
    _tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """One recording a pass: the encoder takes no mask."""
    rows = zip(inputs["input_features"], num_features, num_frames, strict=True)
    for row_TK, count, frames in rows:
        yield TowerCall(inputs={"hidden_states": row_TK[None, :count]}, num_frames=frames)


def phi_calls(
    _tower: Any,
    inputs: Mapping[str, Any],
    num_features: Sequence[int],
    num_frames: Sequence[int],
) -> Iterator[TowerCall]:
    """One recording a pass: convolutions run before the mask.

    From 500 tower frames on the blocks see chunks of 500, the last one filled up.
    """
    rows = zip(inputs["audio_input_features"], num_features, num_frames, strict=True)
    for row_TK, count, frames in rows:
        yield TowerCall(
            inputs={"hidden_states": row_TK[None, :count], "mask": None}, num_frames=frames
        )


_IN_MODEL = ("model", "audio_tower")
_AUDIO_CONFIG = ("audio_config",)

QWEN_AUDIO = TowerLayout(module=_IN_MODEL, config=_AUDIO_CONFIG, calls=masked_window_calls)
QWEN_OMNI = TowerLayout(module=("audio_tower",), config=_AUDIO_CONFIG, calls=packed_calls)
QWEN3_OMNI = TowerLayout(
    module=("audio_tower",),
    config=_AUDIO_CONFIG,
    calls=packed_calls_alone,
    step=8,
    piece=100,
)
AUDIO_FLAMINGO = TowerLayout(module=_IN_MODEL, config=_AUDIO_CONFIG, calls=window_calls)
GLM_ASR = TowerLayout(module=_IN_MODEL, config=_AUDIO_CONFIG, calls=unmasked_window_calls)
VOXTRAL = TowerLayout(module=_IN_MODEL, config=_AUDIO_CONFIG, calls=unmasked_window_calls)
GRANITE_SPEECH = TowerLayout(
    module=("model", "encoder"),
    config=("encoder_config",),
    calls=granite_calls,
    feature_s=0.02,
    step=1,
)
PHI = TowerLayout(
    module=("model", "embed_tokens_extend", "audio_embed", "encoder"),
    config=_AUDIO_CONFIG,
    calls=phi_calls,
    num_layers="num_blocks",
    step=8,
)
