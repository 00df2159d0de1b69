"""The audio tower read inside a whole model, of every family, against the same tower alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_audio_families
import tiny_audio_lm
import torch
from family_requests import SECONDS, tone
from peft import LoraConfig, get_peft_model
from torch import Tensor

from audio_models.families import FAMILIES
from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from audio_models.tower import AudioTower, load_audio_tower
from audio_models.tower_inside import InnerTower
from cache_schema.errors import ModelError

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
def alone(folder: Path) -> AudioTower:
    return load_audio_tower(str(folder), "float32", "cpu")


def recordings(lm: AudioLM) -> list[np.ndarray]:
    """Return recordings of several lengths; one is longer than a window where there are some."""
    longest = min(6.3, lm.max_audio_s)
    return [tone(seconds, 200.0 * seconds + 90) for seconds in (*SECONDS, longest)]


def requests(audios: list[np.ndarray]) -> list[Request]:
    """Return rows of different lengths of text too."""
    answers = [np.arange(3 + 4 * index) for index in range(len(audios))]
    rows = zip(audios, answers, strict=True)
    return [Request(audio=audio, text="Which?", response_ids=ids) for audio, ids in rows]


def inside(lm: AudioLM, batch: AudioBatch) -> Tensor:
    """Return the frames of a pass of the whole model."""
    tower = InnerTower(lm.model)
    with tower.read() as outputs:
        lm.model(**batch.inputs, use_cache=False)
    return tower.frames(batch, outputs)


def test_values_and_times_are_those_of_the_tower_alone(lm: AudioLM, alone: AudioTower) -> None:
    """Of a batch with padding, of text and of audio."""
    audios = recordings(lm)
    batch = build_inputs(lm, requests(audios))
    frames = alone.build(audios)
    assert InnerTower(lm.model).num_layers == alone.shape.num_layers
    for times_s, expected_s in zip(batch.tower_times_s, frames.times_s, strict=True):
        np.testing.assert_array_equal(times_s, expected_s)
        assert len(times_s) > 0
    top = alone.shape.num_layers
    with torch.no_grad():
        expected = alone.forward(frames, [top]).states[top]
        found, run = inside(lm, batch), InnerTower(lm.model).run(batch)
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=1e-3)
    torch.testing.assert_close(run, expected, atol=ATOL, rtol=1e-3)


def test_padding_and_batching_change_nothing(lm: AudioLM) -> None:
    rows = requests(recordings(lm))
    batch = build_inputs(lm, rows)
    with torch.no_grad():
        together = inside(lm, batch).split([len(times) for times in batch.tower_times_s])
        for part, row in zip(together, rows, strict=True):
            single = inside(lm, build_inputs(lm, [row]))
            torch.testing.assert_close(part, single, atol=ATOL, rtol=1e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_gradients_reach_the_tower_and_nothing_behind_it(lm: AudioLM, whole: bool) -> None:
    """Also where activations are forgotten and computed again, in families that can."""
    batch = build_inputs(lm, requests(recordings(lm)[:2]))
    tower = InnerTower(lm.model)
    assert lm.family.tower is not None
    name = ".".join(lm.family.tower.module) + "."
    found: list[dict[str, Tensor]] = []
    lm.model.train()
    for again in (False, True)[: 1 + lm.model.supports_gradient_checkpointing]:
        if again:
            lm.model.gradient_checkpointing_enable({"use_reentrant": False})
        lm.model.zero_grad()
        (inside(lm, batch) if whole else tower.run(batch)).square().sum().backward()
        grads = {n: p.grad for n, p in lm.model.named_parameters() if p.grad is not None}
        found.append({n: each.clone() for n, each in grads.items() if each.any()})
    if lm.model.supports_gradient_checkpointing:
        lm.model.gradient_checkpointing_disable()
    lm.model.zero_grad()
    lm.model.eval()
    assert all(n.startswith(name) for n in found[0])
    blocks = [n for n, _ in lm.model.named_parameters() if n.startswith(name) and ".0." in n]
    assert len(found[0].keys() & set(blocks)) > 0.8 * len(blocks) > 0
    for n, each in found[0].items():
        torch.testing.assert_close(found[-1][n], each, rtol=1e-3, atol=1e-4)


def test_an_adapted_model_has_its_tower_where_it_was(lm: AudioLM) -> None:
    plain = InnerTower(lm.model)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "qkv_proj"])
    wrapped = get_peft_model(lm.model, config)
    adapted = InnerTower(wrapped)
    wrapped.unload()
    assert (adapted.num_layers, adapted.width) == (plain.num_layers, plain.width)


def test_every_family_that_is_listed_has_a_tower() -> None:
    assert all(family.tower is not None for family in FAMILIES.values())


def test_a_model_whose_tower_is_not_known_is_refused(lm: AudioLM) -> None:
    unlisted = torch.nn.Linear(1, 1)
    with pytest.raises(ModelError, match="tower of Linear is not known"):
        InnerTower(unlisted)
    batch = build_inputs(lm, requests(recordings(lm)[:1]))
    with pytest.raises(ModelError, match=r"ran 0 times for a batch, expected 1"):
        InnerTower(lm.model).frames(batch, [])
