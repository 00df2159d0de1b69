"""The audio half of processors whose image half wants torchvision.

They are ``Qwen2AudioProcessor`` where that counts audio tokens as the family does, and its
subclasses where it does not. What they save names the family's own processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2AudioProcessor

from audio_models.families import qwen3_omni_tokens


class Qwen3OmniAudioProcessor(Qwen2AudioProcessor):
    """The audio half of ``Qwen3OmniMoeProcessor``: the same features, its own number of tokens."""

    def _process_audio(self, audio: Any, **settings: Any) -> tuple[Any, list[str]]:
        inputs, _ = super()._process_audio(audio, truncation=False, **settings)
        lengths = inputs["feature_attention_mask"].sum(-1)
        counts = [qwen3_omni_tokens(int(length)) for length in lengths]
        inputs["num_audio_tokens"] = counts
        return inputs, [self.replace_audio_token(inputs, audio_idx=i) for i in range(len(counts))]

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved, under the name of the processor this is half of."""
        return {**super().to_dict(), "processor_class": "Qwen3OmniMoeProcessor"}


class PhiAudioProcessor(Qwen2AudioProcessor):
    """The audio half of ``Phi4MultimodalProcessor``: its front end says the number of tokens."""

    def _process_audio(self, audio: Any, **settings: Any) -> tuple[Any, list[str]]:
        inputs = self.feature_extractor(audio, sampling_rate=settings.get("sampling_rate"))
        counts = [int(count) for count in inputs["audio_embed_sizes"]]
        return inputs, [self.audio_token * count for count in counts]

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved, under the name of the processor this is half of."""
        return {**super().to_dict(), "processor_class": "Phi4MultimodalProcessor"}


HALVES: Mapping[str, type[Qwen2AudioProcessor]] = {
    "Qwen2AudioProcessor": Qwen2AudioProcessor,
    "Qwen3OmniMoeProcessor": Qwen3OmniAudioProcessor,
    "Phi4MultimodalProcessor": PhiAudioProcessor,
}
"""Name in the table of families -> class."""

_TOKENS = {
    "Qwen2AudioProcessor": ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
    "Qwen3OmniMoeProcessor": ("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"),
    "Phi4MultimodalProcessor": ("<|audio|>", "", ""),
}


def special_tokens(half: str, settings: Mapping[str, Any], tokenizer: Any) -> dict[str, str]:
    """Return the audio tokens: as saved, else as the tokenizer names them, else the family's."""
    names = ("audio_token", "audio_bos_token", "audio_eos_token")
    return {
        name: str(settings.get(name) or getattr(tokenizer, name, token))
        for name, token in zip(names, _TOKENS[half], strict=True)
    }
