"""A tiny Voxtral with a trimmed tekken tokenizer: mistral-common's own file, its first 600 ids."""

from __future__ import annotations

import json
from pathlib import Path

import mistral_common
import torch
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

NUM_SPECIAL, NUM_VOCAB = 40, 600
NAMED = {
    20: "[ARGS]", 21: "[CALL_ID]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]",
}  # fmt: skip
"""Special tokens of Voxtral's tokenizer that the file of 2024 does not have yet."""


def tekken() -> dict[str, object]:
    """Return a tekken file with audio, windows of 30 s at 12.5 tokens a second."""
    source = Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
    whole = json.loads(source.read_text())
    old = {token["rank"]: str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS}
    names = [old.get(n) or NAMED.get(n, f"<SPECIAL_{n}>") for n in range(NUM_SPECIAL)]
    return {
        "config": {
            "pattern": whole["config"]["pattern"],
            "num_vocab_tokens": NUM_VOCAB,
            "default_vocab_size": NUM_SPECIAL + NUM_VOCAB,
            "default_num_special_tokens": NUM_SPECIAL,
            "version": "v11",
        },
        "vocab": whole["vocab"][:NUM_VOCAB],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
        ],
        "audio": {
            "sampling_rate": 16_000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
            "chunk_length_s": 30.0,
        },
    }


def save_voxtral(path: Path) -> Path:
    """Save a Voxtral: two blocks, windows of 30 s."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tekken.json").write_text(json.dumps(tekken()))
    processor = transformers.VoxtralProcessor(
        transformers.WhisperFeatureExtractor(feature_size=16),
        transformers.MistralCommonBackend.from_pretrained(path),
    )
    torch.manual_seed(0)
    config = transformers.VoxtralConfig(
        audio_config={
            "num_mel_bins": 16, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 128, "initializer_range": 0.2,
        },
        text_config={
            "model_type": "llama", "vocab_size": NUM_SPECIAL + NUM_VOCAB, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False,
            "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11,
        },
        audio_token_id=24,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.VoxtralForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
