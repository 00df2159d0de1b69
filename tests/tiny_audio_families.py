"""Tiny random models of more families, each with the processor class of its checkpoints.

Two blocks, width 32, the byte-level tokenizer of ``tiny_audio_lm``; front ends hear 4 s a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_audio_lm import CHAT_TEMPLATE, SPECIALS, build_tokenizer
from tiny_voxtral import save_voxtral
from transformers import WhisperFeatureExtractor

from audio_models.audio_halves import PhiAudioProcessor, Qwen3OmniAudioProcessor

TEXT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template that adds a turn's content up as text: it fails on a list of parts."""

AUDIO_ID = 256 + SPECIALS.index("<|AUDIO|>")
END_ID = 256 + SPECIALS.index("<|im_end|>")
WINDOW_S = 4

TEXT = {
    "vocab_size": 270, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False,
    "initializer_range": 0.2, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def save(model: Any, processor: Any, path: Path) -> Path:
    """Save a model, its processor and what ends a turn."""
    model.generation_config.eos_token_id = END_ID
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def whisper_extractor(window_s: int = WINDOW_S) -> WhisperFeatureExtractor:
    """Return a mel front end of 16 bins."""
    return WhisperFeatureExtractor(
        feature_size=16, chunk_length=window_s, return_attention_mask=True
    )


def save_flamingo(path: Path) -> Path:
    """Save an Audio Flamingo 3 whose processor takes two windows and a half, that is two."""
    torch.manual_seed(0)
    config = transformers.AudioFlamingo3Config(
        audio_config={
            "num_mel_bins": 16, "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 64, "max_source_positions": 200,
            "initializer_range": 0.2,
        },
        text_config={"model_type": "qwen2", **TEXT},
        audio_token_id=AUDIO_ID,
    )  # fmt: skip
    processor = transformers.AudioFlamingo3Processor(
        feature_extractor=whisper_extractor(),
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        audio_token="<|AUDIO|>",
        max_audio_len=10,
    )
    return save(transformers.AudioFlamingo3ForConditionalGeneration(config), processor, path)


def save_glm_asr(path: Path) -> Path:
    """Save a GLM-ASR; two windows."""
    torch.manual_seed(0)
    config = transformers.GlmAsrConfig(
        audio_config={
            "num_mel_bins": 16, "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 200,
            "initializer_range": 0.2,
        },
        text_config={"model_type": "llama", **TEXT},
        audio_token_id=AUDIO_ID,
        tie_word_embeddings=False,
    )  # fmt: skip
    processor = transformers.GlmAsrProcessor(
        feature_extractor=whisper_extractor(),
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        audio_token="<|AUDIO|>",
        max_audio_len=10,
    )
    return save(transformers.GlmAsrForConditionalGeneration(config), processor, path)


def save_qwen3_omni(path: Path) -> Path:
    """Save a Qwen3-Omni thinker, four experts; 10 s."""
    torch.manual_seed(0)
    config = transformers.Qwen3OmniMoeThinkerConfig(
        audio_config={
            "num_mel_bins": 16, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64, "output_dim": 32, "downsample_hidden_size": 8,
            "initializer_range": 0.2,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
            "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        text_config={
            **{key: value for key, value in TEXT.items() if key != "tie_word_embeddings"},
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3],
            },
        },
        audio_token_id=AUDIO_ID,
        audio_start_token_id=AUDIO_ID + 1,
        audio_end_token_id=AUDIO_ID + 2,
        vision_start_token_id=262,
        initializer_range=0.2,
    )  # fmt: skip
    processor = Qwen3OmniAudioProcessor(
        feature_extractor=whisper_extractor(10),
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    )
    model = transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config)
    return save(model, processor, path)


def save_granite(path: Path) -> Path:
    """Save a Granite Speech without an adapter."""
    torch.manual_seed(0)
    config = transformers.GraniteSpeechConfig(
        encoder_config={
            "input_dim": 160, "num_layers": 2, "hidden_dim": 32, "num_heads": 2, "dim_head": 16,
            "feedforward_mult": 2, "output_dim": 12, "context_size": 20, "max_pos_emb": 32,
            "dropout": 0.0,
        },
        projector_config={
            "model_type": "blip_2_qformer", "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 64, "encoder_hidden_size": 32,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        },
        text_config={"model_type": "granite", **TEXT, "logits_scaling": 8.0},
        audio_token_index=AUDIO_ID,
        has_lora_adapter=False,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )  # fmt: skip
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEXT_TEMPLATE  # there, not with the processor
    processor = transformers.GraniteSpeechProcessor(
        transformers.GraniteSpeechFeatureExtractor(), tokenizer, audio_token="<|AUDIO|>"
    )
    return save(transformers.GraniteSpeechForConditionalGeneration(config), processor, path)


def save_phi(path: Path) -> Path:
    """Save a Phi-4-multimodal without an adapter."""
    torch.manual_seed(0)
    config = transformers.Phi4MultimodalConfig(
        audio_config={
            "hidden_size": 32, "intermediate_size": 64, "num_blocks": 2,
            "num_attention_heads": 2, "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8,
            "initializer_range": 0.2, "audio_token_id": AUDIO_ID,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "crop_size": 28, "image_token_id": 262,
        },
        **{**TEXT, "pad_token_id": 256, "eos_token_id": END_ID},
        max_position_embeddings=4096,
    )  # fmt: skip
    processor = PhiAudioProcessor(
        feature_extractor=transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer=build_tokenizer(),
        chat_template=TEXT_TEMPLATE,
        audio_token="<|AUDIO|>",
        audio_bos_token="",
        audio_eos_token="",
    )
    return save(transformers.Phi4MultimodalForCausalLM(config), processor, path)


SAVE = {
    "phi": save_phi,
    "flamingo": save_flamingo,
    "qwen3_omni": save_qwen3_omni,
    "glm_asr": save_glm_asr,
    "granite": save_granite,
    "voxtral": save_voxtral,
}
