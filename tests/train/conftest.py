from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_audio_lm
import torch
from accelerate.state import AcceleratorState
from forks import Forks
from tiny_tape import MakeTape, build_tape

from audio_models.load import AudioLM, load_audio_lm


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices: OpenMP teams of parallel tests only spin against each other."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Each run in this process chooses its precision anew."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_audio_lm.save_omni(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def student(student_dir: Path) -> AudioLM:
    return load_audio_lm(str(student_dir), "float32", "cpu")


@pytest.fixture(scope="session")
def forgetful_dir(student_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same student with dropout, so that what random numbers are drawn shows."""
    directory = tmp_path_factory.mktemp("forgetful") / "student"
    shutil.copytree(student_dir, directory)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["attention_dropout"] = config["audio_config"]["dropout"] = 0.2
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def make_tape(tmp_path: Path, student: AudioLM) -> MakeTape:
    return functools.partial(build_tape, tmp_path / "tape", student)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A clean process that has imported the trainer, for runs in several processes."""
    with Forks("train_runs") as started:
        yield started
