"""Which text models only encode: they have states of a text they read, and write nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from audio_models.config import load_config
from cache_schema.errors import ModelError, UsageError
from pipeline.textual_recipe import TextualRecipe

USED = ("teacher", "engine", "layers", "dtype", "max_model_len", "batch_samples", "top_k")
"""Settings that may be given; ``--top-k`` is the acoustic teacher's as well."""


def is_encoder_only(config: Any) -> bool:
    """Return whether a model reads in both directions and cannot continue a text.

    The family has a head that fills in masked tokens, and the checkpoint is not of the class by
    which some of these families (BERT, RoBERTa, ELECTRA, ...) can also be trained as decoders.

    Args:
        config: its transformers configuration.
    """
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        return False
    architecture = (getattr(config, "architectures", None) or [""])[0]
    writes = architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not writes


def check_textual(textual: TextualRecipe) -> None:
    """Refuse an encoder where a teacher must write, the reverse, and settings without a use.

    Raises:
        ModelError: the model cannot be read, or is not for this engine.
        UsageError: a setting is given that an encoder has no use for.
    """
    config = load_config(textual.teacher)
    name = (getattr(config, "architectures", None) or [config.model_type])[0]
    model = f"model {textual.teacher!r} ({name})"
    if textual.engine != "encoder":
        if is_encoder_only(config):
            raise ModelError(
                f"{model} is an encoder and writes no trace, so --engine {textual.engine} cannot "
                "run it; use --engine encoder, which records its states of the description"
            )
        return
    if not is_encoder_only(config):
        raise ModelError(
            f"{model} is no encoder-only text model such as BERT, which is what --engine encoder "
            "reads; use --engine vllm or transformers"
        )
    _refuse_unused(textual)


def _refuse_unused(textual: TextualRecipe) -> None:
    """Refuse settings of traces and logits, of which an encoder has none."""
    default = TextualRecipe()
    for field in fields(TextualRecipe):
        given = getattr(textual, field.name)
        if field.name not in USED and given != getattr(default, field.name):
            raise UsageError(
                f"textual.{field.name} = {given!r}: means nothing with --engine encoder, which "
                "reads the description as it stands and writes no trace; leave it out"
            )
