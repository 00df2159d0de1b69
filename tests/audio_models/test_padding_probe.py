"""Whether padding is heard: the same verdict in every dtype, whatever the size of a dimension."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_audio_encoders as tiny
import torch
import transformers

from audio_models.encoders.load import load_audio_encoder
from audio_models.moved import moved

DTYPES = ("float32", "bfloat16", "float16")


def save_with_outlier(path: Path, family: str) -> Path:
    """Save an encoder with one dimension forty times as large as the others."""
    tiny.save_encoder(path, family)
    network = transformers.AutoModel.from_pretrained(path)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name and name.endswith("weight") and parameter.shape == (tiny.WIDTH,):
                parameter[0] *= 40
    network.save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "may_pad"), [("sew", False), ("wav2vec2", True), ("hubert", True), ("wavlm", True)]
)
def test_a_large_dimension_does_not_hide_padding(
    tmp_path: Path, family: str, may_pad: bool, dtype: str
) -> None:
    plain = tiny.save_encoder(tmp_path / "plain", family)
    outlier = save_with_outlier(tmp_path / "outlier", family)
    for path in (plain, outlier):
        encoder = load_audio_encoder(str(path), dtype, "cpu")
        assert encoder.may_pad == may_pad
        assert {p.dtype for p in encoder.module.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("family", ["wavlm", "conformer", "data2vec"])
def test_weights_are_what_they_were(tmp_path: Path, family: str) -> None:
    path = tiny.save_encoder(tmp_path, family)
    encoder = load_audio_encoder(str(path), "bfloat16", "cpu")
    expected = transformers.AutoModel.from_pretrained(path, dtype=torch.bfloat16).state_dict()
    found = encoder.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_nothing_made_in_float32_stays(tmp_path: Path) -> None:
    """Wav2Vec2-Conformer keeps the positions of the last length it has seen."""
    path = str(tiny.save_encoder(tmp_path, "conformer", position_embeddings_type="rotary"))
    encoder: Any = load_audio_encoder(path, "bfloat16", "cpu")
    kept = [
        value
        for module in encoder.module.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor)
    ]
    assert all(value.dtype == torch.bfloat16 for value in kept)
    batch = encoder.build(tiny.recordings(encoder.front.min_audio_s + 14.25 * encoder.front.hop_s))
    assert encoder.forward(batch, [3]).states[3].dtype == torch.bfloat16


def test_each_dimension_has_its_scale() -> None:
    torch.manual_seed(0)
    values_ND = torch.randn(20, 32)
    values_ND[:, 0] *= 3000.0
    rounded = values_ND * (1 + 1e-5 * torch.randn(20, 32))
    assert not moved(values_ND, rounded, torch.float32)
    heard = values_ND.clone()
    heard[3, 7] += 0.1
    assert moved(values_ND, heard, torch.float32)
    values_ND[:, 5] = 0.0  # one that says nothing is judged by the typical one
    noise = values_ND.clone()
    noise[:, 5] += 1e-6
    assert not moved(values_ND, noise, torch.float32)
    assert moved(values_ND, torch.full_like(values_ND, torch.nan), torch.float32)


def test_a_padded_batch_of_wavlm_warns_nobody(tmp_path: Path) -> None:
    """torch advises transformers' authors on their masks; users cannot heed it."""
    encoder = load_audio_encoder(str(tiny.save_encoder(tmp_path, "wavlm")), "float32", "cpu")
    batch = encoder.build(tiny.recordings(0.4, 0.9))
    assert "attention_mask" in batch.inputs
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the tests ignore, too
        encoder.forward(batch, [0, 3])
