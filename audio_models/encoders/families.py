"""What a family of acoustic encoders needs of its own: one table line a family.

A family that hears but is not listed is taken to keep wav2vec 2.0's conventions (``UNLISTED``):
waveforms in, ``config.conv_kernel`` and ``config.conv_stride``, blocks in ``encoder``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
)


@dataclass(frozen=True, kw_only=True)
class EncoderFamily:
    """One family's own facts.

    Attributes:
        front: ``waveform``, ``mel`` (features of any length), ``whisper`` (a window of mel frames)
            or ``spectrogram`` (a window cut into patches).
        base: module of the encoder that holds the blocks; empty where it is the encoder itself.
        alone: names of modules whose norms or convolutions hear padding that no mask leaves out;
            those of them that hold a norm run row by row (``audio_models.encoders.alone``).
        refused: why a family cannot be used here, and what to do; ``None`` if it can.
    """

    front: Literal["waveform", "mel", "whisper", "spectrogram"] = "waveform"
    base: str = "encoder"
    alone: tuple[str, ...] = ()
    refused: str | None = None


UNLISTED = EncoderFamily()

_PACKED = EncoderFamily(
    refused=(
        "its encoder is part of a recogniser with a front end of its own; use wav2vec 2.0, HuBERT, "
        "WavLM, Whisper or one of their kin"
    )
)

FAMILIES: Mapping[str, EncoderFamily] = {
    "wav2vec2": UNLISTED,
    "hubert": EncoderFamily(alone=("pos_conv_embed",)),  # some checkpoints with a batch norm
    "wavlm": UNLISTED,
    "unispeech": UNLISTED,
    "unispeech-sat": UNLISTED,
    "sew": UNLISTED,  # two vectors to a state: one of them may be padding, and no mask says so
    "sew-d": UNLISTED,
    "data2vec-audio": EncoderFamily(alone=("pos_conv_embed",)),
    "wav2vec2-conformer": EncoderFamily(alone=("conv_module",)),
    "wav2vec2-bert": EncoderFamily(front="mel"),
    "whisper": EncoderFamily(front="whisper", base=""),
    "audio-spectrogram-transformer": EncoderFamily(front="spectrogram", base=""),
    "granite_speech5_ctc": _PACKED,
    "lasr_ctc": _PACKED,
    "parakeet_ctc": _PACKED,
    "nemotron3_diarization": _PACKED,
}
"""``model_type`` in a config -> family."""

_HEARING = (
    *FAMILIES,
    *MODEL_FOR_CTC_MAPPING_NAMES,
    *MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    *MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES,
    *MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES,
)


def hears(model_type: str) -> bool:
    """Return whether models of this type are acoustic encoders, usable here or not."""
    return model_type in _HEARING


def family_of(model_type: str) -> EncoderFamily:
    """Return the family of a model type, ``UNLISTED`` for one the table does not know."""
    return FAMILIES.get(model_type, UNLISTED)
