"""Tiny acoustic encoders and audio classifiers with random weights, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
import transformers

NUM_LAYERS = 3
WIDTH = 32
LABELS = ("angry", "glad", "sad")
CONV = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 8, 8)}
"""The stride of real ones, 320 samples, in three convolutions: as many as there are blocks."""

_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
    "classifier_proj_size": 24,
    "tdnn_dim": (20, 20, 40),
    "tdnn_kernel": (5, 3, 1),
    "tdnn_dilation": (1, 2, 1),
    "xvector_output_dim": 28,
    "vocab_size": 12,
    "pad_token_id": 0,
    "mask_time_prob": 0.05,
}
_WAVES = {
    **_SIZES,
    **CONV,
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 9,
    "num_conv_pos_embedding_groups": 2,
    "num_codevectors_per_group": 8,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", _WAVES),
    "wav2vec2-large": ("Wav2Vec2", {**_WAVES, **_STABLE}),
    "wav2vec2-adapter": ("Wav2Vec2", {**_WAVES, **_STABLE, "add_adapter": True}),
    "hubert": ("Hubert", _WAVES),
    "hubert-batch-norm": ("Hubert", {**_WAVES, "conv_pos_batch_norm": True}),
    "wavlm": ("WavLM", _WAVES),
    "wavlm-large": ("WavLM", {**_WAVES, **_STABLE}),
    "unispeech": ("UniSpeech", _WAVES),
    "unispeech-sat": ("UniSpeechSat", _WAVES),
    "data2vec": (
        "Data2VecAudio",
        {**_WAVES, "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3},
    ),
    "conformer": (
        "Wav2Vec2Conformer",
        {**_WAVES, **_STABLE, "conv_depthwise_kernel_size": 7, "max_source_positions": 400},
    ),
    "sew": ("SEW", {**_WAVES, "squeeze_factor": 2}),
    "sew-d": ("SEWD", {**_WAVES, "squeeze_factor": 2, "position_buckets": 16}),
    "wav2vec2-bert": (
        "Wav2Vec2Bert",
        {**_SIZES, "conv_depthwise_kernel_size": 5, "feature_projection_input_dim": 160},
    ),
    "whisper": (
        "Whisper",
        {
            "vocab_size": 40, "num_mel_bins": 16, "d_model": WIDTH, "encoder_layers": NUM_LAYERS,
            "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_source_positions": 200,
            "max_target_positions": 16, "init_std": 0.2, "classifier_proj_size": 24,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
        },
    ),
    "ast": (
        "AST",
        {
            "hidden_size": WIDTH, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 2,
            "intermediate_size": 48, "initializer_range": 0.2, "num_mel_bins": 32,
            "max_length": 200, "patch_size": 8, "frequency_stride": 6, "time_stride": 5,
        },
    ),
}  # fmt: skip
"""Family -> the beginning of its classes' names, and what its configuration needs."""


def save_encoder(
    path: Path,
    family: str,
    ending: str = "Model",
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Path:
    """Save a model of the class with this ending, such as ``ForCTC``, and its feature extractor."""
    torch.manual_seed(0)
    name, sizes = FAMILIES[family]
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {x: i for i, x in enumerate(LABELS)}}
    config = getattr(transformers, f"{name}Config")(**sizes, **labels, **settings)
    network = getattr(transformers, f"{name}{ending}")(config)
    _stir(network)
    network.to(dtype).save_pretrained(path)
    front_end(family).save_pretrained(path)
    return path


def front_end(family: str) -> Any:
    """Return the feature extractor that real checkpoints of a family come with."""
    if family == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=4)
    if family == "ast":
        return transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=200)
    if family == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor()
    large = "large" in family
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=large, return_attention_mask=large)


def save_bundle(hub: Path, name: str, kind: str, *, large: bool, aux: int | None = None) -> Any:
    """Put tiny weights into torch's hub cache at ``hub``; return the pipeline that reads them."""
    torch.manual_seed(0)
    params: dict[str, Any] = {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": list(zip(*CONV.values(), strict=True)),
        "extractor_conv_bias": large,
        "encoder_embed_dim": WIDTH,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": NUM_LAYERS,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 48,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.05,
        "aux_num_out": aux,
    }
    if kind == "WavLM":
        params |= {"encoder_max_distance": 80, "encoder_num_buckets": 32}
    build = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}
    network = build[kind](**params)
    _stir(network)
    (hub / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), hub / "checkpoints" / f"{name.lower()}.pth")
    told = {
        "_path": f"{name.lower()}.pth",
        "_params": params,
        "_sample_rate": 16_000,
        "_normalize_waveform": large,
        "_model_type": kind,
    }
    if aux is None:
        return torchaudio.pipelines.Wav2Vec2Bundle(**told)
    labels = tuple("abcdefgh"[: aux - 1])
    return torchaudio.pipelines.Wav2Vec2ASRBundle(**told, _labels=labels, _remove_aux_axis=())


def _stir(network: torch.nn.Module) -> None:
    """Move norms away from 1 and biases from 0."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def recordings(*seconds: float) -> list[np.ndarray]:
    """Return noisy tones of such lengths, float32, 16 kHz."""
    generator = np.random.default_rng(7)
    made = []
    for index, length in enumerate(seconds):
        times_s = np.arange(int(length * 16_000)) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * (200 + 150 * index) * times_s)
        made.append((wave + generator.normal(0.02, 0.05, len(wave))).astype(np.float32))
    return made
