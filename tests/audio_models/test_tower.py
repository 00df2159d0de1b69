"""Audio towers by themselves, against the same towers inside the whole models."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_families
import tiny_audio_lm
import torch
import transformers
from family_requests import SECONDS, tone

from audio_models import tower
from audio_models.families import FAMILIES
from audio_models.frames import FrameModel
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from audio_models.tower import AudioTower, load_audio_tower, tower_shape
from cache_schema.errors import AudioError, ModelError

# float32, states of order 1; a batch reorders the sums of attention and of matrix products
ATOL = 5e-5

SAVE = {
    **tiny_audio_families.SAVE,
    "qwen_omni": tiny_audio_lm.save_omni,
    "qwen_audio": tiny_audio_lm.save_qwen_audio,
}


@pytest.fixture(scope="module", params=sorted(SAVE))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def lm(folder: Path) -> AudioLM:
    return load_audio_lm(str(folder), "float32", "cpu")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> AudioTower:
    return load_audio_tower(str(folder), "float32", "cpu")


def recordings() -> list[np.ndarray]:
    return [tone(seconds, 200.0 * seconds + 90) for seconds in SECONDS]


def frames_of(family: str, num_samples: int) -> int:
    """Return the tower's frames of a recording, written down apart from the layouts."""
    features = -(-num_samples // 160)
    if family == "Phi-4-multimodal":
        return -(-((num_samples - 400) // 160 + 1) // 8)
    if family == "Qwen3-Omni":
        return features // 100 * 13 + -(-(features % 100) // 8)
    if family == "Granite Speech":
        return (num_samples // 160 + 1) // 2
    return (features + 1) // 2


@contextmanager
def hooked(module: Any, states: list[torch.Tensor]) -> Iterator[None]:
    """Collect what the blocks read and leave, copied at once: Granite adds to a state in place."""
    name = "encoders" if hasattr(module, "encoders") else "layers"
    blocks = getattr(module, name)

    def keep_input(_module: Any, args: Any, kwargs: Any) -> None:
        states.append((args[0] if args else kwargs["hidden_states"]).clone())

    def keep_output(_module: Any, _args: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [block.register_forward_pre_hook(keep_input, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(keep_output))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tower_inside(network: Any) -> Any:
    places = (
        "audio_tower", "model.audio_tower", "model.encoder",
        "model.embed_tokens_extend.audio_embed.encoder",
    )  # fmt: skip
    modules = dict(network.named_modules())
    (found,) = (modules[place] for place in places if place in modules)
    return found


def test_it_is_a_frame_model(loaded: AudioTower, folder: Path) -> None:
    model: FrameModel = loaded
    assert model.shape == tower_shape(str(folder))
    assert model.shape.num_layers in (1, 2)
    assert model.shape.width == 32
    assert model.shape.dtype == "float32"
    assert model.may_pad
    assert not model.module.training
    assert model.device == torch.device("cpu")


def test_states_equal_those_inside_the_whole_model(
    loaded: AudioTower, lm: AudioLM, folder: Path
) -> None:
    layers = range(loaded.shape.num_layers + 1)
    untouched = type(lm.model).from_pretrained(folder, dtype=torch.float32).eval()
    whole = tower_inside(untouched)
    seconds = [s for s in (6.3, 9.0) if s <= lm.max_audio_s] or [lm.max_audio_s]
    for audio in [*recordings(), *(tone(s, 500.0) for s in seconds)]:
        batch = build_inputs(lm, [Request(audio=audio, text="Which?")])
        inside: list[torch.Tensor] = []
        with torch.no_grad(), hooked(whole, inside):
            untouched(**batch.inputs)
        frames = loaded.build([audio])
        with torch.no_grad():
            outputs = loaded.forward(frames, list(layers))
        count = frames_of(lm.family.name, len(audio))
        assert frames.num_frames == [count]
        for layer in layers:
            expected = inside[layer].reshape(-1, loaded.shape.width)
            # windows are full but for the last, so what is valid comes first
            torch.testing.assert_close(outputs.states[layer], expected[:count], atol=0, rtol=0)


def test_a_batch_equals_single_recordings(loaded: AudioTower) -> None:
    layers = list(range(loaded.shape.num_layers + 1))
    audios = recordings()
    batch = loaded.build(audios)
    with torch.no_grad():
        together = loaded.forward(batch, layers)
        alone = [loaded.forward(loaded.build([audio]), layers) for audio in audios]
    for layer in layers:
        parts = together.states[layer].split(batch.num_frames)
        for part, single in zip(parts, alone, strict=True):
            torch.testing.assert_close(part, single.states[layer], atol=ATOL, rtol=1e-3)


def test_frames_have_their_seconds(loaded: AudioTower) -> None:
    audios = recordings()
    batch = loaded.build(audios)
    step_s = loaded.layout.step * loaded.layout.feature_s
    for times, audio in zip(batch.times_s, audios, strict=True):
        duration_s = len(audio) / 16_000
        assert times.dtype == np.float32
        assert times.shape == (frames_of(loaded.family.name, len(audio)), 2)
        assert times[0, 0] == 0.0
        assert duration_s - step_s <= times[-1, 1] <= np.float32(duration_s)
        assert (times[:, 1] > times[:, 0]).all()
        np.testing.assert_array_equal(times[1:, 0], times[:-1, 1])
        assert np.diff(times).max() == pytest.approx(step_s, abs=1e-5)  # float32


def test_gradients_flow_into_the_tower(loaded: AudioTower) -> None:
    batch = loaded.build(recordings())
    last = loaded.shape.num_layers
    outputs = loaded.forward(batch, [0, last])
    outputs.states[last].square().mean().backward()
    blocks = getattr(loaded.module, "layers", None) or loaded.module.encoders
    grads = [p.grad.abs().sum() for p in blocks[0].parameters() if p.grad is not None]
    assert sum(grads) > 0
    assert torch.isfinite(sum(grads))
    loaded.module.zero_grad()


def test_only_the_chosen_layers_are_kept(loaded: AudioTower) -> None:
    batch = loaded.build(recordings()[:1]).to(loaded.device)
    with torch.no_grad():
        outputs = loaded.forward(batch, [1])
    assert list(outputs.states) == [1]
    assert outputs.states[1].shape == (sum(batch.num_frames), loaded.shape.width)
    assert outputs.utterance_logits_BC is None
    assert outputs.frame_logits_NC is None
    assert outputs.embedding_BE is None


def test_unusable_recordings_are_named(loaded: AudioTower) -> None:
    with pytest.raises(AudioError, match="mono"):
        loaded.build([np.zeros((2, 800), np.float32)])
    with pytest.raises(AudioError, match="mono"):
        loaded.build([np.zeros(0, np.float32)])
    with pytest.raises(AudioError, match="NaN"):
        loaded.build([np.full(8000, np.nan, np.float32)])
    if loaded.max_audio_s < 100:
        with pytest.raises(AudioError, match="hears"):
            loaded.build([tone(loaded.max_audio_s + 0.1, 300.0)])
    if loaded.family.min_audio_s:
        with pytest.raises(AudioError, match="too short"):
            loaded.build([tone(1.0, 300.0)[:160]])
    else:
        assert loaded.build([tone(1.0, 300.0)[:1]]).num_frames == [1]


def test_nothing_but_the_tower_stays_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest: list[weakref.ref[torch.nn.Parameter]] = []
    load_network = tower.load_network

    def watched(*args: Any) -> Any:
        network = load_network(*args)
        inside = {id(parameter) for parameter in tower_inside(network).parameters()}
        rest.extend(weakref.ref(p) for p in network.parameters() if id(p) not in inside)
        return network

    monkeypatch.setattr(tower, "load_network", watched)
    kept = load_audio_tower(str(folder), "float32", "cpu")
    assert rest
    assert not any(parameter() is not None for parameter in rest)
    assert all(parameter.isfinite().all() for parameter in kept.module.parameters())


def test_windows_of_long_recordings_follow_one_another(tmp_path: Path) -> None:
    loaded = load_audio_tower(str(tiny_audio_families.save_voxtral(tmp_path)), "float32", "cpu")
    long = tone(70.5, 300.0)
    batch = loaded.build([long, tone(3.0, 300.0)])
    assert batch.num_frames == [3525, 150]
    assert batch.times_s[0][-1] == pytest.approx([70.48, 70.5])
    with torch.no_grad():
        outputs = loaded.forward(batch, [2])
        alone = loaded.forward(loaded.build([long]), [2])
    assert outputs.states[2].shape == (3675, 32)
    torch.testing.assert_close(outputs.states[2][:3525], alone.states[2], atol=ATOL, rtol=1e-3)


def test_long_recordings_of_phi_are_cut_into_chunks_by_the_tower(tmp_path: Path) -> None:
    folder = tiny_audio_families.save_phi(tmp_path)
    loaded = load_audio_tower(str(folder), "float32", "cpu")
    audio = tone(45.0, 300.0)
    batch = loaded.build([audio])
    whole = transformers.Phi4MultimodalForCausalLM.from_pretrained(folder, dtype=torch.float32)
    encoder = whole.eval().model.embed_tokens_extend.audio_embed.encoder
    features = loaded.processor.feature_extractor(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(features["audio_input_features"], None)[0]  # chunks joined, padding cut
        outputs = loaded.forward(batch, [2])
    assert batch.num_frames == [len(expected)]
    assert len(expected) > 500
    torch.testing.assert_close(outputs.states[2], expected, atol=ATOL, rtol=1e-3)


def test_the_tower_of_a_composite(tmp_path: Path) -> None:
    thinker = tiny_audio_lm.save_omni(tmp_path / "thinker")
    composite = tiny_audio_lm.save_composite_omni(thinker, tmp_path / "composite")
    assert tower_shape(str(composite)) == tower_shape(str(thinker))
    towers = [load_audio_tower(str(path), "float32", "cpu") for path in (thinker, composite)]
    for name, parameter in towers[0].module.named_parameters():
        assert torch.equal(parameter, towers[1].module.get_parameter(name)), name


def test_half_precision_runs(tmp_path: Path) -> None:
    folder = tiny_audio_lm.save_qwen_audio(tmp_path)
    for dtype in ("bfloat16", "float16"):
        loaded = load_audio_tower(str(folder), dtype, "cpu")
        with torch.no_grad():
            outputs = loaded.forward(loaded.build(recordings()), [0, 1])
        assert outputs.states[1].dtype == getattr(torch, dtype)
        assert outputs.states[1].isfinite().all()


def test_a_family_without_a_tower_line_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_audio_families.save_glm_asr(tmp_path)
    known = {key: value for key, value in FAMILIES.items() if not key.startswith("Glm")}
    monkeypatch.setattr("audio_models.families.FAMILIES", known)
    for use in (tower_shape, load_audio_tower):
        with pytest.raises(ModelError, match=r"tower of GlmAsrForConditionalGeneration is not kn"):
            use(str(folder))


def test_a_tower_that_runs_otherwise_is_refused(
    loaded: AudioTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = loaded.build(recordings()[:1])
    monkeypatch.setattr(
        tower.TowerLayout, "times_s", lambda *_: np.zeros((100_000, 2), dtype=np.float32)
    )
    wrong = loaded.build(recordings()[:1])
    assert batch.num_frames != wrong.num_frames
    with torch.no_grad(), pytest.raises(ModelError, match="expected"):
        loaded.forward(wrong, [1])
