"""Captions by an audio language model: it hears the recording and answers a prompt, greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audio_models.generate import generate
from audio_models.inputs import Request
from audio_models.load import load_audio_lm
from cache_schema.errors import UsageError
from cache_schema.types import FloatArray, Heard
from pipeline.listen.base import Hearing
from pipeline.textualize_recipe import ListenRecipe

PROMPT = (
    "Describe the audio in detail: what is said and by whom, the speakers' voices and emotions, "
    "the music, the sounds, and the order in which they come."
)
MAX_NEW_TOKENS = 256


def settle(column: str, listener: ListenRecipe) -> dict[str, Any]:
    """Return what a caption depends on besides the model.

    Returns:
        JSON values: ``prompt``, ``max_new_tokens`` and ``decoding``.

    Raises:
        UsageError: a setting of speech recognition.
    """
    if listener.language or listener.task != "transcribe":
        raise UsageError(
            f"textualize.listen.{column}: language and task are for speech recognition, "
            f"{listener.model} answers a prompt; say it there"
        )
    return {
        "prompt": listener.prompt or PROMPT,
        "max_new_tokens": listener.max_new_tokens or MAX_NEW_TOKENS,
        "decoding": {"do_sample": False, "num_beams": 1},
    }


class CaptionListener:
    """A ``Listener``.

    Args:
        model: directory or hub id.
        dtype: what to compute in.
        device: ``auto`` or a torch device.
        settled: what ``settle`` returned.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, model: str, dtype: str, device: str, settled: Mapping[str, Any]) -> None:
        self._lm = load_audio_lm(model, dtype, device)
        self._settled = settled

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        """Caption a batch; see ``Listener``."""
        requests = [Request(audio=audio, text=self._settled["prompt"]) for audio in audios]
        answers = generate(self._lm, requests, self._settled["max_new_tokens"], len(requests))
        return [
            Hearing(heard=Heard(text=answer.text.strip()), is_cut=answer.finish_reason == "length")
            for answer in answers
        ]
