"""Load an acoustic encoder or audio classifier of transformers: config, front end, weights."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging

from audio_models.blocks import Blocks
from audio_models.encoders.alone import RowsAlone
from audio_models.encoders.encoder import AudioEncoder
from audio_models.encoders.families import EncoderFamily, family_of, hears
from audio_models.encoders.fronts import (
    Convolutions,
    FrontEnd,
    MelFront,
    WaveformFront,
    WhisperFront,
)
from audio_models.encoders.heads import Head, HeadReader, count_tdnn_frames, read_head
from audio_models.frames import FrameShape
from audio_models.load import DTYPES
from cache_schema.errors import ModelError
from cache_schema.fingerprint import check_model_path
from cache_schema.types import FloatArray

_UNREAD = ("masked_spec_embed",)
"""Weights that a checkpoint may lack: they stand in for masked frames in training alone."""


def load_pretrained(model: str, dtype: str) -> AudioEncoder:
    """Load encoder, head and front end of a checkpoint on the CPU, in evaluation mode.

    Args:
        model: local directory or hub id.
        dtype: ``auto`` (as saved) or one of ``DTYPES``.

    Raises:
        ModelError: nothing there, no acoustic encoder, no feature extractor, or weights missing.
    """
    config = load_encoder_config(model)
    family = usable_family(model, config)
    head = read_head(model, config)
    shape = _shape(model, config, head)
    front = _load_front(model, config, family, head)
    network = _load_network(model, config, head, dtype).eval()
    if head.kind == "xvector":
        count_tdnn_frames(network)
    base = network if isinstance(network, WhisperEncoder) else _part(network, family.base)
    return AudioEncoder(
        path=model,
        shape=shape,
        module=network,
        front=front,
        blocks=Blocks(base, shape.num_layers),
        head=HeadReader(network, head),
        alone=_rows_alone(network, family),
    )


def load_encoder_config(model: str) -> Any:
    """Return the transformers configuration of a local directory or hub id.

    Raises:
        ModelError: nothing there, or no readable config.
    """
    check_model_path(model)
    try:
        return transformers.AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {model!r}: neither a local directory nor a model the hub could give: "
            f"{first_line(error)}"
        ) from error


def pretrained_shape(model: str) -> FrameShape:
    """Return what a checkpoint has to give, from its configuration alone.

    Raises:
        ModelError: nothing there, or not an encoder that can be used here.
    """
    config = load_encoder_config(model)
    usable_family(model, config)
    return _shape(model, config, read_head(model, config))


def usable_family(model: str, config: Any) -> EncoderFamily:
    """Return the family of a configuration.

    Raises:
        ModelError: it is no acoustic encoder, or one that cannot be used here.
    """
    if not hears(config.model_type):
        raise ModelError(
            f"model {model!r} ({config.model_type}) is no acoustic encoder or audio classifier "
            "such as wav2vec 2.0, HuBERT, WavLM or Whisper"
        )
    family = family_of(config.model_type)
    if family.refused is not None:
        raise ModelError(
            f"model {model!r} ({config.model_type}) cannot be used here: {family.refused}"
        )
    return family


def _shape(model: str, config: Any, head: Head) -> FrameShape:
    stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    if stored not in DTYPES:
        raise ModelError(f"model {model!r}: stored in {stored}, expected {', '.join(DTYPES)}")
    of_frames = head.kind == "frame"
    return FrameShape(
        num_layers=_setting(model, config, "num_hidden_layers"),
        width=_setting(model, config, "hidden_size"),
        dtype=stored,
        utterance_labels=() if of_frames else head.labels,
        frame_labels=head.labels if of_frames else (),
        multi_label=head.multi_label,
        embedding_width=head.embedding_width,
    )


def _setting(model: str, config: Any, name: str) -> Any:
    value = getattr(config, name, None)
    if value is None:
        raise ModelError(
            f"model {model!r} ({config.model_type}): its config has no {name}, so it does not keep "
            "to the conventions of transformers' acoustic encoders and cannot be read"
        )
    return value


def _load_front(model: str, config: Any, family: EncoderFamily, head: Head) -> FrontEnd:
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {model!r}: no feature extractor could be read ({first_line(error)}); its "
            "directory needs preprocessor_config.json"
        ) from error
    if family.front == "whisper":
        return WhisperFront(model=model, extractor=extractor, config=config)
    if family.front == "mel":
        hop_s = 0.01 * extractor.stride
        return MelFront(model=model, extractor=extractor, hop_s=hop_s, min_frames=head.min_frames)

    def prepare(wave: FloatArray) -> FloatArray:
        made = extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="np")
        row: FloatArray = made["input_values"][0]
        return row

    return WaveformFront(
        model=model,
        prepare=prepare,
        sample_rate_hz=int(extractor.sampling_rate),
        convolutions=Convolutions(
            kernels=_setting(model, config, "conv_kernel"),
            strides=_setting(model, config, "conv_stride"),
            squeeze=getattr(config, "squeeze_factor", 1),
        ),
        min_frames=head.min_frames,
    )


def _load_network(model: str, config: Any, head: Head, dtype: str) -> Any:
    loader, renamed = _loader(model, config, head)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report names the decoder and heads that are left out
    try:
        network, report = loader.from_pretrained(
            model,
            dtype=DTYPES.get(dtype, "auto"),
            output_loading_info=True,
            **({"key_mapping": renamed} if renamed else {}),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"model {model!r}: transformers cannot load it ({first_line(error)})"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_UNREAD))
    if missing:
        raise ModelError(
            f"model {model!r}: its files lack {len(missing)} weights of a {loader.__name__}, such "
            f"as {missing[0]}; random ones would be recorded in their place"
        )
    return network


def _loader(model: str, config: Any, head: Head) -> tuple[Any, dict[str, str]]:
    """Return the class to load and how the checkpoint's names become its own."""
    if head.kind != "none":
        architecture = config.architectures[0]
        if not hasattr(transformers, architecture):
            raise ModelError(f"model {model!r}: transformers has no class {architecture}")
        return getattr(transformers, architecture), {}
    if config.model_type == "whisper":  # the encoder alone: the decoder is never read
        return WhisperEncoder, {r"^(model\.)?encoder\.": ""}
    return transformers.AutoModel, {}


def _part(network: Any, name: str) -> Any:
    """Return the part of a network that holds its blocks."""
    base = getattr(network, network.base_model_prefix, network)
    part = getattr(base, name, None)
    if part is None:
        raise ModelError(f"{type(network).__name__}: it has no part {name!r} to read states from")
    return part


def _rows_alone(network: Any, family: EncoderFamily) -> RowsAlone | None:
    """Let what hears padding run row by row."""
    base = getattr(network, network.base_model_prefix, network)
    front = getattr(base, "feature_extractor", None)
    if front is not None and not _holds(front, nn.GroupNorm):
        front = None
    inner = [
        module
        for name, module in base.named_modules()
        if name.rpartition(".")[2] in family.alone and _holds(module, nn.LayerNorm, nn.BatchNorm1d)
    ]
    return RowsAlone(front, inner) if front is not None or inner else None


def _holds(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(inside, kinds) for inside in module.modules())


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
