"""What a family of audio language models needs of its own: one table line a family.

A family nobody listed is read by transformers' conventions (``UNLISTED``): the class named in its
config, ``config.audio_token_id``, the processor's own feature lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from audio_models import tower_layouts
from audio_models.rows_alone import granite_alone, phi_alone, qwen3_omni_alone
from audio_models.tower_layouts import TowerLayout


def whisper_pooled_tokens(num_frames: int) -> int:
    """Return the audio tokens for ``num_frames`` mel frames of a Whisper tower pooled by two.

    A convolution of stride 2, then an average pool of stride 2:
    ``A = ((F - 1) // 2 + 1 - 2) // 2 + 1``, 25 tokens a second at 100 frames a second.
    """
    return ((num_frames - 1) // 2 + 1 - 2) // 2 + 1


def whisper_merged_tokens(num_frames: int) -> int:
    """Return the audio tokens for ``num_frames`` mel frames, halved and then merged by four.

    12.5 tokens a second; a rest of fewer than four is left out, as the towers do.
    """
    return ((num_frames - 1) // 2 + 1) // 4


def qwen3_omni_tokens(num_frames: int) -> int:
    """Return the audio tokens for ``num_frames`` mel frames: three convolutions of stride 2.

    They run on pieces of 100 frames, 13 tokens each; what is left over is a piece of its own.
    """
    left = num_frames % 100
    for _ in range(3):
        left = (left + 1) // 2
    return num_frames // 100 * 13 + left


def voxtral_tokens(num_frames: int) -> int:
    """Return the audio tokens for ``num_frames`` mel frames: 375 for each begun window of 30 s."""
    return -(-num_frames // 3000) * 375


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
        windows: whether the processor cuts a long recording into windows of the feature extractor's
            length, up to the whole windows in its own ``max_audio_len``.
        frame_mask: the audio input that masks valid mel frames.
        tokens_of_frames: audio tokens for a number of valid mel frames; ``None`` leaves the check
            to the model.
        tokens_are_frames: whether its audio tokens are the tower's frames, with their seconds.
        seconds_per_token: seconds an audio token stands for where the last ones stand for silence
            behind the recording; ``None`` where the tokens end with the recording.
        rows_alone: makes a network's audio tower hear each row of a batch by itself, as if it were
            the only one; ``None`` where the tower's own masks do.
        features_alone: whether the processor is run row by row too, and what it gives for a batch
            is padded with NaN (``join_rows``).
        min_audio_s: seconds below which the front end hears nothing.
        inline_audio: whether its chat template takes a turn as one text with the placeholder in it,
            rather than as parts.
        audio_half: the audio half of its processor, by name, for machines without torchvision.
        parts: part name (``audio_tower``, ``projector``, ``language_model``) -> prefixes of
            parameter names; the longest matching prefix decides.
        adapter: folder beside the weights with the LoRA adapter that makes the model hear; it is
            merged into the weights where it is there.
        chat_ids: whether its processor makes prompt ids and features from a chat request and
            renders no prompt as text; windows are filled with silence, and what stands for it
            alone is no audio position.
        tower: how its audio tower is called alone; ``None`` if that is not known.
        silent_parts: prefixes of parameters that audio and text never reach.
    """

    name: str
    load_class: str | None = None
    audio_token_path: tuple[str, ...] = ("audio_token_id",)
    variable_frames: bool = False
    max_audio_s: float | None = None
    windows: bool = False
    frame_mask: str = "feature_attention_mask"
    tokens_of_frames: Callable[[int], int] | None = None
    tokens_are_frames: bool = False
    seconds_per_token: float | None = None
    rows_alone: Callable[[Any], None] | None = None
    features_alone: bool = False
    min_audio_s: float = 0.0
    inline_audio: bool = False
    audio_half: str | None = None
    adapter: str | None = None
    chat_ids: bool = False
    tower: TowerLayout | None = None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    silent_parts: tuple[str, ...] = ()


UNLISTED = Family(name="unlisted")

_QWEN_OMNI = Family(
    name="Qwen2.5-Omni",
    load_class="Qwen2_5OmniThinkerForConditionalGeneration",
    variable_frames=True,
    max_audio_s=300.0,
    tokens_of_frames=whisper_pooled_tokens,
    audio_half="Qwen2AudioProcessor",
    tower=tower_layouts.QWEN_OMNI,
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
    tower=tower_layouts.QWEN_AUDIO,
    parts={
        "audio_tower": ("model.audio_tower.",),
        "projector": ("model.multi_modal_projector.",),
        "language_model": ("model.language_model.", "lm_head."),
    },
)

_QWEN3_OMNI = Family(
    name="Qwen3-Omni",
    load_class="Qwen3OmniMoeThinkerForConditionalGeneration",
    variable_frames=True,
    tokens_of_frames=qwen3_omni_tokens,
    tokens_are_frames=True,
    rows_alone=qwen3_omni_alone,
    audio_half="Qwen3OmniMoeProcessor",
    tower=tower_layouts.QWEN3_OMNI,
    parts={
        "audio_tower": ("audio_tower.",),
        "projector": ("audio_tower.proj1.", "audio_tower.proj2."),
        "language_model": ("model.", "lm_head."),
    },
    silent_parts=("visual.",),
)

_TOWER_AND_PROJECTOR = {
    "audio_tower": ("model.audio_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "language_model": ("model.language_model.", "lm_head."),
}

_AUDIO_FLAMINGO = Family(
    name="Audio Flamingo 3",
    windows=True,
    frame_mask="input_features_mask",
    tokens_of_frames=whisper_pooled_tokens,
    tower=tower_layouts.AUDIO_FLAMINGO,
    parts=_TOWER_AND_PROJECTOR,
)

_GLM_ASR = Family(
    name="GLM-ASR",
    windows=True,
    frame_mask="input_features_mask",
    tokens_of_frames=whisper_merged_tokens,
    tower=tower_layouts.GLM_ASR,
    parts=_TOWER_AND_PROJECTOR,
)

_GRANITE_SPEECH = Family(
    name="Granite Speech",
    # 15 encoder frames of 20 ms become 3 tokens; the last 15 are filled up with silence
    seconds_per_token=0.1,
    rows_alone=granite_alone,
    features_alone=True,
    min_audio_s=0.02,
    inline_audio=True,
    tower=tower_layouts.GRANITE_SPEECH,
    parts={
        "audio_tower": ("model.encoder.",),
        "projector": ("model.projector.",),
        "language_model": ("model.language_model.", "lm_head."),
    },
)

_PHI = Family(
    name="Phi-4-multimodal",
    audio_token_path=("audio_config", "audio_token_id"),
    rows_alone=phi_alone,
    features_alone=True,
    min_audio_s=0.025,
    inline_audio=True,
    audio_half="Phi4MultimodalProcessor",
    adapter="speech-lora",
    tower=tower_layouts.PHI,
    parts={
        "audio_tower": ("model.embed_tokens_extend.audio_embed.encoder.",),
        "projector": ("model.embed_tokens_extend.audio_embed.",),
        "language_model": ("model.", "lm_head."),
    },
    silent_parts=(
        "model.embed_tokens_extend.image_embed.",
        "model.embed_tokens_extend.audio_embed.up_proj_for_vision_speech.",
        "model.embed_tokens_extend.audio_embed.down_proj_for_vision_speech.",
    ),
)

_VOXTRAL = Family(
    name="Voxtral",
    tokens_of_frames=voxtral_tokens,
    seconds_per_token=0.08,
    chat_ids=True,
    tower=tower_layouts.VOXTRAL,
    parts=_TOWER_AND_PROJECTOR,
)

FAMILIES: Mapping[str, Family] = {
    "Qwen2_5OmniModel": _QWEN_OMNI,
    "Qwen2_5OmniForConditionalGeneration": _QWEN_OMNI,
    "Qwen2_5OmniThinkerForConditionalGeneration": _QWEN_OMNI,
    "Qwen2AudioForConditionalGeneration": _QWEN_AUDIO,
    "Qwen3OmniMoeForConditionalGeneration": _QWEN3_OMNI,
    "Qwen3OmniMoeThinkerForConditionalGeneration": _QWEN3_OMNI,
    "AudioFlamingo3ForConditionalGeneration": _AUDIO_FLAMINGO,
    "GlmAsrForConditionalGeneration": _GLM_ASR,
    "GraniteSpeechForConditionalGeneration": _GRANITE_SPEECH,
    "Phi4MultimodalForCausalLM": _PHI,
    "VoxtralForConditionalGeneration": _VOXTRAL,
}
"""Architecture named in a config -> family."""


def family_of(architecture: str) -> Family:
    """Return the family of an architecture, ``UNLISTED`` for one the table does not know."""
    return FAMILIES.get(architecture, UNLISTED)
