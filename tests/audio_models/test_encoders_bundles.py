from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_encoders as tiny
import torch
import torchaudio

from audio_models.encoders.bundles import bundles
from audio_models.encoders.load import encoder_shape, is_audio_encoder, load_audio_encoder
from audio_models.frames import FrameShape
from cache_schema.errors import AudioError, ModelError
from pipeline.teachers.describe_audio import describe_audio_encoder

TOLERANCE = 5e-5
"""Of batched against alone in float32 (2e-6 was seen)."""

LAYERS = range(tiny.NUM_LAYERS + 1)
KINDS = {
    "TINY_WAV2VEC2_BASE": {"kind": "Wav2Vec2", "large": False},
    "TINY_WAV2VEC2_LARGE": {"kind": "Wav2Vec2", "large": True},
    "TINY_WAV2VEC2_ASR": {"kind": "Wav2Vec2", "large": False, "aux": 5},
    "TINY_WAVLM_BASE": {"kind": "WavLM", "large": False},
    "TINY_WAVLM_LARGE": {"kind": "WavLM", "large": True},
}

Make = Callable[[str], Any]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub"


@pytest.fixture
def make(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Register a pipeline with tiny weights beside torchaudio's own."""

    def register(name: str) -> Any:
        bundle = tiny.save_bundle(hub, name, **KINDS[name])
        monkeypatch.setattr(torchaudio.pipelines, name, bundle, raising=False)
        return bundle

    return register


@pytest.mark.parametrize("name", KINDS)
def test_states_are_those_of_the_pipeline(make: Make, name: str) -> None:
    bundle = make(name)
    encoder = load_audio_encoder(f"torchaudio:{name}", "auto", "cpu")
    (audio,) = tiny.recordings(1.1)
    batch = encoder.build([audio])
    with torch.inference_mode():
        states = encoder.forward(batch, LAYERS).states
        expected, _ = bundle.get_model().extract_features(torch.from_numpy(audio)[None])
    assert batch.num_frames == [expected[0].shape[1]]
    for layer in LAYERS[1:]:
        torch.testing.assert_close(states[layer], expected[layer - 1][0], rtol=0, atol=1e-6)
    assert states[0].shape == states[1].shape
    assert (states[0] - states[1]).abs().max() > 0.05


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_says_what_each_recording_says_alone(make: Make, name: str) -> None:
    make(name)
    encoder = load_audio_encoder(f"torchaudio:{name}", "float32", "cpu")
    assert encoder.may_pad
    audios = tiny.recordings(0.413, 1.3, 0.7)
    with torch.inference_mode():
        together = encoder.forward(encoder.build(audios), LAYERS)
        alone = [encoder.forward(encoder.build([audio]), LAYERS) for audio in audios]
    for layer in LAYERS:
        joined = torch.cat([one.states[layer] for one in alone])
        torch.testing.assert_close(together.states[layer], joined, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["TINY_WAV2VEC2_BASE", "TINY_WAVLM_BASE"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(make: Make, name: str, dtype: str) -> None:
    make(name)
    encoder = load_audio_encoder(f"torchaudio:{name}", dtype, "cpu")
    assert encoder.may_pad
    batch = encoder.build(tiny.recordings(0.413, 1.3))
    with torch.inference_mode():
        states = encoder.forward(batch, (3,)).states[3]
    assert states.dtype == getattr(torch, dtype)
    assert states.isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_training_lowers_the_loss(make: Make, name: str) -> None:
    make(name)
    encoder = load_audio_encoder(f"torchaudio:{name}", "float32", "cpu")
    batch = encoder.build(tiny.recordings(0.4, 0.9))
    torch.manual_seed(1)
    target = torch.randn(sum(batch.num_frames), tiny.WIDTH)
    optimizer = torch.optim.Adam(encoder.module.parameters(), lr=2e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(encoder.forward(batch, (3,)).states[3], target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    still = {
        parameter_name
        for parameter_name, parameter in encoder.module.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    assert not {one for one in still if not one.startswith("encoder.transformer.layer_norm")}


def test_shape_is_told_without_weights(make: Make, hub: Path) -> None:
    make("TINY_WAVLM_LARGE")
    (hub / "checkpoints" / "tiny_wavlm_large.pth").unlink()
    expected = FrameShape(num_layers=tiny.NUM_LAYERS, width=tiny.WIDTH, dtype="float32")
    assert encoder_shape("torchaudio:TINY_WAVLM_LARGE") == expected
    assert is_audio_encoder("torchaudio:TINY_WAVLM_LARGE")
    assert encoder_shape("torchaudio:WAV2VEC2_XLSR_300M").num_layers == 24


def test_every_encoder_of_torchaudio_is_known() -> None:
    known = set(bundles())
    assert known >= {"WAV2VEC2_BASE", "HUBERT_BASE", "WAVLM_BASE", "WAVLM_LARGE", "MMS_FA"}
    assert all(encoder_shape(f"torchaudio:{name}").num_layers >= 12 for name in known)


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ModelError, match="nearest are torchaudio:WAV2VEC2_BASE"):
        load_audio_encoder("torchaudio:wav2vec_base")


def test_weights_that_cannot_be_fetched(
    hub: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make("TINY_WAV2VEC2_BASE")
    file = hub / "checkpoints" / "tiny_wav2vec2_base.pth"
    file.unlink()
    bundle._path = "https://127.0.0.1:9/tiny_wav2vec2_base.pth"  # nobody listens there
    for use in (load_audio_encoder, describe_audio_encoder):
        with pytest.raises(ModelError) as caught:
            use("torchaudio:TINY_WAV2VEC2_BASE")
        assert f"put the file of {bundle._path} at {file}" in str(caught.value)


def test_what_identifies_it(make: Make, hub: Path) -> None:
    make("TINY_WAVLM_BASE")
    file = hub / "checkpoints" / "tiny_wavlm_base.pth"
    told = describe_audio_encoder("torchaudio:TINY_WAVLM_BASE")
    assert told["model"] == "torchaudio:TINY_WAVLM_BASE"
    assert told["model_digest"] == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    make("TINY_WAVLM_LARGE")
    other = describe_audio_encoder("torchaudio:TINY_WAVLM_LARGE")
    assert other["front_end_digest"] != told["front_end_digest"]  # it normalises


def test_another_rate(make: Make) -> None:
    make("TINY_WAV2VEC2_BASE")._sample_rate = 8_000
    encoder = load_audio_encoder("torchaudio:TINY_WAV2VEC2_BASE", "float32", "cpu")
    (audio,) = tiny.recordings(1.0)
    (times_s,) = encoder.build([audio]).times_s
    assert len(times_s) == 25
    np.testing.assert_allclose(times_s[:, 0], np.arange(25) * 0.04, atol=1e-6)
    with pytest.raises(AudioError, match="too short"):
        encoder.build([audio[:329]])
    assert encoder.build([audio[:330]]).num_frames == [1]
