"""A sound tape, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sound_tape import make


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sound") / "tape")


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "tape"))
