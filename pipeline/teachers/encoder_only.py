"""Which text models only encode: they have states of a text they read, and write nothing."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from cache_schema.errors import ModelError


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


def check_engine(model: str, config: Any, engine: str) -> None:
    """Refuse an encoder where a teacher must write, and the reverse.

    Raises:
        ModelError: naming the engine that fits.
    """
    kind = (getattr(config, "architectures", None) or [config.model_type])[0]
    if is_encoder_only(config) and engine != "encoder":
        raise ModelError(
            f"model {model!r} ({kind}) is an encoder and writes no trace, so --engine {engine} "
            "cannot run it; use --engine encoder, which records its states of the description"
        )
    if engine == "encoder" and not is_encoder_only(config):
        raise ModelError(
            f"model {model!r} ({kind}) is no encoder-only text model such as BERT, which is what "
            "--engine encoder reads; use --engine vllm or transformers"
        )
