"""Model inputs for audio, a user turn and (for teacher forcing) a response given as token ids.

The prompt is rendered by the processor's chat template and tokenised by the processor; response ids
are appended as ids and never re-tokenised.

Shapes: B rows, T input positions, P prompt positions, R response tokens, A audio positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_models.load import AudioLM
from audio_models.rows_alone import join_rows
from audio_models.waveforms import audio_position_times_s, prepare_waveforms
from cache_schema.errors import AudioError, TokenizerMismatchError
from cache_schema.types import FloatArray, IntArray

_TOKEN_KEYS = ("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one row asks.

    Attributes:
        audio: float32 [num_samples], mono, 16 kHz.
        text: the user turn's text, the question with its choices.
        response_ids: int64 [R] in the model's own tokenizer, ``None`` for a prompt alone.
    """

    audio: FloatArray
    text: str
    response_ids: IntArray | None = None


@dataclass(frozen=True, kw_only=True)
class AudioBatch:
    """Inputs of one forward pass and where things stand in them.

    Attributes:
        inputs: keyword arguments of the model; ``input_ids`` and ``attention_mask`` are [B, T].
        audio_positions: for each row int64 [A], where ``input_ids`` is the audio placeholder.
        predict_positions: for each row int64 [R]; response token t is predicted at input position
            ``first + P - 1 + t``, ``first`` being the row's first unpadded position.
        audio_times_s: for each row float32 [A, 2], start and end of each audio position.
    """

    inputs: dict[str, Tensor]
    audio_positions: list[Tensor]
    predict_positions: list[Tensor]
    audio_times_s: list[FloatArray]

    def to(self, device: torch.device) -> AudioBatch:
        """Return the batch with its model inputs on ``device``; positions stay where they are."""
        moved = {key: value.to(device, non_blocking=True) for key, value in self.inputs.items()}
        return replace(self, inputs=moved)


def chat_messages(text: str) -> list[dict[str, Any]]:
    """Return the conversation: one user turn, audio first, then text."""
    return [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": text}]},
    ]


def _chat_messages(lm: AudioLM, text: str) -> list[dict[str, Any]]:
    if not lm.family.inline_audio:
        return chat_messages(text)
    placeholder = lm.tokenizer.convert_ids_to_tokens(lm.audio_token_id)
    return [{"role": "user", "content": f"{placeholder}{text}"}]


def render_prompt(lm: AudioLM, text: str) -> str:
    """Return the chat prompt: one audio placeholder, generation prompt added."""
    return str(
        lm.processor.apply_chat_template(
            _chat_messages(lm, text), tokenize=False, add_generation_prompt=True
        )
    )


def build_inputs(
    lm: AudioLM, requests: Sequence[Request], padding_side: str = "right"
) -> AudioBatch:
    """Build the inputs of one batch on the CPU.

    Args:
        lm: the model whose processor is used.
        requests: the rows, in order.
        padding_side: ``right`` for teacher forcing, ``left`` for generation.

    Raises:
        AudioError: a recording is empty, not mono, not finite, longer than the front end hears or
            shorter than one audio token; its text or response holds the placeholder; or
            placeholders and features do not match.
        TokenizerMismatchError: a response id is beyond the model's vocabulary.
    """
    for index, request in enumerate(requests):
        _check_tokens(lm, request, index)
    audios = prepare_waveforms(
        [request.audio for request in requests],
        model=lm.path,
        sample_rate_hz=lm.sample_rate_hz,
        max_audio_s=lm.max_audio_s,
        min_audio_s=lm.family.min_audio_s,
    )
    encoded = _run_processor(lm, [render_prompt(lm, request.text) for request in requests], audios)
    prompts = [
        ids[mask.bool()]
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ]
    features, num_frames = _model_features(lm, encoded, audios)
    seconds = [len(audio) / lm.sample_rate_hz for audio in audios]
    if num_frames is not None:
        seconds = [n * _hop_s(lm) for n in num_frames]
        _check_placeholders(lm, prompts, num_frames)
    responses = [_response(request) for request in requests]
    rows = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    input_ids_BT, mask_BT = _pad(rows, lm.tokenizer.pad_token_id, padding_side)
    audio_positions = [torch.nonzero(ids == lm.audio_token_id).flatten() for ids in input_ids_BT]
    firsts = [int(mask.nonzero()[0]) for mask in mask_BT]
    return AudioBatch(
        inputs={"input_ids": input_ids_BT, "attention_mask": mask_BT, **features},
        audio_positions=audio_positions,
        predict_positions=[
            first + len(prompt) - 1 + torch.arange(len(response))
            for first, prompt, response in zip(firsts, prompts, responses, strict=True)
        ],
        audio_times_s=[
            _times_s(lm.family.seconds_per_token, duration, len(positions))
            for duration, positions in zip(seconds, audio_positions, strict=True)
        ],
    )


def _times_s(seconds_per_token: float | None, duration_s: float, num_positions: int) -> FloatArray:
    """Return the times of a row's positions; those behind the recording begin and end with it."""
    if seconds_per_token is None:
        return audio_position_times_s(duration_s, num_positions)
    times_s = audio_position_times_s(seconds_per_token * num_positions, num_positions)
    return np.minimum(times_s, np.float32(duration_s))


def _check_tokens(lm: AudioLM, request: Request, index: int) -> None:
    placeholder = lm.tokenizer.convert_ids_to_tokens(lm.audio_token_id)
    if placeholder in request.text:
        raise AudioError(f"row {index}: its text holds the audio placeholder {placeholder!r}")
    if request.response_ids is None or len(request.response_ids) == 0:
        return
    if lm.audio_token_id in request.response_ids:
        raise AudioError(f"row {index}: its response holds the audio placeholder {placeholder!r}")
    largest = int(request.response_ids.max())
    if largest >= lm.vocab_size:
        raise TokenizerMismatchError(
            f"row {index}: its response has token id {largest}, and {lm.path} has {lm.vocab_size} "
            "ids; responses must be in its own tokenizer"
        )


def _run_processor(lm: AudioLM, prompts: list[str], audios: list[FloatArray]) -> Any:
    """Run the processor; a tower with variable frames gets features no longer than it needs.

    One FFT window of silence behind the longest recording makes its last frames equal those of the
    full-length window, at a fraction of the work (10 s of a 300 s window: 28x fewer frames).
    """
    audio_settings: dict[str, Any] = {"sampling_rate": lm.sample_rate_hz}
    if lm.family.variable_frames:
        extractor = lm.processor.feature_extractor
        hop = extractor.hop_length
        longest = max(len(audio) for audio in audios) + extractor.n_fft
        audio_settings["max_length"] = min(-(-longest // hop) * hop, extractor.n_samples)
        audio_settings["padding"] = "max_length"

    def encode(texts: list[str], recordings: list[FloatArray]) -> Any:
        return lm.processor(
            text=texts,
            audio=recordings,
            return_tensors="pt",
            text_kwargs={"padding": True},  # the text's alone: towers differ in what they want
            audio_kwargs=dict(audio_settings),  # processors take settings out of it
        )

    if lm.family.features_alone:
        return join_rows([encode([p], [a]) for p, a in zip(prompts, audios, strict=True)])
    return encode(prompts, audios)


def _model_features(
    lm: AudioLM, encoded: Any, audios: list[FloatArray]
) -> tuple[dict[str, Tensor], list[int] | None]:
    """Return the audio inputs in the model's dtype and the valid frames of each row, if known."""
    features = {key: value for key, value in encoded.items() if key not in _TOKEN_KEYS}
    num_frames = _valid_frames(lm, features, audios)
    if lm.family.variable_frames and num_frames is not None:
        longest = max(num_frames)
        features["input_features"] = features["input_features"][..., :longest].contiguous()
        features["feature_attention_mask"] = features["feature_attention_mask"][:, :longest]
    for key, value in features.items():
        if value.is_floating_point():
            features[key] = value.to(lm.model.dtype)
    return features, num_frames


def _valid_frames(
    lm: AudioLM, features: dict[str, Tensor], audios: list[FloatArray]
) -> list[int] | None:
    """Return the valid frames of each row, those of all its windows together."""
    if lm.family.frame_mask not in features:
        return None
    frames = features[lm.family.frame_mask].sum(-1)
    if not lm.family.windows:
        return [int(n) for n in frames]
    window = lm.processor.feature_extractor.n_samples
    windows = [-(-len(audio) // window) for audio in audios]
    return [int(part.sum()) for part in frames.split(windows)]


def _hop_s(lm: AudioLM) -> float:
    return float(lm.processor.feature_extractor.hop_length / lm.sample_rate_hz)


def _check_placeholders(lm: AudioLM, prompts: list[Tensor], num_frames: list[int]) -> None:
    if lm.family.tokens_of_frames is None:
        return
    for index, (prompt, frames) in enumerate(zip(prompts, num_frames, strict=True)):
        placeholders = int((prompt == lm.audio_token_id).sum())
        features = lm.family.tokens_of_frames(frames)
        if features < 1:
            raise AudioError(f"row {index}: {frames} frames of audio are too short to be heard")
        if placeholders != features:
            raise AudioError(
                f"row {index}: {placeholders} audio placeholders for {features} audio features; "
                f"does the chat template of {lm.path} render audio?"
            )


def _response(request: Request) -> Tensor:
    if request.response_ids is None:
        return torch.empty(0, dtype=torch.long)
    return torch.from_numpy(np.asarray(request.response_ids, dtype=np.int64))


def _pad(rows: list[Tensor], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    input_ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask_BT = torch.zeros_like(input_ids_BT)
    for index, row in enumerate(rows):
        window = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        input_ids_BT[index, window] = row
        mask_BT[index, window] = 1
    return input_ids_BT, mask_BT
