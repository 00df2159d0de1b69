"""Who listens for which column, and how: settled, and told on the tape, before a model loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cache_schema import layout
from cache_schema.fingerprint import digest_files
from cache_schema.maker import GroupInfo
from cache_schema.signals import HEARD
from pipeline.listen import asr, caption, classify
from pipeline.listen.base import Listener, dtype_of, kind_of
from pipeline.step import notes
from pipeline.teachers.describe import describe_model, load_tokenizer
from pipeline.teachers.describe_audio import describe_audio_encoder
from pipeline.textualize_recipe import ListenRecipe

SETTINGS_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files of a model directory that change what is heard and are no weights."""


LISTENERS: dict[str, Callable[[str, str, str, Mapping[str, Any]], Listener]] = {
    "asr": asr.WhisperListener,
    "caption": caption.CaptionListener,
    "classify": classify.ClassifyListener,
}


@dataclass(frozen=True, kw_only=True)
class Listening:
    """One listener, everything settled.

    Attributes:
        column: the column it fills.
        kind: ``asr``, ``caption`` or ``classify``.
        model: directory or hub id.
        dtype: what it computes in.
        device: as in the recipe.
        batch_size: recordings heard together, at first.
        settled: prompt, language, decoding, classes: what the text depends on besides the model.
        info: what the tape says of it.
    """

    column: str
    kind: str
    model: str
    dtype: str
    device: str
    batch_size: int
    settled: Mapping[str, Any]
    info: GroupInfo


def settle(column: str, listener: ListenRecipe) -> tuple[str, str, dict[str, Any]]:
    """Return a listener's kind, dtype and settings; reads configurations only.

    Raises:
        ModelError: the model does not exist, does not listen, or is incomplete.
        UsageError: a setting does not go with it.
    """
    kind, config = kind_of(column, listener)
    if kind == "asr":
        settled = asr.settle(column, listener, config)
    elif kind == "classify":
        settled = classify.settle(column, listener)
    else:
        settled = caption.settle(column, listener)
    return kind, dtype_of(listener, config), settled


def plan(column: str, listener: ListenRecipe) -> Listening:
    """Settle one listener; hashes the weights of a local model.

    Raises:
        ModelError: as ``settle``, or there are no weights.
        UsageError: as ``settle``.
    """
    kind, dtype, settled = settle(column, listener)
    about = _describe(kind, listener.model)
    info = GroupInfo(
        group=layout.heard_group(column),
        kind=HEARD,
        identity={
            **{key: value for key, value in about.items() if key != "model"},
            "listener": kind,
            "engine": "transformers",
            "dtype": dtype,
            **settled,
        },
        notes=notes({"model": listener.model, "engine_version": version("transformers")}),
    )
    return Listening(
        column=column,
        kind=kind,
        model=listener.model,
        dtype=dtype,
        device=listener.device,
        batch_size=listener.batch_size,
        settled=settled,
        info=info,
    )


def load(listening: Listening) -> Listener:
    """Load the model.

    Raises:
        ModelError: it cannot be loaded.
    """
    return LISTENERS[listening.kind](
        listening.model, listening.dtype, listening.device, listening.settled
    )


def _describe(kind: str, model: str) -> dict[str, Any]:
    """Return what identifies a model, its front end's settings too: JSON values."""
    if kind == "classify":
        return describe_audio_encoder(model)
    about = describe_model(model, load_tokenizer(model))
    return {**about, "settings_digest": _settings_digest(model)}


def _settings_digest(model: str) -> str:
    """Return the hash of a local model's settings; a hub model's commit says them too."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ""
    return digest_files([folder / name for name in SETTINGS_FILES if (folder / name).is_file()])
