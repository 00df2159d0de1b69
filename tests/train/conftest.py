from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "audio_models")]

import tiny_audio_lm
from tiny_tape import MakeTape, build_tape

from audio_models.load import AudioLM, load_audio_lm


@pytest.fixture(scope="session")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_audio_lm.save_omni(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def student(student_dir: Path) -> AudioLM:
    return load_audio_lm(str(student_dir), "float32", "cpu")


@pytest.fixture
def make_tape(tmp_path: Path, student: AudioLM) -> MakeTape:
    return functools.partial(build_tape, tmp_path / "tape", student)
