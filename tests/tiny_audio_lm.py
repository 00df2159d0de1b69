"""Tiny random audio language models on disk: two blocks, width 32, a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(first_byte: int = 0) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 262 ids; ``first_byte`` rotates the byte ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rotated = alphabet[first_byte:] + alphabet[:first_byte]
    vocabulary = {character: index for index, character in enumerate(rotated)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, window_s: int) -> Qwen2AudioProcessor:
    """Return an audio processor whose front end hears ``window_s`` seconds."""
    return Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(
            feature_size=16, chunk_length=window_s, return_attention_mask=True
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    )


def save_omni(path: Path, *, seed: int = 0, num_layers: int = 2, first_byte: int = 0) -> Path:
    """Save a Qwen2.5-Omni thinker with its processor; 270 vocabulary rows, 8 of them padding."""
    tokenizer = build_tokenizer(first_byte)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    torch.manual_seed(seed)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": 16, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64, "output_dim": 32, "n_window": 50,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
            "out_hidden_size": 32, "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": 270, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": num_layers, "num_attention_heads": 2, "num_key_value_heads": 1,
            "tie_word_embeddings": False, "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3],
            },
        },
        audio_token_index=ids["<|AUDIO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=262,  # read by the model, absent from the config class
        initializer_range=0.2,
    )  # fmt: skip
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.save_pretrained(path)
    build_processor(tokenizer, 300).save_pretrained(path)
    return path


def save_composite_omni(thinker: Path, path: Path) -> Path:
    """Save a thinker's weights the way the composite Qwen2.5-Omni checkpoint holds them."""
    from safetensors.torch import load_file, save_file

    path.mkdir()
    for item in thinker.iterdir():
        if item.suffix != ".safetensors" and item.name != "config.json":
            (path / item.name).write_bytes(item.read_bytes())
    weights = load_file(thinker / "model.safetensors")
    save_file(
        {f"thinker.{name}": tensor for name, tensor in weights.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "thinker_config": json.loads((thinker / "config.json").read_text()),
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def save_qwen_audio(path: Path, *, seed: int = 0) -> Path:
    """Save a Qwen2-Audio with its processor; the front end hears 4 s."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64, "max_source_positions": 200,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": 270, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "tie_word_embeddings": False, "initializer_range": 0.2,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(path)
    build_processor(tokenizer, 4).save_pretrained(path)
    return path
