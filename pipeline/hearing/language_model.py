"""The acoustic teacher as an audio language model: what it is read on, and what is recorded."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from audio_models.config import load_config
from audio_models.load import load_audio_lm
from audio_models.reported import check_lm_states
from cache_schema import Tape
from cache_schema.errors import UsageError
from cache_schema.layers import parse_layers
from cache_schema.maker import GroupInfo
from pipeline.acoustic_recipe import FRAMES_ONLY, AcousticRecipe
from pipeline.facts import hidden_facts, logits_facts
from pipeline.hearing.group import Plan, acoustic_group
from pipeline.recipe import ExtractRecipe
from pipeline.responses import Responses
from pipeline.step import kept_logits
from pipeline.teachers.base import Wanted
from pipeline.teachers.describe import (
    TextShape,
    describe_model,
    load_tokenizer,
    resolve_dtype,
    text_shape,
)
from pipeline.teachers.hf_acoustic import AudioLMTeacher


def settle(acoustic: AcousticRecipe) -> tuple[TextShape, tuple[int, ...], Wanted]:
    """Return the model's sizes, the layers at audio positions and the signals of a response.

    Raises:
        ModelError: there is no such model.
        UsageError: a setting does not go with it.
    """
    acoustic.refuse_given(FRAMES_ONLY, "an audio language model")
    shape = text_shape(load_config(acoustic.teacher))
    layers = parse_layers(acoustic.layers, shape.num_layers)
    lens = parse_layers(acoustic.lens, shape.num_layers)
    kept = min(acoustic.lens_top_k, shape.vocab_size)
    wanted = Wanted(
        top_k=min(acoustic.top_k, shape.vocab_size),
        layers=layers if acoustic.states_at in ("response", "both") else (),
        lens=lens,
        lens_top_k=kept,
        draws=acoustic.draws,
    )
    return shape, layers if acoustic.states_at in ("audio", "both") else (), wanted


def plan(recipe: ExtractRecipe, tape: Tape) -> Plan:
    """Settle the teacher; see ``pipeline.hearing.plan.plan``.

    Raises:
        ModelError: there is no such model, or its dtype is unknown.
        UsageError: a setting does not go with it, or nothing is left to record.
    """
    acoustic = recipe.acoustic
    shape, audio_layers, wanted = settle(acoustic)
    kept_logits("acoustic", acoustic.top_k, shape.vocab_size)
    if wanted.lens:
        kept_logits("acoustic lens", acoustic.lens_top_k, shape.vocab_size)
    tokenizer = load_tokenizer(acoustic.teacher)
    about = describe_model(acoustic.teacher, tokenizer)
    reads = bool(wanted.top_k or wanted.lens or wanted.draws or wanted.layers)
    responses = Responses(tape, tokenizer, about["tokenizer_digest"], wanted=reads)
    info = group_info(recipe, about, shape, audio_layers, wanted, responses.origin)
    dtype = info.identity["dtype"]

    def load() -> AudioLMTeacher:
        lm = load_audio_lm(acoustic.teacher, dtype, acoustic.device)
        check_lm_states(lm)
        return AudioLMTeacher(lm, audio_layers, wanted)

    return Plan(info=info, responses=responses, with_states=bool(audio_layers), load=load)


def group_info(
    recipe: ExtractRecipe,
    about: dict[str, Any],
    shape: TextShape,
    audio_layers: tuple[int, ...],
    wanted: Wanted,
    origin: str,
) -> GroupInfo:
    """Return who makes the signals; ``origin`` says where the responses come from.

    Raises:
        UsageError: nothing is left to record.
    """
    acoustic = recipe.acoustic
    if not audio_layers and origin == "none":
        raise UsageError(
            "--acoustic-layers none (or states_at=response) leaves nothing to record: "
            + ("there are no responses" if acoustic.top_k else "top-k is 0 as well")
        )
    signals: dict[str, dict[str, Any]] = {}
    if origin != "none":
        signals = logits_facts(recipe, wanted)
    if audio_layers or (wanted.layers and origin != "none"):
        layers = audio_layers or wanted.layers
        signals["hidden"] = hidden_facts(recipe, layers, shape.width)
    identity: dict[str, Any] = {
        "engine": "transformers",
        "dtype": resolve_dtype(acoustic.dtype, shape),
        "num_layers": shape.num_layers,
        "width": shape.width,
        "vocab_size": shape.vocab_size,
        "responses": origin,
    }
    if acoustic.states_at != "audio":
        identity["states_at"] = acoustic.states_at
    if wanted.draws:
        identity["seed"] = recipe.seed
    return acoustic_group(recipe, signals, about, identity, version("transformers"))
