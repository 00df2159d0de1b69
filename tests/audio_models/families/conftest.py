"""Families beside the Qwen2 ones: each tiny, built here, with its real processor class."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_audio_families

from audio_models.load import AudioLM, load_audio_lm

FAMILY_NAMES = sorted(tiny_audio_families.SAVE)


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_audio_families.SAVE[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def lm(family_dir: Path) -> AudioLM:
    return load_audio_lm(str(family_dir), "float32", "cpu")
