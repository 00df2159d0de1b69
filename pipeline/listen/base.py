"""What a listening model must answer, and which kind of listener a model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from audio_models.config import load_config
from audio_models.encoders.families import hears
from audio_models.encoders.heads import read_head
from audio_models.families import FAMILIES
from cache_schema.errors import ModelError
from cache_schema.types import FloatArray, Heard
from pipeline.teachers.describe import DTYPES
from pipeline.textualize_recipe import ListenRecipe


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """What was heard in one recording, and whether the model was cut short at its last token."""

    heard: Heard
    is_cut: bool


class Listener(Protocol):
    """A model in memory."""

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        """Listen to a batch of recordings, float32 [num_samples] each, 16 kHz.

        What is heard in one does not depend on the others, rounding aside.

        Raises:
            AudioError: a recording cannot be heard.
        """


def kind_of(column: str, listener: ListenRecipe) -> tuple[str, Any]:
    """Return ``asr``, ``caption`` or ``classify``, and the model's configuration.

    Raises:
        ModelError: the model does not exist, does not listen, or is not of the kind asked for.
    """
    where = f"textualize.listen.{column}: model {listener.model!r}"
    config = load_config(listener.model)
    if hears(config.model_type) and read_head(listener.model, config).labels:
        found = "classify"
    elif config.model_type == "whisper":
        found = "asr"
    elif _is_audio_lm(config):
        found = "caption"
    else:
        raise ModelError(
            f"{where}: a {config.model_type!r} model does not listen; expected a Whisper model "
            "(asr), an audio language model (caption), or an encoder with a classifier's head "
            "(classify)"
        )
    if listener.kind not in ("auto", found):
        raise ModelError(f"{where}: kind {listener.kind!r}, and it is a model for {found!r}")
    return found, config


def _is_audio_lm(config: Any) -> bool:
    architecture = (getattr(config, "architectures", None) or [""])[0]
    names = ("audio_config", "audio_token_id", "audio_token_index")
    return architecture in FAMILIES or any(hasattr(config, name) for name in names)


def dtype_of(listener: ListenRecipe, config: Any) -> str:
    """Return the dtype to compute in; ``auto`` is the one the weights are stored in.

    Raises:
        ModelError: the weights are stored in one that is not computed in.
    """
    if listener.dtype != "auto":
        return listener.dtype
    text = config.get_text_config()
    stored = getattr(text, "dtype", None) or getattr(config, "dtype", None) or "float32"
    name = str(stored).removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError(f"model {listener.model!r}: stored in {name}; give dtype={DTYPES[0]}, say")
    return name
