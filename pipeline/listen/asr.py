"""Speech recognition by Whisper: what is said, with its seconds, in recordings of any length.

The sequential algorithm of the Whisper paper (arXiv 2212.04356, section 3.8): windows of 30 s, the
next one beginning where the last finished segment ended. Decoding is greedy; a window is taken for
silence by the paper's two thresholds. Its fallback to higher temperatures is left out: it samples.

Shapes: B recordings, F mel frames, M mel bins.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from audio_models.load import DTYPES, resolve_device
from cache_schema.errors import AudioError, ModelError, UsageError, first_line, nearest
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray, Heard, Segment
from pipeline.listen.base import Hearing
from pipeline.textualize_recipe import OF_CLASSIFIERS, ListenRecipe

DECODING = {
    "temperature": 0.0,
    "no_speech_threshold": 0.6,
    "logprob_threshold": -1.0,
    "condition_on_prev_tokens": False,
    "num_beams": 1,
}
"""A window is silent if the model thinks so (0.6) and is unsure of what it wrote (-1 nat a token):
the values of the paper."""


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of transformers is not about how its own Whisper calls its own generate.

    It hands on a default length beside the one asked for, and says so for every window.
    """
    heads = ("Both `max_new_tokens`", "Passing `generation_config` together")
    return not record.getMessage().startswith(heads)


logging.getLogger("transformers.generation.utils").addFilter(_is_news)


def settle(column: str, listener: ListenRecipe, config: Any) -> dict[str, Any]:
    """Return what a transcript depends on besides the model.

    Returns:
        JSON values: ``language``, ``task``, ``max_new_tokens`` and ``decoding``.

    Raises:
        ModelError: the model cannot tell times, or has no front end for 16 kHz.
        UsageError: a setting does not go with this model.
    """
    where = f"textualize.listen.{column}"
    if listener.prompt:
        raise UsageError(f"{where}: a prompt is for captions, {listener.model} transcribes")
    listener.refuse_given(where, OF_CLASSIFIERS, "a speech recogniser")
    told = load_generation_config(listener.model)
    _check_front_end(listener.model)
    most = config.max_target_positions - 4  # start, language, task and one to come
    if listener.max_new_tokens is not None and listener.max_new_tokens > most:
        raise UsageError(
            f"{where}: max_new_tokens {listener.max_new_tokens}, the decoder takes {most} a window"
        )
    return {
        "language": _language(where, listener, told),
        "task": listener.task if is_multilingual(told) else "",
        "max_new_tokens": listener.max_new_tokens or config.max_target_positions // 2,
        "decoding": DECODING,
    }


def load_generation_config(model: str) -> Any:
    """Return what the model's checkpoint says of generating.

    Raises:
        ModelError: it says nothing, or has no timestamps.
    """
    try:
        told = GenerationConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model!r}: no generation_config.json, which holds Whisper's timestamps and "
            "languages"
        ) from error
    if getattr(told, "no_timestamps_token_id", None) is None:
        raise ModelError(
            f"model {model!r}: its generation_config.json has no no_timestamps_token_id, so it "
            "cannot tell times; take that file from the checkpoint it was made from"
        )
    return told


def _check_front_end(model: str) -> None:
    try:
        rate_hz = WhisperFeatureExtractor.from_pretrained(model).sampling_rate
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model!r}: no preprocessor_config.json or processor_config.json, which say how "
            "it hears"
        ) from error
    if rate_hz != SAMPLE_RATE_HZ:
        raise ModelError(
            f"model {model!r}: it hears {rate_hz} Hz, recordings have {SAMPLE_RATE_HZ}"
        )


def is_multilingual(told: Any) -> bool:
    """Whether the model is told a language and a task."""
    return bool(getattr(told, "is_multilingual", True) and getattr(told, "lang_to_id", None))


def _language(where: str, listener: ListenRecipe, told: Any) -> str:
    """Return the token of the language asked for, empty to detect it."""
    if not is_multilingual(told):
        if listener.language or listener.task != "transcribe":
            raise UsageError(
                f"{where}: {listener.model} knows one language and one task; leave language and "
                "task out"
            )
        return ""
    if not listener.language:
        return ""
    asked = listener.language.lower().strip("<|>")
    token = f"<|{TO_LANGUAGE_CODE.get(asked, asked)}|>"
    if token not in told.lang_to_id:
        codes = [known.strip("<|>") for known in told.lang_to_id]
        names = [name for name, code in TO_LANGUAGE_CODE.items() if code in codes]
        raise UsageError(
            f"{where}: language {listener.language!r} is none that {listener.model} knows"
            f"{nearest(asked, [*names, *codes])} (codes: {', '.join(sorted(codes))})"
        )
    return token


class WhisperListener:
    """A ``Listener``.

    Args:
        model: directory or hub id.
        dtype: what to compute in.
        device: ``auto`` or a torch device.
        settled: what ``settle`` returned.

    Raises:
        ModelError: model or processor cannot be loaded.
    """

    def __init__(self, model: str, dtype: str, device: str, settled: Mapping[str, Any]) -> None:
        try:
            self._processor: Any = WhisperProcessor.from_pretrained(model)
            network = WhisperForConditionalGeneration.from_pretrained(model, dtype=DTYPES[dtype])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"model {model!r}: Whisper cannot be loaded: {first_line(error)}"
            ) from error
        self._model: Any = network.eval().to(resolve_device(device))
        self._settled = settled
        told = self._model.generation_config
        self._ends = (told.eos_token_id, told.pad_token_id)
        self._first_time_id = int(told.no_timestamps_token_id) + 1
        self._is_multilingual = is_multilingual(told)
        encoder = self._model.model.encoder
        stride = encoder.conv1.stride[0] * encoder.conv2.stride[0]
        self._window_frames = int(stride * self._model.config.max_source_positions)

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        """Transcribe a batch; see ``Listener``."""
        features = [self._features(audio, index) for index, audio in enumerate(audios)]
        windows = self._generate(features)
        seconds = [len(audio) / SAMPLE_RATE_HZ for audio in audios]
        return [self._hearing(*pair) for pair in zip(windows, seconds, strict=True)]

    def _features(self, audio: FloatArray, index: int) -> Tensor:
        """Return log-mel features [M, F] of one recording, computed alone.

        In a batch the last frames would see the padding behind a shorter recording.
        """
        if audio.ndim != 1 or audio.size == 0 or not np.isfinite(audio).all():
            raise AudioError(f"row {index}: expected finite mono samples")
        extractor = self._processor.feature_extractor
        audio = np.pad(audio, (0, max(0, extractor.n_fft - len(audio))))  # what its frames mirror
        found = extractor(
            audio,
            sampling_rate=SAMPLE_RATE_HZ,
            truncation=False,
            padding="do_not_pad",
            return_tensors="pt",
        )
        features: Tensor = found["input_features"][0]
        return features

    @torch.no_grad()
    def _generate(self, features: Sequence[Tensor]) -> list[list[dict[str, Any]]]:
        """Return the segments of each recording as transformers gives them.

        Transformers reads frames up to the attention mask only in what it takes for a long batch
        (more than a window of frames, more than one row); elsewhere it reads the padding too, and
        writes words into it. So a batch is padded beyond a window, and a single row not at all.
        """
        longest = max(feature.shape[1] for feature in features)
        if len(features) > 1:
            longest = max(longest, self._window_frames + 1)
        features_BMF = torch.zeros(len(features), features[0].shape[0], longest)
        mask_BF = torch.zeros(len(features), longest, dtype=torch.long)
        for row, feature in enumerate(features):
            features_BMF[row, :, : feature.shape[1]] = feature
            mask_BF[row, : feature.shape[1]] = 1
        features_BMF = features_BMF.to(self._model.device, self._model.dtype)
        told = {"language": self._languages(features_BMF), "task": self._settled["task"]}
        output = self._model.generate(
            features_BMF,
            attention_mask=mask_BF.to(self._model.device),
            return_timestamps=True,
            return_segments=True,
            max_new_tokens=self._settled["max_new_tokens"],
            **(told if self._is_multilingual else {}),
            **self._settled["decoding"],
        )
        segments: list[list[dict[str, Any]]] = output["segments"]
        return segments

    def _languages(self, features_BMF: Tensor) -> list[str] | str | None:
        """Return the language asked for, or that of each recording by its first window."""
        if self._settled["language"] or not self._is_multilingual:
            return str(self._settled["language"]) or None
        missing = max(0, self._window_frames - features_BMF.shape[2])
        window = torch.nn.functional.pad(features_BMF[..., : self._window_frames], (0, missing))
        tokens = {index: token for token, index in self._model.generation_config.lang_to_id.items()}
        return [tokens[index] for index in self._model.detect_language(window).tolist()]

    def _hearing(self, found: Sequence[Mapping[str, Any]], duration_s: float) -> Hearing:
        """Return one recording's text and segments; a segment without words is none."""
        said = []
        segments = []
        for one in found:
            ids = one["tokens"]
            raw = self._processor.tokenizer.decode(
                ids[ids < self._first_time_id], skip_special_tokens=True
            )
            said.append(raw)
            start_s = min(round(float(one["start"]), 3), duration_s)
            end_s = min(max(round(float(one["end"]), 3), start_s), duration_s)
            if text := raw.strip():
                segments.append(Segment(start_s=start_s, end_s=end_s, text=text))
        cut = any(self._is_cut(one) for one in found)
        return Hearing(
            heard=Heard(text="".join(said).strip(), segments=tuple(segments)), is_cut=cut
        )

    def _is_cut(self, segment: Mapping[str, Any]) -> bool:
        """Whether words were lost: the window was written up to its last token within a segment.

        A window that has a finished segment is heard again from that segment's end.
        """
        written = segment["result"]["sequences"]
        last = int(written[-1])
        reaches_end = segment["idxs"][1] >= len(written)
        return reaches_end and last not in self._ends and last < self._first_time_id
