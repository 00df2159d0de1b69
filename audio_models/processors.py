"""Load a model's processor, and what it says about audio."""

from __future__ import annotations

import logging
from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_mistral_common_available, is_torchvision_available

from audio_models.audio_halves import HALVES, special_tokens
from audio_models.families import Family
from cache_schema.errors import ModelError, first_line

log = logging.getLogger(__name__)


def load_processor(model: str, family: Family) -> Any:
    """Load a processor that takes audio beside text and renders a chat.

    Args:
        model: directory or hub id.
        family: its family.

    Raises:
        ModelError: there is none, it lacks what a prompt needs, or a package is not installed.
    """
    if family.chat_ids and not is_mistral_common_available():
        raise ModelError(
            f"model {model!r}: {family.name}'s processor needs the package mistral-common, which "
            "is not installed (pip install mistral-common)"
        )
    processor = _read_processor(model, family)
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"model {model!r}: AutoProcessor gives a {type(processor).__name__}, which takes no "
            "audio beside text; an audio language model's processor is needed"
        )
    if not family.chat_ids:
        _require_template(processor, model)
    if processor.tokenizer.pad_token_id is None:
        raise ModelError(f"model {model!r}: the tokenizer has no pad token; set one and save it")
    return processor


def _read_processor(model: str, family: Family) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(model)
    except ImportError as error:
        if is_torchvision_available() or "torchvision" not in str(error).lower():
            raise ModelError(f"model {model!r}: its processor needs {first_line(error)}") from error
        if family.audio_half is None:
            raise ModelError(
                f"model {model!r}: its processor needs torchvision, which is not installed; "
                "install the build that belongs to the torch here (pip install torchvision)"
            ) from error
        return _audio_only_processor(model, family.audio_half)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if family.audio_half is None or "image processor" not in str(error):
            raise ModelError(
                f"model {model!r}: no processor could be read: {first_line(error)}"
            ) from error
        return _audio_only_processor(model, family.audio_half)  # what a half of it saved


def _require_template(processor: Any, model: str) -> None:
    if getattr(processor, "chat_template", None) is None:  # some keep it with the tokenizer
        processor.chat_template = processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise ModelError(
            f"model {model!r}: the processor has no chat template; add chat_template.jinja beside "
            "it (an instruction-tuned checkpoint has one)"
        )


def _audio_only_processor(model: str, half: str) -> Any:
    """Build the audio half of a processor whose image half wants torchvision.

    It computes the same number of audio tokens and the same feature keys.
    """
    log.warning(
        "%s: %s, so the image half of its processor is left out; audio and text are processed the "
        "same",
        model,
        "it has no image processor"
        if is_torchvision_available()
        else "torchvision is not installed",
    )
    settings, _ = ProcessorMixin.get_processor_dict(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    template = settings.get("chat_template") or tokenizer.chat_template
    if template is None:
        raise ModelError(f"model {model!r}: no chat template; add chat_template.jinja beside it")
    return HALVES[half](
        feature_extractor=transformers.AutoFeatureExtractor.from_pretrained(model),
        tokenizer=tokenizer,
        chat_template=template,
        **special_tokens(half, settings, tokenizer),
    )


def audio_extractor(processor: Any, model: str) -> Any:
    """Return the processor's audio front end.

    Raises:
        ModelError: it has none.
    """
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None:
        extractor = getattr(processor, "audio_processor", None)
    if extractor is None or not hasattr(extractor, "sampling_rate"):
        raise ModelError(f"model {model!r}: its processor has no audio feature extractor")
    return extractor


def audio_token_id(config: Any, family: Family, model: str) -> int:
    """Return the placeholder's id from the model's configuration.

    Raises:
        ModelError: it is not where the family has it.
    """
    value = config
    for name in family.audio_token_path:
        value = getattr(value, name, None)
    if not isinstance(value, int):
        raise ModelError(
            f"model {model!r}: config.{'.'.join(family.audio_token_path)} is missing, so audio "
            "positions cannot be found; is it an audio language model?"
        )
    return value


def longest_audio_s(processor: Any, extractor: Any, family: Family) -> float:
    """Return the seconds a front end hears; infinite where nothing limits it."""
    if family.chat_ids:  # as many windows as the recording takes
        return float("inf")
    if family.windows:  # beyond whole windows within its limit the processor cuts
        return float(processor.max_audio_len // extractor.chunk_length * extractor.chunk_length)
    heard = getattr(extractor, "n_samples", None)
    windows = [family.max_audio_s] if family.max_audio_s is not None else []
    windows += [heard / extractor.sampling_rate] if heard else []
    return min(windows, default=float("inf"))
