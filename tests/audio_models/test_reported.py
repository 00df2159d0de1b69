"""States read at the blocks against those a model reports, compared when teachers are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_audio_families
import tiny_audio_lm
import torch
from torch import nn

from audio_models import blocks, decoder
from audio_models.load import load_audio_lm
from audio_models.reported import check_lm_states
from audio_models.tower import load_audio_tower
from cache_schema.errors import ModelError

SAVE = {
    **tiny_audio_families.SAVE,
    "qwen_omni": tiny_audio_lm.save_omni,
    "qwen_audio": tiny_audio_lm.save_qwen_audio,
}


@pytest.fixture(scope="module", params=sorted(SAVE))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param))


def test_an_audio_language_model_is_read_as_it_reports(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_audio_lm(str(folder), "float32", "cpu")
    check_lm_states(lm)
    found = decoder.decoder_of(lm.model)
    other = decoder.Decoder(blocks=found.blocks[::-1], norm=found.norm)
    monkeypatch.setattr("audio_models.forward.decoder_of", lambda _model: other)
    with pytest.raises(ModelError, match=rf"{type(lm.model).__name__}: its blocks' states are not"):
        check_lm_states(lm)
    monkeypatch.undo()
    norm = nn.LayerNorm(lm.width)  # not the one the model ends in
    wrong = decoder.Decoder(blocks=found.blocks, norm=norm)
    monkeypatch.setattr("audio_models.reported.decoder_of", lambda _model: wrong)
    with pytest.raises(ModelError, match="this family cannot be read"):
        check_lm_states(lm)


def test_a_model_in_half_precision_is_read_as_it_reports(tmp_path: Path) -> None:
    check_lm_states(load_audio_lm(str(tiny_audio_lm.save_omni(tmp_path)), "bfloat16", "cpu"))


def test_a_tower_that_is_read_otherwise_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = blocks.Blocks.read

    def shifted(self: Any, layers: Any, keep: Any = None) -> Any:
        return read(self, layers, lambda states: (states if keep is None else keep(states)) + 1)

    monkeypatch.setattr(blocks.Blocks, "read", shifted)
    if "phi" in folder.name:  # reports nothing
        load_audio_tower(str(folder), "float32", "cpu")
        return
    with pytest.raises(ModelError, match=r"\w+Encoder: its blocks' states are not the hidden"):
        load_audio_tower(str(folder), "float32", "cpu")


def test_a_tower_that_cannot_run_says_in_what_it_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tiny_audio_lm.save_qwen_audio(tmp_path))

    def fail(*_args: Any, **_settings: Any) -> torch.Tensor:
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(nn.Conv1d, "forward", fail)
    with pytest.raises(ModelError, match=r"compute in float16 on cpu \(not .*; try float32"):
        load_audio_tower(path, "float16", "cpu")
