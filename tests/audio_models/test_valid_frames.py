"""What a pass holds: the valid frames of the chosen layers, taken as each layer is computed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_encoders as tiny
import tiny_audio_families
import tiny_audio_lm
import torch
from family_requests import tone

from audio_models.blocks import Blocks
from audio_models.encoders.load import load_audio_encoder
from audio_models.frames import FrameModel
from audio_models.tower import load_audio_tower
from audio_models.tower_layouts import TowerCall
from audio_models.valid_frames import ValidFrames, sent
from cache_schema.errors import ModelError

LAYERS = range(tiny.NUM_LAYERS + 1)
TOWERS = {**tiny_audio_families.SAVE, "qwen_audio": tiny_audio_lm.save_qwen_audio}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Collect what a pass of a model has kept of its layers when it ends."""
    kept: list[torch.Tensor] = []
    read = Blocks.read

    @contextmanager
    def watched(*args: Any) -> Iterator[Any]:
        with read(*args) as states:
            yield states
            kept.extend(states.values())

    monkeypatch.setattr(Blocks, "read", watched)
    return kept


def sizes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@torch.no_grad()
def check_held(
    model: FrameModel, audios: list[np.ndarray], layers: range, held: list[torch.Tensor]
) -> None:
    batch = model.build(audios)
    held.clear()
    outputs = model.forward(batch, layers)
    one_layer = sum(batch.num_frames) * model.shape.width * 4
    assert sizes(held) == sizes(list(outputs.states.values())) == len(layers) * one_layer
    assert list(outputs.states) == list(layers)


@pytest.mark.parametrize("family", ["whisper", "ast", "wavlm", "conformer", "wav2vec2-bert"])
def test_an_encoder_holds_valid_frames_alone(
    tmp_path: Path, held: list[torch.Tensor], family: str
) -> None:
    encoder = load_audio_encoder(str(tiny.save_encoder(tmp_path, family)), "float32", "cpu")
    check_held(encoder, tiny.recordings(0.2, 1.1), LAYERS, held)


@pytest.mark.parametrize("family", sorted(TOWERS))
def test_a_tower_holds_valid_frames_alone(
    tmp_path: Path, held: list[torch.Tensor], family: str
) -> None:
    model = load_audio_tower(str(TOWERS[family](tmp_path)), "float32", "cpu")
    layers = range(model.shape.num_layers + 1)
    check_held(model, [tone(0.5, 300.0), tone(1.3, 400.0)], layers, held)


def test_a_layer_is_let_go_before_the_next_but_one_runs(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "whisper")
    encoder: Any = load_audio_encoder(str(path), "float32", "cpu")
    blocks = encoder.module.layers
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def note(_module: Any, _args: Any, output: Any) -> None:
        made.append(weakref.ref(output[0] if isinstance(output, tuple) else output))

    blocks[0].register_forward_hook(note)
    blocks[2].register_forward_pre_hook(lambda *_: alive.append(made[0]() is not None))
    with torch.no_grad():
        encoder.forward(encoder.build(tiny.recordings(0.2)), LAYERS)
    assert alive == [False]


def test_frames_of_every_row() -> None:
    values_BFD = torch.arange(24.0).view(2, 3, 4)
    valid = ValidFrames.first([1, 3], torch.device("cpu"))
    expected = torch.cat([values_BFD[0, :1], values_BFD[1]])
    assert torch.equal(valid.take(values_BFD), expected)
    with pytest.raises(ModelError, match="2 frames were made where the configuration says 3"):
        valid.take(values_BFD[:, :2])


@pytest.mark.gpu
def test_taking_frames_waits_for_no_gpu() -> None:
    """The parts that are ours; transformers asks a mask on the device whether it is all true."""
    values_BFD = torch.randn(2, 3, 4, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        valid = ValidFrames.first([1, 3], values_BFD.device)
        taken_ND = valid.take(values_BFD)
        call = TowerCall(
            inputs={}, num_frames=2, kept_N=sent(torch.tensor([0, 4]), valid.rows_N.device)
        )
        selected_ND = call.select(values_BFD)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(taken_ND, torch.cat([values_BFD[0, :1], values_BFD[1]]))
    assert torch.equal(selected_ND, values_BFD.flatten(0, 1)[[0, 4]])
