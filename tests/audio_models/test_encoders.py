from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_encoders as tiny
import torch
import transformers

from audio_models.encoders.fronts import Convolutions
from audio_models.encoders.load import encoder_shape, is_audio_encoder, load_audio_encoder
from audio_models.frames import FrameModel, FrameOutputs
from cache_schema.errors import AudioError, UsageError

# SEW-D's module cannot be imported without a warning of torch.jit.
FAMILIES = sorted(set(tiny.FAMILIES) - {"sew-d"})
LAYERS = range(tiny.NUM_LAYERS + 1)
HEARS_PADDING = {"sew"}
TOLERANCE = 5e-5
"""Of batched against alone in float32: other shapes round otherwise (6e-6 was seen)."""


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    family = str(request.param)
    return family, tiny.save_encoder(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def encoder(saved: tuple[str, Path]) -> FrameModel:
    return load_audio_encoder(str(saved[1]), "float32", "cpu")


@torch.inference_mode()
def run(encoder: FrameModel, audios: list[np.ndarray]) -> FrameOutputs:
    return encoder.forward(encoder.build(audios), LAYERS)


def plain(path: Path) -> tuple[Any, Any, Any]:
    """Return transformers' own model, the part with its blocks, and its feature extractor."""
    network = transformers.AutoModel.from_pretrained(path).eval()
    encoder = getattr(network, "encoder", network)
    return network, encoder, transformers.AutoFeatureExtractor.from_pretrained(path)


@torch.inference_mode()
def states_of(path: Path, audio: np.ndarray) -> list[torch.Tensor]:
    """Return what each block reads, and what the last one gives, by transformers alone."""
    network, encoder, extractor = plain(path)
    inputs = extractor(audio, sampling_rate=16_000, return_tensors="pt")
    inputs.pop("attention_mask", None)
    caller = encoder if network.config.model_type == "whisper" else network
    last: list[torch.Tensor] = []
    encoder.layers[-1].register_forward_hook(
        lambda _module, _args, output: last.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    output = caller(**inputs, output_hidden_states=True)
    reported = output.hidden_states[-1]
    final = [module for name, module in encoder.named_children() if name.startswith("layer")]
    norms = [module for module in final if isinstance(module, torch.nn.LayerNorm)]
    assert any(torch.equal(reported, state) for state in (last[0], *(n(last[0]) for n in norms)))
    states = [*output.hidden_states[:-1], last[0]]
    if network.config.model_type == "audio-spectrogram-transformer":
        # 5 patches in frequency, 39 in time; the mean of those of one time
        return [state[:, 2:].view(1, 5, 39, -1).mean(1) for state in states]
    return states


def test_states_are_those_of_a_plain_pass(saved: tuple[str, Path], encoder: FrameModel) -> None:
    (audio,) = tiny.recordings(1.1)
    output = run(encoder, [audio])
    expected = states_of(saved[1], audio)
    assert len(expected) == encoder.shape.num_layers + 1
    (num_frames,) = encoder.build([audio]).num_frames
    for layer in LAYERS:
        assert output.states[layer].shape == (num_frames, encoder.shape.width)
        torch.testing.assert_close(
            output.states[layer], expected[layer][0, :num_frames], rtol=0, atol=1e-5
        )
        if layer:  # the blocks do something, and not the same for every frame
            assert (output.states[layer] - output.states[layer - 1]).abs().max() > 0.05
            assert output.states[layer].std(0).max() > 0.02


def test_frames_are_counted_as_the_model_counts_them(
    saved: tuple[str, Path], encoder: FrameModel
) -> None:
    family, path = saved
    network, _, extractor = plain(path)
    for seconds in (0.2, 0.3333, 0.901, 1.0, 1.019, 1.02):
        (audio,) = tiny.recordings(seconds)
        (count,) = encoder.build([audio]).num_frames
        if family == "ast":
            assert count == -(-len(audio) // 800)
        elif family == "whisper":
            inputs = extractor(audio, sampling_rate=16_000, return_attention_mask=True)
            mels = torch.tensor(inputs["attention_mask"]).sum()
            assert count == int(network._get_feat_extract_output_lengths(mels))
        elif family == "wav2vec2-bert":
            assert count == int(extractor(audio, sampling_rate=16_000)["attention_mask"].sum())
        else:
            told = {"add_adapter": False} if family == "wav2vec2-adapter" else {}
            frames = int(network._get_feat_extract_output_lengths(torch.tensor(len(audio)), **told))
            assert count == frames // getattr(network.config, "squeeze_factor", 1)


def test_frames_have_seconds(saved: tuple[str, Path], encoder: FrameModel) -> None:
    audios = tiny.recordings(0.61, 1.234)
    for audio, times_s in zip(audios, encoder.build(audios).times_s, strict=True):
        duration_s = len(audio) / 16_000
        hop_s = {"sew": 0.04, "ast": 0.05}.get(saved[0], 0.02)
        assert times_s.dtype == np.float32
        assert times_s[0, 0] == 0.0
        np.testing.assert_array_equal(times_s[1:, 0], times_s[:-1, 1])
        np.testing.assert_allclose(times_s[:, 0], np.arange(len(times_s)) * hop_s, atol=1e-6)
        assert duration_s - hop_s - 0.02 < times_s[-1, 1] <= np.float32(duration_s)


def test_a_batch_says_what_each_recording_says_alone(
    saved: tuple[str, Path], encoder: FrameModel
) -> None:
    hears = "it hears padding: name the modules that do in EncoderFamily.alone"
    assert encoder.may_pad == (saved[0] not in HEARS_PADDING), hears
    if not encoder.may_pad:
        return
    audios = tiny.recordings(0.413, 1.3, 0.7, 0.72)
    together, alone = run(encoder, audios), [run(encoder, [audio]) for audio in audios]
    for layer in LAYERS:
        joined = torch.cat([one.states[layer] for one in alone])
        torch.testing.assert_close(together.states[layer], joined, rtol=0, atol=TOLERANCE)


def test_a_model_that_hears_padding_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load_audio_encoder(str(tiny.save_encoder(tmp_path, "sew")), "float32", "cpu")
    assert not encoder.may_pad
    assert "hears padding" in capsys.readouterr().err
    audios = tiny.recordings(0.7, 0.7)
    together, alone = run(encoder, audios), [run(encoder, [audio]) for audio in audios]
    joined = torch.cat([one.states[2] for one in alone])
    torch.testing.assert_close(together.states[2], joined, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "data2vec", "conformer"])
def test_padding_would_be_heard_if_rows_did_not_run_alone(tmp_path: Path, family: str) -> None:
    encoder: Any = load_audio_encoder(str(tiny.save_encoder(tmp_path, family)), "float32", "cpu")
    assert encoder.may_pad
    audios = tiny.recordings(0.4, 1.3)
    alone = run(encoder, audios[:1]).states[1]
    encoder.alone = None
    together = run(encoder, audios).states[1][: len(alone)]
    assert (together - alone).abs().max() > 1e-3


def test_only_the_chosen_layers_are_kept(encoder: FrameModel) -> None:
    batch = encoder.build(tiny.recordings(0.5))
    assert set(encoder.forward(batch, (1, 3)).states) == {1, 3}
    assert not encoder.forward(batch, ()).states
    with pytest.raises(UsageError, match="layers 0 to 3"):
        encoder.forward(batch, (4,))


def test_shape_is_told_without_weights(saved: tuple[str, Path], encoder: FrameModel) -> None:
    _, path = saved
    next(path.glob("*.safetensors")).rename(path / "away")
    try:
        assert is_audio_encoder(str(path))
        assert encoder_shape(str(path)) == encoder.shape
    finally:
        (path / "away").rename(path / "model.safetensors")
    assert (encoder.shape.num_layers, encoder.shape.width) == (tiny.NUM_LAYERS, tiny.WIDTH)
    assert encoder.shape.dtype == "float32"
    assert not encoder.shape.utterance_labels + encoder.shape.frame_labels
    assert not encoder.module.training


def test_what_can_be_heard(saved: tuple[str, Path], encoder: FrameModel) -> None:
    windows = {"whisper": 4.0, "ast": 2.015}
    assert encoder.max_audio_s == windows.get(saved[0], float("inf"))
    # fewer than one frame's receptive field
    with pytest.raises(AudioError, match="too short"):
        encoder.build([np.zeros(100, np.float32)])
    with pytest.raises(AudioError, match="expected mono"):
        encoder.build([np.zeros(0, np.float32)])
    with pytest.raises(AudioError, match="NaN"):
        encoder.build([np.full(8000, np.nan, np.float32)])
    if saved[0] in windows:
        with pytest.raises(AudioError, match="cut the recording"):
            encoder.build(tiny.recordings(4.01))
        full = encoder.build(tiny.recordings(windows[saved[0]]))
        assert full.num_frames == [{"whisper": 200, "ast": 39}[saved[0]]]


def test_the_shortest_recording_has_one_frame() -> None:
    convolutions = Convolutions(kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2))
    assert (convolutions.stride, convolutions.num_samples(1)) == (320, 400)
    for frames in (1, 2, 49, 50):
        fewest = convolutions.num_samples(frames)
        assert convolutions.num_frames(fewest) == frames
        assert convolutions.num_frames(fewest - 1) == frames - 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(saved: tuple[str, Path], encoder: FrameModel, dtype: str) -> None:
    half = load_audio_encoder(str(saved[1]), dtype, "cpu")
    audios = tiny.recordings(0.6)
    with torch.inference_mode():
        states = half.forward(half.build(audios), LAYERS).states[3]
    assert states.dtype == getattr(torch, dtype)
    assert half.may_pad == encoder.may_pad
    expected = run(encoder, audios).states[3]
    # bfloat16 keeps 8 bits a value, and a block adds up dozens of them
    assert (states.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.gpu
def test_on_a_gpu(saved: tuple[str, Path], encoder: FrameModel) -> None:
    there = load_audio_encoder(str(saved[1]), "float32", "cuda")
    assert (there.device.type, there.may_pad) == ("cuda", encoder.may_pad)
    audios = tiny.recordings(*((0.6, 1.1) if encoder.may_pad else (0.6, 0.6)))
    with torch.inference_mode():
        found = there.forward(there.build(audios).to(there.device), LAYERS).states
    expected = run(encoder, audios).states
    for layer in LAYERS:  # convolutions in TF32 keep 10 bits a value
        torch.testing.assert_close(found[layer].cpu(), expected[layer], rtol=0, atol=2e-2)


def test_dtype_of_the_weights(tmp_path: Path) -> None:
    path = str(tiny.save_encoder(tmp_path, "hubert", dtype=torch.bfloat16))
    assert encoder_shape(path).dtype == "bfloat16"
    assert load_audio_encoder(path, "auto", "cpu").module.dtype == torch.bfloat16


_UNUSED = (
    "masked_spec_embed",
    "encoder.layer_norm",
    "encoder.upsample",
    "adapter",
    "embed_positions",
)
"""What no state depends on: masks of training, what is behind the last block, and sinusoids.

Whisper and wav2vec 2.0 Conformer have more of it, the latter a convolution it never runs.
"""


def test_training_lowers_the_loss(saved: tuple[str, Path]) -> None:
    encoder = load_audio_encoder(str(saved[1]), "float32", "cpu")
    lengths = (0.4, 0.9) if encoder.may_pad else (0.6, 0.6)
    batch = encoder.build(tiny.recordings(*lengths))
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
        name
        for name, parameter in encoder.module.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    more = {
        "whisper": ("layer_norm",),
        "conformer": ("encoder.pos_conv_embed",),
        "ast": ("layernorm",),
    }
    unused = _UNUSED + more.get(saved[0], ())
    assert not {name for name in still if not name.startswith(unused)}
