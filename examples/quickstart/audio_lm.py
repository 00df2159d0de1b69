"""The tiny audio language model: Qwen2.5-Omni's thinker, the family of the paper's student."""

from __future__ import annotations

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from examples.quickstart.recordings import SAMPLE_RATE_HZ
from examples.quickstart.tokens import (
    AUDIO,
    AUDIO_END,
    AUDIO_START,
    HOP_SAMPLES,
    IMAGE,
    LONGEST_CLIP_S,
    NUM_MEL_BINS,
    PAD,
    TURN_END,
    VIDEO,
)

WIDTH = 128
NUM_LAYERS = 3
INIT_STD = 0.08


def make_audio_lm(
    tokenizer: PreTrainedTokenizerFast, num_layers: int = NUM_LAYERS
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """Return an untrained model, about 1.5 million parameters (seed torch before).

    Args:
        tokenizer: gives the vocabulary and the placeholders' ids.
        num_layers: blocks of its language model.
    """
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": NUM_MEL_BINS,
            "d_model": WIDTH,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 3 * WIDTH,
            "output_dim": WIDTH,
            "initializer_range": INIT_STD,
            # Attention windows of the tower are 2 * n_window mel frames: the whole clip.
            "n_window": LONGEST_CLIP_S * SAMPLE_RATE_HZ // HOP_SAMPLES // 2,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "initializer_range": INIT_STD,
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 6, 6],
            },
            "tie_word_embeddings": True,
            "pad_token_id": token_id(PAD),
            "eos_token_id": token_id(TURN_END),
        },
        audio_token_index=token_id(AUDIO),
        audio_start_token_id=token_id(AUDIO_START),
        audio_end_token_id=token_id(AUDIO_END),
        image_token_index=token_id(IMAGE),
        video_token_index=token_id(VIDEO),
        vision_start_token_id=token_id(IMAGE),
        vision_end_token_id=token_id(VIDEO),
        user_token_id=tokenizer("user").input_ids[0],
        tie_word_embeddings=True,
        pad_token_id=token_id(PAD),
    )
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    model.generation_config.eos_token_id = token_id(TURN_END)
    model.generation_config.pad_token_id = token_id(PAD)
    return model
