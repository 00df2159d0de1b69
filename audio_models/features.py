"""Prompt ids and audio features of a batch, as the model's own processor makes them.

Shapes: B rows, P prompt positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audio_models.front_end import FrontEnd
from audio_models.prompt import chat_request, placeholder_of, render_prompt
from audio_models.rows_alone import join_rows
from cache_schema.types import FloatArray

TOKEN_KEYS = ("input_ids", "attention_mask")
"""Inputs that are no features."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What a processor made of a batch.

    Attributes:
        prompts: for each row int64 [P], audio placeholders spread.
        features: the model's audio inputs, on the CPU, in its dtype.
        num_frames: valid feature frames of each row, those of all its windows together; ``None``
            if the processor does not say.
    """

    prompts: Sequence[Tensor]
    features: dict[str, Tensor]
    num_frames: list[int] | None


def encode_turns(
    front: FrontEnd, texts: Sequence[str], audios: Sequence[FloatArray], dtype: torch.dtype
) -> Encoded:
    """Encode one user turn a row: a recording, as the front end takes it, and text."""
    if front.family.chat_ids:
        return _finish(front, _run_chats(front, texts, audios), audios, dtype)
    prompts = [render_prompt(front, text) for text in texts]
    return _finish(front, _run_processor(front, prompts, audios), audios, dtype)


def encode_audio(front: FrontEnd, audios: Sequence[FloatArray], dtype: torch.dtype) -> Encoded:
    """Encode recordings without a prompt around them: the features are the same."""
    if front.family.chat_ids:
        return encode_turns(front, [""] * len(audios), audios, dtype)
    prompts = [placeholder_of(front)] * len(audios)
    return _finish(front, _run_processor(front, prompts, audios), audios, dtype)


def _run_chats(front: FrontEnd, texts: Sequence[str], audios: Sequence[FloatArray]) -> Any:
    turns = zip(texts, audios, strict=True)
    return front.processor.apply_chat_template(
        [chat_request(front, text, audio) for text, audio in turns], tokenize=True, return_dict=True
    )


def _run_processor(front: FrontEnd, prompts: Sequence[str], audios: Sequence[FloatArray]) -> Any:
    """Run the processor; a tower with variable frames gets features no longer than it needs.

    One FFT window of silence behind the longest recording makes its last frames equal those of the
    full-length window, at a fraction of the work (10 s of a 300 s window: 28x fewer frames).
    """
    audio_settings: dict[str, Any] = {"sampling_rate": front.sample_rate_hz}
    if front.family.variable_frames:
        extractor = front.processor.feature_extractor
        hop = extractor.hop_length
        longest = max(len(audio) for audio in audios) + extractor.n_fft
        audio_settings["max_length"] = min(-(-longest // hop) * hop, extractor.n_samples)
        audio_settings["padding"] = "max_length"

    def encode(texts: list[str], recordings: list[FloatArray]) -> Any:
        return front.processor(
            text=texts,
            audio=recordings,
            return_tensors="pt",
            text_kwargs={"padding": True},  # the text's alone: towers differ in what they want
            audio_kwargs=dict(audio_settings),  # processors take settings out of it
        )

    if front.family.features_alone:
        return join_rows([encode([p], [a]) for p, a in zip(prompts, audios, strict=True)])
    return encode(list(prompts), list(audios))


def _finish(
    front: FrontEnd, encoded: Mapping[str, Any], audios: Sequence[FloatArray], dtype: torch.dtype
) -> Encoded:
    features = {key: value for key, value in encoded.items() if key not in TOKEN_KEYS}
    num_frames = _valid_frames(front, features, audios)
    if front.family.variable_frames and num_frames is not None:
        longest = max(num_frames)
        features["input_features"] = features["input_features"][..., :longest].contiguous()
        features["feature_attention_mask"] = features["feature_attention_mask"][:, :longest]
    for key, value in features.items():
        if value.is_floating_point():
            features[key] = value.to(dtype)
    rows = zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    return Encoded(
        prompts=[ids[mask.bool()] for ids, mask in rows],
        features=features,
        num_frames=num_frames,
    )


def _valid_frames(
    front: FrontEnd, features: Mapping[str, Tensor], audios: Sequence[FloatArray]
) -> list[int] | None:
    """Return the valid frames of each row, those of all its windows together."""
    if front.family.chat_ids:  # it says only where windows end
        return [-(-len(audio) // hop_length(front)) for audio in audios]
    if front.family.frame_mask not in features:
        return None
    frames = features[front.family.frame_mask].sum(-1)
    if not front.family.windows:
        return [int(n) for n in frames]
    window = front.processor.feature_extractor.n_samples
    windows = [-(-len(audio) // window) for audio in audios]
    return [int(part.sum()) for part in frames.split(windows)]


def feature_frames(encoded: Encoded) -> list[int]:
    """Return the valid feature frames of each recording.

    Where the front end does not say, padding is NaN (``rows_alone.join_rows``).
    """
    if encoded.num_frames is not None:
        return encoded.num_frames
    (features_BTK,) = (value for value in encoded.features.values() if value.ndim == 3)
    return [int((~row_TK.isnan().any(-1)).sum()) for row_TK in features_BTK]


def hop_length(front: FrontEnd) -> int:
    """Return the samples from one feature frame to the next."""
    return int(front.processor.feature_extractor.hop_length)
