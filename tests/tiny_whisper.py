"""A tiny random Whisper on disk: one block a side, windows of 4 s, a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

WINDOW_S = 4
SPECIALS = (
    "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip


def build_tokenizer() -> WhisperTokenizer:
    """Return bytes, then the specials in Whisper's order, then a timestamp each 20 ms."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizer(
        vocab={character: index for index, character in enumerate(alphabet)},
        merges=[],
        pad_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS)})
    tokenizer.add_tokens([f"<|{index * 0.02:.2f}|>" for index in range(WINDOW_S * 50 + 1)])
    return tokenizer


def save_whisper(path: Path, *, seed: int = 0, multilingual: bool = True) -> Path:
    """Save it with its processor and the generation settings of a real checkpoint."""
    tokenizer = build_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    end = tokenizer.eos_token_id
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=16, d_model=32, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=WINDOW_S * 50,
        max_target_positions=48, init_std=0.5, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, decoder_start_token_id=ids["<|startoftranscript|>"],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    told = model.generation_config
    told._from_model_config = False  # else what follows is left out when it is loaded
    told.no_timestamps_token_id = ids["<|notimestamps|>"]
    told.max_initial_timestamp_index = 50
    told.prev_sot_token_id = ids["<|startofprev|>"]
    told.suppress_tokens = [ids[token] for token in SPECIALS]
    told.begin_suppress_tokens = [end]
    told.is_multilingual = multilingual
    if multilingual:
        told.lang_to_id = {token: ids[token] for token in ("<|en|>", "<|de|>")}
        told.task_to_id = {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")}
    model.save_pretrained(path)
    WhisperProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=16, chunk_length=WINDOW_S),
        tokenizer=tokenizer,
    ).save_pretrained(path)
    return path
