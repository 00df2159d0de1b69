"""Load an acoustic encoder or audio classifier of transformers or torchaudio as a frame model.

``torchaudio:NAME`` names a pipeline of torchaudio (``audio_models.encoders.bundles``); anything
else is a local directory or hub id in transformers' layout.
"""

from __future__ import annotations

import torch

from audio_models.config import load_config
from audio_models.encoders.bundles import PREFIX, bundle_shape, load_bundle
from audio_models.encoders.families import hears
from audio_models.encoders.pretrained import (
    load_pretrained,
    pretrained_shape,
)
from audio_models.encoders.probe import check_states, hears_padding
from audio_models.frames import FrameModel, FrameShape
from audio_models.load import DTYPES, check_dtype, resolve_device, telling_dtype


def is_audio_encoder(model: str) -> bool:
    """Return whether a model is an acoustic encoder or audio classifier; reads its config only.

    Whisper is one; an audio language model, which has an encoder inside, is not.

    Raises:
        ModelError: nothing there, or no readable config.
    """
    if model.startswith(PREFIX):
        return True
    return hears(load_config(model).model_type)


def encoder_shape(model: str) -> FrameShape:
    """Return what an encoder has to give, from its configuration alone.

    Raises:
        ModelError: nothing there, or not an encoder that can be used here.
    """
    if model.startswith(PREFIX):
        return bundle_shape(model)
    return pretrained_shape(model)


def load_audio_encoder(model: str, dtype: str = "auto", device: str = "auto") -> FrameModel:
    """Load an encoder, with the head its checkpoint has, and try it.

    Args:
        model: local directory, hub id, or ``torchaudio:NAME``.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` or a torch device.

    Raises:
        ModelError: nothing there, no acoustic encoder, no feature extractor, weights missing, a
            family whose states cannot be read, or a dtype it cannot compute in.
        UsageError: unknown dtype, or a device that is not there.
    """
    check_dtype(dtype)
    place = resolve_device(device)
    if model.startswith(PREFIX):
        encoder = load_bundle(model, DTYPES.get(dtype, torch.float32))
    else:
        encoder = load_pretrained(model, dtype)
    encoder.may_pad = not hears_padding(encoder)
    encoder.module.to(place)
    with telling_dtype(model, dtype, encoder.device):
        check_states(encoder)
    return encoder
