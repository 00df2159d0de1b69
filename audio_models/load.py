"""Load an audio language model and its processor, whichever family it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_torchvision_available

from audio_models.adapters import merge_adapter, merge_loaded
from audio_models.audio_halves import HALVES, special_tokens
from audio_models.families import Family, family_of
from cache_schema.errors import ModelError, UsageError
from cache_schema.fingerprint import check_model_path

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_AUTO_CLASSES = ("AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM")


@dataclass(frozen=True, kw_only=True)
class AudioLM:
    """An audio language model ready to run.

    Attributes:
        path: directory or hub id, as given.
        model: the transformers model, in evaluation mode.
        processor: text + audio -> model inputs; holds the chat template.
        tokenizer: the processor's tokenizer.
        family: what the family needs of its own.
        num_layers: blocks of the language model.
        width: hidden size of the language model.
        vocab_size: rows of the unembedding, padding rows included.
        audio_token_id: the placeholder one audio position stands on.
        sample_rate_hz: what the feature extractor expects.
        max_audio_s: seconds the front end can hear.
    """

    path: str
    model: Any
    processor: Any
    tokenizer: Any
    family: Family
    num_layers: int
    width: int
    vocab_size: int
    audio_token_id: int
    sample_rate_hz: int
    max_audio_s: float

    @property
    def device(self) -> torch.device:
        """Device of the model's first parameter."""
        parameter: torch.nn.Parameter = next(self.model.parameters())
        return parameter.device


def load_audio_lm(model: str, dtype: str = "auto", device: str = "auto") -> AudioLM:
    """Load model and processor.

    The class is the family's, else the one ``config.architectures[0]`` names, else what
    transformers' multimodal and sequence-to-sequence mappings choose.

    Args:
        model: local directory or hub id in transformers' layout.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA where there is one), or a torch device.

    Raises:
        ModelError: nothing there, not an audio language model, no processor or no chat template.
        UsageError: unknown dtype.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
    config = _load_config(model)
    architecture = (getattr(config, "architectures", None) or [""])[0]
    family = family_of(architecture)
    if family.refused is not None:
        raise ModelError(f"model {model!r}: {family.name} cannot be used: {family.refused}")
    processor = _load_processor(model, family)
    network = _load_network(model, family.load_class or architecture, dtype)
    merge_loaded(network)
    if family.adapter is not None:
        network = merge_adapter(network, model, family.adapter)
    network.eval()
    if family.rows_alone is not None:
        family.rows_alone(network)
    network.to(resolve_device(device))
    extractor = _require_audio_processor(processor, model)
    return AudioLM(
        path=model,
        model=network,
        processor=processor,
        tokenizer=processor.tokenizer,
        family=family,
        num_layers=len(network.get_decoder().layers),
        width=network.config.get_text_config().hidden_size,
        vocab_size=network.get_output_embeddings().weight.shape[0],
        audio_token_id=_audio_token_id(network.config, family, model),
        sample_rate_hz=extractor.sampling_rate,
        max_audio_s=_max_audio_s(processor, extractor, family),
    )


def read_num_layers(model: str) -> int:
    """Return the language model's number of blocks from its config, without loading weights.

    Raises:
        ModelError: nothing there, or no language model in the config.
    """
    text = _load_config(model).get_text_config()
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        raise ModelError(f"model {model!r}: its config has no language model (num_hidden_layers)")
    return int(text.num_hidden_layers)


def read_dtype(model: str) -> torch.dtype:
    """Return the dtype the weights were saved in, by the config; float32 if it does not say."""
    config = _load_config(model)
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32


def resolve_device(device: str) -> torch.device:
    """Return the torch device; ``auto`` is CUDA where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_config(model: str) -> Any:
    check_model_path(model)
    try:
        return transformers.AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {model!r}: neither a local directory nor a model the hub could give: "
            f"{_first_line(error)}"
        ) from error


def _load_network(model: str, class_name: str, dtype: str) -> Any:
    candidates = [getattr(transformers, class_name, None)] if class_name else []
    candidates += [getattr(transformers, name) for name in _AUTO_CLASSES]
    reasons = []
    for candidate in candidates:
        if candidate is None or not hasattr(candidate, "from_pretrained"):
            continue
        try:
            network = candidate.from_pretrained(model, dtype=DTYPES.get(dtype, "auto"))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reasons.append(f"{candidate.__name__}: {_first_line(error)}")
            continue
        if not hasattr(network, "get_decoder") or not hasattr(network.get_decoder(), "layers"):
            raise ModelError(
                f"model {model!r}: {type(network).__name__} has no language model with blocks "
                "(get_decoder().layers); an audio language model is needed"
            )
        return network
    raise ModelError(f"model {model!r}: no class of transformers loads it: {'; '.join(reasons)}")


def _load_processor(model: str, family: Family) -> Any:
    try:
        processor = transformers.AutoProcessor.from_pretrained(model)
    except ImportError as error:
        if is_torchvision_available() or "torchvision" not in str(error).lower():
            raise ModelError(
                f"model {model!r}: its processor needs {_first_line(error)}"
            ) from error
        if family.audio_half is None:
            raise ModelError(
                f"model {model!r}: its processor needs torchvision, which is not installed; "
                "install the build that belongs to the torch here (pip install torchvision)"
            ) from error
        processor = _audio_only_processor(model, family.audio_half)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if family.audio_half is None or "image processor" not in str(error):
            raise ModelError(
                f"model {model!r}: no processor could be read: {_first_line(error)}"
            ) from error
        processor = _audio_only_processor(model, family.audio_half)  # what a half of it saved
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"model {model!r}: AutoProcessor gives a {type(processor).__name__}, which takes no "
            "audio beside text; an audio language model's processor is needed"
        )
    if getattr(processor, "chat_template", None) is None:  # some keep it with the tokenizer
        processor.chat_template = processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise ModelError(
            f"model {model!r}: the processor has no chat template; add chat_template.jinja beside "
            "it (an instruction-tuned checkpoint has one)"
        )
    if processor.tokenizer.pad_token_id is None:
        raise ModelError(f"model {model!r}: the tokenizer has no pad token; set one and save it")
    return processor


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


def _require_audio_processor(processor: Any, model: str) -> Any:
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None:
        extractor = getattr(processor, "audio_processor", None)
    if extractor is None or not hasattr(extractor, "sampling_rate"):
        raise ModelError(f"model {model!r}: its processor has no audio feature extractor")
    return extractor


def _audio_token_id(config: Any, family: Family, model: str) -> int:
    value = config
    for name in family.audio_token_path:
        value = getattr(value, name, None)
    if not isinstance(value, int):
        raise ModelError(
            f"model {model!r}: config.{'.'.join(family.audio_token_path)} is missing, so audio "
            "positions cannot be found; is it an audio language model?"
        )
    return value


def _max_audio_s(processor: Any, extractor: Any, family: Family) -> float:
    if family.windows:  # beyond whole windows within its limit the processor cuts
        return float(processor.max_audio_len // extractor.chunk_length * extractor.chunk_length)
    heard = getattr(extractor, "n_samples", None)
    windows = [family.max_audio_s] if family.max_audio_s is not None else []
    windows += [heard / extractor.sampling_rate] if heard else []
    return min(windows, default=float("inf"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
