"""Tiny textual teachers with random weights, and their tokenizer with a chat template, on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 1000
MAX_POSITIONS = 256
NUM_LAYERS = {"qwen3": 4, "llama": 3, "gemma3": 3, "gpt2": 2}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["three plus four is seven, an odd number; what did it say?"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_teacher(path: Path, family: str) -> Path:
    """Save a model in float32; its weights are scaled so that logits and states are not flat."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=NUM_LAYERS[family], **sizes))
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=NUM_LAYERS[family], **sizes))
    elif family == "gemma3":  # sliding windows, scaled embeddings, norms after each half of a block
        kinds = ["sliding_attention", "sliding_attention", "full_attention"]
        config = Gemma3TextConfig(
            sliding_window=32, query_pre_attn_scalar=32, layer_types=kinds,
            num_hidden_layers=NUM_LAYERS[family], **{**sizes, "tie_word_embeddings": True},
        )  # fmt: skip
        model = Gemma3ForCausalLM(config)
    else:  # learned positions, one tied matrix, blocks that return one tensor
        config = GPT2Config(
            vocab_size=VOCAB_SIZE, n_positions=MAX_POSITIONS, n_embd=64, n_head=2,
            n_layer=NUM_LAYERS[family], bos_token_id=None, eos_token_id=2,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and family in ("qwen3", "llama"):
            scale = 1.0 if "embed" in name else 0.7 / parameter.shape[1] ** 0.5
            torch.nn.init.normal_(parameter, std=3.0 * scale if "lm_head" in name else scale)
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path
