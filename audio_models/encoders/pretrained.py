"""Load an acoustic encoder or audio classifier of transformers: config, front end, weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging

from audio_models.blocks import Blocks
from audio_models.config import architecture_of, load_config
from audio_models.encoders.alone import RowsAlone
from audio_models.encoders.encoder import AudioEncoder
from audio_models.encoders.families import EncoderFamily, family_of, hears
from audio_models.encoders.fronts import (
    Convolutions,
    FrontEnd,
    MelFront,
    WaveformFront,
)
from audio_models.encoders.heads import Head, HeadReader, count_tdnn_frames, read_head, say_left_out
from audio_models.encoders.windows import patch_grid, spectrogram_window, whisper_window
from audio_models.frames import FrameShape
from audio_models.load import DTYPES
from cache_schema.errors import ModelError, first_line
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
    config = load_config(model)
    family = usable_family(model, config)
    head = read_head(model, config)
    shape = _shape(model, config, head)
    front = _load_front(model, config, family, head)
    # a config without a dtype says float32, whatever the weights are stored in
    network = _load_network(model, config, head, shape.dtype if dtype == "auto" else dtype).eval()
    if head.kind == "xvector":
        count_tdnn_frames(network)
    return AudioEncoder(
        path=model,
        shape=shape,
        module=network,
        front=front,
        blocks=Blocks(_part(network, config, family.base), shape.num_layers),
        head=HeadReader(network, head),
        alone=_rows_alone(network, family),
        fold=_column_means(config) if family.front == "spectrogram" else None,
    )


def pretrained_shape(model: str) -> FrameShape:
    """Return what a checkpoint has to give, from its configuration alone.

    Raises:
        ModelError: nothing there, or not an encoder that can be used here.
    """
    config = load_config(model)
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
        return whisper_window(model, extractor, config)
    if family.front == "spectrogram":
        return spectrogram_window(model, extractor, config)
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
            dtype=DTYPES[dtype],
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
    say_left_out(model, config, report["unexpected_keys"])
    return network


def _loader(model: str, config: Any, head: Head) -> tuple[Any, dict[str, str]]:
    """Return the class to load and how the checkpoint's names become its own."""
    if head.kind != "none":
        architecture = architecture_of(config)
        if not hasattr(transformers, architecture):
            raise ModelError(f"model {model!r}: transformers has no class {architecture}")
        return getattr(transformers, architecture), {}
    if config.model_type == "whisper":  # the encoder alone: the decoder is never read
        return WhisperEncoder, {r"^(model\.)?encoder\.": ""}
    return transformers.AutoModel, {}


def _part(network: Any, config: Any, name: str) -> Any:
    """Return the part of a network that holds its blocks."""
    encoder = _encoder_of(network)
    part = getattr(encoder, name, None) if name else encoder
    if part is None:
        raise ModelError(
            f"{type(network).__name__} ({config.model_type}): it has no part {name!r} to read "
            "states from, so it does not keep to the conventions of acoustic encoders"
        )
    return part


def _encoder_of(network: Any) -> Any:
    """Return the encoder of a network that may have a head."""
    if network.config.model_type == "whisper":
        return getattr(network, "encoder", network)
    return getattr(network, network.base_model_prefix, network)


def _column_means(config: Any) -> Callable[[Tensor], Tensor]:
    """Return what makes frames of patches: the mean over each column, one moment's frequencies.

    The two tokens before the patches, which stand for the whole recording, are left out.
    """
    grid = patch_grid(config)

    def fold(states_BTD: Tensor) -> Tensor:
        patches_BPD = states_BTD[:, 2:]
        means_BFD: Tensor = patches_BPD.unflatten(1, grid).mean(1)
        return means_BFD

    return fold


def _rows_alone(network: Any, family: EncoderFamily) -> RowsAlone | None:
    """Let what hears padding run row by row."""
    base = _encoder_of(network)
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
