from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from textual_bench import Bench, describe
from tiny_audio_lm import save_omni
from tiny_encoders import save_encoder
from tiny_stage_one import extraction, run_pipeline, save_dataset, save_text_teacher

from pipeline.recipe import ExtractRecipe


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def text_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_teacher(tmp_path_factory.mktemp("text_teacher"))


@pytest.fixture(scope="session")
def saved_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Text encoders, by family: each is saved once."""
    folder = tmp_path_factory.mktemp("encoders")

    def save(family: str) -> Path:
        path = folder / family
        return path if path.exists() else save_encoder(path, family)

    return save


@pytest.fixture(scope="session")
def arithmetic_tape(tmp_path_factory: pytest.TempPathFactory) -> ExtractRecipe:
    return describe(tmp_path_factory.mktemp("described"))


@pytest.fixture
def bench(arithmetic_tape: ExtractRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(arithmetic_tape, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def acoustic_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_omni(tmp_path_factory.mktemp("acoustic_teacher"))


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def tape_dir(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    dataset: Path,
    text_teacher: Path,
    acoustic_teacher: Path,
) -> Path:
    """A tape whose teachers are gone: they were copies, deleted after extraction."""
    folder = tmp_path_factory.mktemp("tapes")
    out = folder / request.param
    copies = [
        Path(shutil.copytree(model, folder / f"teacher-{name}"))
        for name, model in (("text", text_teacher), ("audio", acoustic_teacher))
    ]
    done = run_pipeline(*extraction(dataset, *copies, out, request.param))
    assert done.returncode == 0, done.stderr
    for copy in copies:
        shutil.rmtree(copy)
    return out
