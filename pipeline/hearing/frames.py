"""The acoustic teacher as an encoder, a classifier or an audio tower: what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from audio_models.encoders.bundles import PREFIX
from audio_models.encoders.load import encoder_shape, load_audio_encoder
from audio_models.frames import FrameShape
from audio_models.tower import load_audio_tower, tower_shape
from cache_schema.commands.console import say
from cache_schema.errors import ModelError, UsageError
from cache_schema.layers import parse_layers
from cache_schema.maker import GroupInfo
from pipeline.acoustic_recipe import LANGUAGE_MODEL_ONLY, AcousticRecipe
from pipeline.facts import hidden_facts
from pipeline.hearing.group import Plan, acoustic_group
from pipeline.listen.classes import settle_multi_label
from pipeline.recipe import ExtractRecipe
from pipeline.teachers.describe import DTYPES
from pipeline.teachers.describe_audio import describe_audio_encoder
from pipeline.teachers.hf_frames import HEAD, MEAN, NONE, FrameTeacher
from pipeline.textualize_recipe import LEAST_CHUNK_S


def settle(acoustic: AcousticRecipe) -> tuple[FrameShape, tuple[int, ...], str]:
    """Return what the model has to give, the layers, and where the pooled embedding comes from.

    Raises:
        ModelError: there is no such model, or its dtype is unknown.
        UsageError: a setting does not go with it.
    """
    is_tower = acoustic.part == "audio_tower"
    kind = "an audio tower" if is_tower else "an audio encoder"
    acoustic.refuse_given(LANGUAGE_MODEL_ONLY, kind)
    shape = (tower_shape if is_tower else encoder_shape)(acoustic.teacher)
    if shape.utterance_labels or shape.frame_labels:
        asked = acoustic.multi_label
        multi_label = settle_multi_label(acoustic.teacher, shape, asked, "acoustic")
        shape = replace(shape, multi_label=multi_label)
    elif acoustic.multi_label is not None:
        acoustic.refuse_given(("multi_label",), "an encoder without classes")
    embedding = acoustic.embedding
    if embedding == "auto":
        embedding = HEAD if shape.embedding_width else NONE
    of_whole = bool(shape.utterance_labels) or embedding == HEAD
    if acoustic.chunk_s and acoustic.chunk_s < LEAST_CHUNK_S:
        raise UsageError(f"acoustic.chunk_s: expected 0 or at least {LEAST_CHUNK_S:g} s")
    if acoustic.chunk_s and of_whole:
        raise UsageError(
            f"acoustic.chunk_s={acoustic.chunk_s:g}: {acoustic.teacher} judges a whole recording, "
            "which cannot be put together from pieces; leave it out"
        )
    return shape, parse_layers(acoustic.layers, shape.num_layers), embedding


def plan(recipe: ExtractRecipe) -> Plan:
    """Settle the teacher; see ``pipeline.hearing.plan.plan``.

    Raises:
        ModelError: there is no such model, or its dtype is unknown.
        UsageError: a setting does not go with it, or nothing is left to record.
    """
    acoustic = recipe.acoustic
    shape, layers, embedding = settle(acoustic)
    if acoustic.top_k != AcousticRecipe.top_k and not recipe.textual.teacher:
        say(f"{acoustic.name}: --top-k {acoustic.top_k} means nothing here: frames have no tokens")
    info = group_info(recipe, describe_audio_encoder(acoustic.teacher), shape, layers, embedding)
    load_model = load_audio_tower if acoustic.part == "audio_tower" else load_audio_encoder
    dtype = info.identity["dtype"]

    def load() -> FrameTeacher:
        model = load_model(acoustic.teacher, dtype, acoustic.device)
        if acoustic.chunk_s > model.max_audio_s:
            raise UsageError(
                f"acoustic.chunk_s={acoustic.chunk_s:g}: {acoustic.teacher} hears "
                f"{model.max_audio_s:g} s at once; give that or less"
            )
        return FrameTeacher(model, layers, embedding, acoustic.chunk_s)

    return Plan(info=info, responses=None, with_states=True, load=load)


def group_info(
    recipe: ExtractRecipe,
    about: Mapping[str, Any],
    shape: FrameShape,
    layers: tuple[int, ...],
    embedding: str,
) -> GroupInfo:
    """Return who makes the signals.

    Raises:
        ModelError: the dtype is unknown.
        UsageError: nothing is left to record.
    """
    acoustic = recipe.acoustic
    signals: dict[str, dict[str, Any]] = {}
    if layers:
        signals["hidden"] = hidden_facts(recipe, layers, shape.width)
    for name, labels in (
        ("utterance_logits", shape.utterance_labels),
        ("frame_logits", shape.frame_labels),
    ):
        if labels:
            signals[name] = {"labels": list(labels), "multi_label": shape.multi_label}
    if embedding == HEAD:
        signals["embedding"] = {"width": shape.embedding_width, "pooling": "head"}
    elif embedding == MEAN:
        pooling = f"mean of layer {shape.num_layers}"
        signals["embedding"] = {"width": shape.width, "pooling": pooling}
    if not signals:
        raise UsageError(
            "--acoustic-layers none leaves nothing to record: the encoder has no head, and "
            "acoustic.embedding is not mean"
        )
    dtype = shape.dtype if acoustic.dtype == "auto" else acoustic.dtype
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
    library = "torchaudio" if acoustic.teacher.startswith(PREFIX) else "transformers"
    identity = {
        "engine": library,
        "part": acoustic.part,
        "dtype": dtype,
        "num_layers": shape.num_layers,
        "width": shape.width,
        "chunk_s": acoustic.chunk_s,
    }
    return acoustic_group(recipe, signals, about, identity, version(library))
