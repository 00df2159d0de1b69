"""Captions by an audio language model: it hears the recording and answers a prompt, greedily.

A recording longer than the model hears is cut into windows of equal length, each with a caption of
its own and its seconds: equal, so that no window is a scrap at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from audio_models.generate import Generation, generate
from audio_models.inputs import Request
from audio_models.load import load_audio_lm
from audio_models.waveforms import window_edges
from cache_schema.errors import UsageError
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray, Heard, Segment
from pipeline.listen.base import Hearing
from pipeline.textualize_recipe import OF_CLASSIFIERS, ListenRecipe

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
        UsageError: a setting of another kind of listener.
    """
    if listener.language or listener.task != "transcribe":
        raise UsageError(
            f"textualize.listen.{column}: language and task are for speech recognition, "
            f"{listener.model} answers a prompt; say it there"
        )
    where = f"textualize.listen.{column}"
    listener.refuse_given(where, OF_CLASSIFIERS, "an audio language model")
    return {
        "prompt": listener.prompt or PROMPT,
        "max_new_tokens": listener.max_new_tokens or MAX_NEW_TOKENS,
        "decoding": {"do_sample": False, "num_beams": 1},
        "long_audio": "equal windows",
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
        many = [window_edges(len(audio), self._lm.max_audio_s) for audio in audios]
        requests = [
            Request(audio=audio[start:end], text=self._settled["prompt"])
            for audio, edges in zip(audios, many, strict=True)
            for start, end in pairwise(edges)
        ]
        answers = generate(self._lm, requests, self._settled["max_new_tokens"], len(audios))
        left = iter(answers)
        return [_hearing(edges, [next(left) for _ in edges[1:]]) for edges in many]


def _hearing(edges: Sequence[int], answers: Sequence[Generation]) -> Hearing:
    texts = [answer.text.strip() for answer in answers]
    segments = [
        Segment(start_s=start / SAMPLE_RATE_HZ, end_s=end / SAMPLE_RATE_HZ, text=text)
        for (start, end), text in zip(pairwise(edges), texts, strict=True)
        if text and len(answers) > 1
    ]
    return Hearing(
        heard=Heard(text=" ".join(filter(None, texts)), segments=tuple(segments)),
        is_cut=any(answer.finish_reason == "length" for answer in answers),
    )
