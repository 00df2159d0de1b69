"""Model inputs for audio, a user turn and (for teacher forcing) a response given as token ids.

The prompt comes from the processor (``audio_models.features``); response ids are appended as ids
and never re-tokenised.

Shapes: B rows, T input positions, P prompt positions, R response tokens, A audio positions, F tower
frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from audio_models.features import Encoded, encode_turns, feature_frames, hop_length
from audio_models.load import AudioLM
from audio_models.prompt import placeholder_of, text_prompt_ids
from audio_models.waveforms import audio_position_times_s, prepare_waveforms
from cache_schema.errors import AudioError, TokenizerMismatchError
from cache_schema.types import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one row asks.

    Attributes:
        audio: float32 [num_samples], mono, 16 kHz; ``None`` for text alone, in every row or none.
        text: the user turn's text, the question with its choices.
        response_ids: int64 [R] in the model's own tokenizer, ``None`` for a prompt alone.
    """

    audio: FloatArray | None
    text: str
    response_ids: IntArray | None = None


@dataclass(frozen=True, kw_only=True)
class AudioBatch:
    """Inputs of one forward pass and where things stand in them.

    Attributes:
        inputs: keyword arguments of the model; ``input_ids`` and ``attention_mask`` are [B, T].
        audio_positions: for each row int64 [A], where ``input_ids`` is the audio placeholder; not
            those that stand for the silence alone that fills up a window (``Family.chat_ids``).
        predict_positions: for each row int64 [R]; response token t is predicted at input position
            ``first + P - 1 + t``, ``first`` being the row's first unpadded position.
        audio_times_s: for each row float32 [A, 2], start and end of each audio position.
        num_features: valid feature frames of each row; empty where the audio tower is not known.
        tower_times_s: for each row float32 [F, 2], start and end of each frame of the audio tower;
            empty likewise.
    """

    inputs: dict[str, Tensor]
    audio_positions: list[Tensor]
    predict_positions: list[Tensor]
    audio_times_s: list[FloatArray]
    num_features: list[int] = field(default_factory=list)
    tower_times_s: list[FloatArray] = field(default_factory=list)

    def to(self, device: torch.device) -> AudioBatch:
        """Return the batch with its model inputs on ``device``; positions stay where they are."""
        moved = {key: value.to(device, non_blocking=True) for key, value in self.inputs.items()}
        return replace(self, inputs=moved)


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
    for request in requests:
        _check_tokens(lm, request)
    recordings = [request.audio for request in requests if request.audio is not None]
    if not recordings:
        return _without_audio(lm, requests, padding_side)
    assert len(recordings) == len(requests), "rows with audio and rows without it do not mix"
    audios = prepare_waveforms(
        recordings,
        model=lm.path,
        sample_rate_hz=lm.sample_rate_hz,
        max_audio_s=lm.max_audio_s,
        min_audio_s=lm.family.min_audio_s,
    )
    # features are made in float32 whatever the passes they are for: a front end has no autocast
    with torch.autocast("cpu", enabled=False):
        encoded = encode_turns(lm, [request.text for request in requests], audios, lm.model.dtype)
    prompts = encoded.prompts
    _check_placeholders(lm, prompts, encoded.num_frames)
    seconds = [len(audio) / lm.sample_rate_hz for audio in audios]
    if encoded.num_frames is not None and lm.family.seconds_per_token is None:
        # the last feature frame may reach behind the recording; no position does
        samples = zip(encoded.num_frames, audios, strict=True)
        seconds = [min(n * hop_length(lm), len(a)) / lm.sample_rate_hz for n, a in samples]
    tokens, predict_positions = _tokens(lm, prompts, requests, padding_side)
    input_ids_BT = tokens["input_ids"]
    heard = [_heard(lm, ids, duration) for ids, duration in zip(input_ids_BT, seconds, strict=True)]
    times_s = [times_s for _, times_s in heard]
    num_features, tower_times_s = _of_tower(lm, encoded, audios)
    if lm.family.tokens_are_frames:
        times_s = tower_times_s
    return AudioBatch(
        inputs={**tokens, **encoded.features},
        audio_positions=[positions for positions, _ in heard],
        predict_positions=predict_positions,
        audio_times_s=times_s,
        num_features=num_features,
        tower_times_s=tower_times_s,
    )


def _of_tower(
    lm: AudioLM, encoded: Encoded, audios: Sequence[FloatArray]
) -> tuple[list[int], list[FloatArray]]:
    """Return the valid feature frames of each row, and the times of its tower frames."""
    layout = lm.family.tower
    if layout is None:
        return [], []
    num_features = feature_frames(encoded)
    rows = zip(num_features, audios, strict=True)
    return num_features, [layout.times_s(n, len(a) / lm.sample_rate_hz) for n, a in rows]


def _without_audio(lm: AudioLM, requests: Sequence[Request], padding_side: str) -> AudioBatch:
    """Build a batch of text alone."""
    prompts = [torch.tensor(text_prompt_ids(lm, request.text)) for request in requests]
    tokens, predict_positions = _tokens(lm, prompts, requests, padding_side)
    return AudioBatch(
        inputs=tokens,
        audio_positions=[torch.empty(0, dtype=torch.long)] * len(requests),
        predict_positions=predict_positions,
        audio_times_s=[np.empty((0, 2), dtype=np.float32)] * len(requests),
    )


def _tokens(
    lm: AudioLM, prompts: Sequence[Tensor], requests: Sequence[Request], padding_side: str
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return ``input_ids`` and ``attention_mask`` [B, T], and each row's ``predict_positions``."""
    responses = [_response(request) for request in requests]
    rows = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    input_ids_BT, mask_BT = _pad(rows, lm.tokenizer.pad_token_id, padding_side)
    firsts = [int(mask.nonzero()[0]) for mask in mask_BT]
    return {"input_ids": input_ids_BT, "attention_mask": mask_BT}, [
        first + len(prompt) - 1 + torch.arange(len(response))
        for first, prompt, response in zip(firsts, prompts, responses, strict=True)
    ]


def _heard(lm: AudioLM, input_ids_T: Tensor, duration_s: float) -> tuple[Tensor, FloatArray]:
    """Return a row's audio positions and their times.

    Where the last ones stand for silence behind the recording they begin and end with it, or are
    left out with the window they fill up.
    """
    positions = torch.nonzero(input_ids_T == lm.audio_token_id).flatten()
    seconds_per_token = lm.family.seconds_per_token
    if seconds_per_token is None:
        return positions, audio_position_times_s(duration_s, len(positions))
    edges = seconds_per_token * np.arange(len(positions) + 1)
    times_s = np.stack([edges[:-1], edges[1:]], axis=1)
    if lm.family.chat_ids:
        kept = int(np.ceil(round(duration_s / seconds_per_token, 6)))
        positions, times_s = positions[:kept], times_s[:kept]
    return positions, np.minimum(times_s, duration_s).astype(np.float32)


def holds_placeholder(lm: AudioLM, text: str) -> bool:
    """Whether a text holds what stands for audio, and would be taken for a recording."""
    # ids made from a chat request never have a special token for what is written in its text
    return placeholder_of(lm) in text and not lm.family.chat_ids


def _check_tokens(lm: AudioLM, request: Request) -> None:
    placeholder = placeholder_of(lm)
    if holds_placeholder(lm, request.text):
        raise AudioError(f"its text holds the audio placeholder {placeholder!r}")
    if request.response_ids is None or len(request.response_ids) == 0:
        return
    if lm.audio_token_id in request.response_ids:
        raise AudioError(f"its response holds the audio placeholder {placeholder!r}")
    largest = int(request.response_ids.max())
    if largest >= lm.vocab_size:
        raise TokenizerMismatchError(
            f"its response has token id {largest}, and {lm.path} has {lm.vocab_size} ids; "
            "responses must be in its own tokenizer"
        )


def _check_placeholders(
    lm: AudioLM, prompts: Sequence[Tensor], num_frames: Sequence[int] | None
) -> None:
    """Compare placeholders with features; where features are not known, there must be some."""
    for index, prompt in enumerate(prompts):
        placeholders = int((prompt == lm.audio_token_id).sum())
        features = max(placeholders, 1)
        if lm.family.tokens_of_frames is not None and num_frames is not None:
            features = lm.family.tokens_of_frames(num_frames[index])
        if features < 1:
            raise AudioError("the recording is too short to be heard")
        if placeholders != features:
            raise AudioError(
                f"{placeholders} audio placeholders for {features} audio features; does the chat "
                f"template of {lm.path} render audio?"
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
