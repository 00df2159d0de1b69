"""Two keys, and copies of a tape that one of them signed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import whole_tape
from signed import run


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two keys and their public halves, made by the command."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        status, told = run("seal", "--generate-key", folder / name)
        assert status == 0, told
    assert (folder / "ours").stat().st_mode & 0o777 == 0o600
    return folder


@pytest.fixture(scope="session")
def signed_once(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    root = whole_tape.make(tmp_path_factory.mktemp("tape") / "tape")
    status, told = run("seal", root, "--key", keys / "ours")
    assert status == 0, told
    return root


@pytest.fixture
def tape(tmp_path: Path, signed_once: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "tape"))
