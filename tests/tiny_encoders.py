"""Tiny encoder-only text models with random weights, and their tokenizer, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
WORDS = ["Transcript", "Speaker", ":", "one", "two", "three", "plus", "four"]
WORDS += ["is", "a", "voice", "speaks", "slowly", "and", "gladly"]
NUM_LAYERS = 3
WIDTH = 64
MAX_POSITIONS = 24

_SIZES = {
    "vocab_size": 32,
    "hidden_size": WIDTH,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": MAX_POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {}),
    "modernbert": (
        "ModernBert",
        {"cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2},
    ),
    "deberta": (
        "DebertaV2",
        {
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "conv_kernel_size": 3,
        },
    ),
    "fnet": ("FNet", {}),
}
"""Family -> the beginning of its classes' names, and what its configuration needs besides."""


def save_encoder(path: Path, family: str, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model whose states are not flat, with a tokenizer of whole words."""
    torch.manual_seed(0)
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**_SIZES, **settings)
    getattr(transformers, f"{name}ForMaskedLM")(config).to(dtype).save_pretrained(path)
    words = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=False)
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, **dict(zip(names, SPECIAL, strict=True))
    )
    tokenizer.save_pretrained(path)
    return path
