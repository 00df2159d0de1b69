"""Tiny listeners, and copies of a tape to describe by listening."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from listening_steps import ingested
from tiny_audio_lm import save_qwen_audio
from tiny_whisper import save_whisper


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def audio_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen_audio(tmp_path_factory.mktemp("audio_lm"))


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def folder(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(samples, tmp_path / "copy"))
