"""Load an audio language model and its processor, whichever family it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from audio_models.adapters import merge_adapter, merge_loaded
from audio_models.config import architecture_of, load_config
from audio_models.families import UNLISTED, Family, family_of
from audio_models.processors import (
    audio_extractor,
    audio_token_id,
    load_processor,
    longest_audio_s,
)
from cache_schema.errors import ModelError, UsageError, first_line

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
        device: ``auto`` (CUDA where there is one, else MPS, else the CPU), or a torch device.

    Raises:
        ModelError: nothing there, not an audio language model, no processor or no chat template.
        UsageError: unknown dtype, or a device that is not there.
    """
    check_dtype(dtype)
    place = resolve_device(device)
    config = load_config(model)
    architecture = architecture_of(config)
    family = family_of(architecture)
    processor = load_processor(model, family)
    extractor = audio_extractor(processor, model)
    if family is UNLISTED:
        log.warning(
            "%s: %s is not among the families known here; it is read by transformers' conventions",
            model,
            architecture or "its class",
        )
    network = load_network(model, architecture, family, dtype)
    if not hasattr(network, "get_decoder") or not hasattr(network.get_decoder(), "layers"):
        raise ModelError(
            f"model {model!r}: {type(network).__name__} has no language model with blocks "
            "(get_decoder().layers); an audio language model is needed"
        )
    if family.rows_alone is not None:
        family.rows_alone(network)
    network.to(place)
    return AudioLM(
        path=model,
        model=network,
        processor=processor,
        tokenizer=processor.tokenizer,
        family=family,
        num_layers=len(network.get_decoder().layers),
        width=network.config.get_text_config().hidden_size,
        vocab_size=network.get_output_embeddings().weight.shape[0],
        audio_token_id=audio_token_id(network.config, family, model),
        sample_rate_hz=extractor.sampling_rate,
        max_audio_s=longest_audio_s(processor, extractor, family),
    )


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that is not known.

    Raises:
        UsageError: saying which are.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")


def read_num_layers(model: str) -> int:
    """Return the language model's number of blocks from its config, without loading weights.

    Raises:
        ModelError: nothing there, or no language model in the config.
    """
    text = load_config(model).get_text_config()
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        raise ModelError(f"model {model!r}: its config has no language model (num_hidden_layers)")
    return int(text.num_hidden_layers)


def read_dtype(model: str) -> torch.dtype:
    """Return the dtype the weights were saved in, by the config; float32 if it does not say."""
    config = load_config(model)
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32


def resolve_device(device: str) -> torch.device:
    """Return the torch device; ``auto`` is CUDA where there is one, else MPS, else the CPU.

    Nothing is loaded, so it can be asked before anything is.

    Raises:
        UsageError: torch knows no such device, or it is not there; what is there is named.
    """
    if device == "auto" and torch.cuda.is_available():
        return torch.device("cuda")
    if device == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    there = _devices()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"device {device!r}: expected auto, {', '.join(there)} ({first_line(error)})"
        ) from error
    numbered = f"{found.type}:{found.index or 0}" if found.type == "cuda" else found.type
    if numbered not in there or (found.type != "cuda" and found.index):
        raise UsageError(
            f"device {device!r}: torch finds no such device on this machine; there is "
            f"{', '.join(there)}"
        )
    return found


@contextmanager
def telling_dtype(model: str, dtype: str, device: torch.device) -> Iterator[None]:
    """Say what a model was tried in where the first pass, run inside, fails.

    Raises:
        ModelError: the pass failed for another reason than memory.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        advice = "" if dtype == "float32" else "; try float32"
        raise ModelError(
            f"model {model!r} cannot compute in {dtype} on {device} ({first_line(error)}){advice}"
        ) from error


def _devices() -> list[str]:
    """Return the devices that are there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(f"cuda:{index}" for index in range(gpus)), *mps, "cpu"]


def load_network(model: str, architecture: str, family: Family, dtype: str) -> Any:
    """Load the weights on the CPU, adapters merged, in evaluation mode.

    Args:
        model: directory or hub id.
        architecture: the class its configuration names, empty if it names none.
        family: its family.
        dtype: ``auto`` or a key of ``DTYPES``.

    Raises:
        ModelError: no class loads it.
    """
    network = _read_network(model, family.load_class or architecture, dtype)
    merge_loaded(network)
    if family.adapter is not None:
        network = merge_adapter(network, model, family.adapter)
    return network.eval()


def _read_network(model: str, class_name: str, dtype: str) -> Any:
    candidates = [getattr(transformers, class_name, None)] if class_name else []
    candidates += [getattr(transformers, name) for name in _AUTO_CLASSES]
    reasons = []
    for candidate in candidates:
        if candidate is None or not hasattr(candidate, "from_pretrained"):
            continue
        try:
            return candidate.from_pretrained(model, dtype=DTYPES.get(dtype, "auto"))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reasons.append(f"{candidate.__name__}: {first_line(error)}")
    raise ModelError(f"model {model!r}: no class of transformers loads it: {'; '.join(reasons)}")
