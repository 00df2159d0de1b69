"""What a family of audio language models needs of its own: one table line a family.

A family nobody listed is read by transformers' conventions (``UNLISTED``): the class named in its
config, ``config.audio_token_id``, the processor's own feature lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def whisper_pooled_tokens(num_frames: int) -> int:
    """Return the audio tokens for ``num_frames`` mel frames of a Whisper tower pooled by two.

    A convolution of stride 2, then an average pool of stride 2:
    ``A = ((F - 1) // 2 + 1 - 2) // 2 + 1``, 25 tokens a second at 100 frames a second.
    """
    return ((num_frames - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's own facts.

    Attributes:
        name: how messages call it.
        load_class: transformers class to load when the config names a composite model; ``None``
            loads the class the config names.
        audio_token_path: attribute path of the audio placeholder's id, from the model's config.
        variable_frames: whether the tower takes mel features cut to the longest valid length
            (a tower that wants a fixed number of frames does not).
        max_audio_s: seconds the front end can hear; ``None`` asks the feature extractor alone.
        tokens_of_frames: audio tokens for a number of valid mel frames; ``None`` leaves the check
            to the model.
        parts: part name (``audio_tower``, ``projector``, ``language_model``) -> prefixes of
            parameter names; the longest matching prefix decides.
        silent_parts: prefixes of parameters that audio and text never reach.
    """

    name: str
    load_class: str | None = None
    audio_token_path: tuple[str, ...] = ("audio_token_id",)
    variable_frames: bool = False
    max_audio_s: float | None = None
    tokens_of_frames: Callable[[int], int] | None = None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    silent_parts: tuple[str, ...] = ()


UNLISTED = Family(name="unlisted")

_QWEN_OMNI = Family(
    name="Qwen2.5-Omni",
    load_class="Qwen2_5OmniThinkerForConditionalGeneration",
    variable_frames=True,
    max_audio_s=300.0,
    tokens_of_frames=whisper_pooled_tokens,
    parts={
        "audio_tower": ("audio_tower.",),
        "projector": ("audio_tower.proj.",),
        "language_model": ("model.", "lm_head."),
    },
    silent_parts=("visual.", "audio_tower.audio_bos_eos_token."),
)

_QWEN_AUDIO = Family(
    name="Qwen2-Audio",
    max_audio_s=30.0,
    tokens_of_frames=whisper_pooled_tokens,
    parts={
        "audio_tower": ("model.audio_tower.",),
        "projector": ("model.multi_modal_projector.",),
        "language_model": ("model.language_model.", "lm_head."),
    },
)

FAMILIES: Mapping[str, Family] = {
    "Qwen2_5OmniModel": _QWEN_OMNI,
    "Qwen2_5OmniForConditionalGeneration": _QWEN_OMNI,
    "Qwen2_5OmniThinkerForConditionalGeneration": _QWEN_OMNI,
    "Qwen2AudioForConditionalGeneration": _QWEN_AUDIO,
}
"""Architecture named in a config -> family."""


def family_of(architecture: str) -> Family:
    """Return the family of an architecture, ``UNLISTED`` for one the table does not know."""
    return FAMILIES.get(architecture, UNLISTED)
