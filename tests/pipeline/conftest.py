from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_audio_lm import save_omni
from tiny_stage_one import extraction, run_pipeline, save_dataset, save_text_teacher


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def text_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_teacher(tmp_path_factory.mktemp("text_teacher"))


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
