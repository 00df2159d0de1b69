from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_audio_lm

from audio_models.load import AudioLM, load_audio_lm


@pytest.fixture(scope="session")
def omni_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_audio_lm.save_omni(tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="session")
def qwen_audio_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_audio_lm.save_qwen_audio(tmp_path_factory.mktemp("qwen_audio"))


@pytest.fixture(scope="session")
def omni(omni_dir: Path) -> AudioLM:
    return load_audio_lm(str(omni_dir), "float32", "cpu")


@pytest.fixture(scope="session")
def qwen_audio(qwen_audio_dir: Path) -> AudioLM:
    return load_audio_lm(str(qwen_audio_dir), "float32", "cpu")


@pytest.fixture(scope="session", params=["omni", "qwen_audio"])
def lm(request: pytest.FixtureRequest) -> AudioLM:
    return request.getfixturevalue(request.param)


def tone(seconds: float, frequency_hz: float) -> np.ndarray:
    times_s = np.arange(int(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


@pytest.fixture(scope="session")
def tones() -> list[np.ndarray]:
    return [tone(0.5, 300.0), tone(1.37, 500.0), tone(0.9, 900.0)]
