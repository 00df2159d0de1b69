"""A tiny world without a network: every number is a tone of its own."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from examples.quickstart.recordings import SAMPLE_RATE_HZ, Recording, RecordingSet
from examples.quickstart.teacher import tokenizer_texts
from examples.quickstart.tokens import make_processor, make_tokenizer
from examples.quickstart.world import draw_rows, split_compositions


def tone(number: int, pitch: float) -> np.ndarray:
    times_s = np.arange(int((0.3 + 0.02 * number) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return np.sin(2 * np.pi * pitch * (200 + 60 * number) * times_s).astype(np.float32)


@pytest.fixture(scope="session")
def tones() -> RecordingSet:
    return RecordingSet(
        name="tones",
        note="for tests",
        recordings=tuple(
            Recording(number=number, speaker=speaker, language="Whistle", wave=tone(number, pitch))
            for speaker, pitch in (("low", 1.0), ("high", 1.5))
            for number in range(10)
        ),
    )


@pytest.fixture(scope="session")
def rows(tones):
    training, _ = split_compositions(0)
    return draw_rows("row", training, tones, 80, np.random.default_rng(0))


@pytest.fixture(scope="session")
def tokenizer(rows):
    return make_tokenizer(tokenizer_texts(rows))


@pytest.fixture(scope="session")
def processor(tokenizer):
    return make_processor(tokenizer)


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory):
    """Recordings named as FSDD names them: four voices, a take for each part and one more."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "recordings").mkdir()
    for voice, speaker in enumerate(("ann", "bob", "cid", "dan")):
        for number in range(10):
            for take in (0, 5, 10, 11):
                wave = tone(number, 1.0 + 0.2 * voice + 0.01 * take)
                name = f"{number}_{speaker}_{take}.wav"
                soundfile.write(folder / "recordings" / name, wave, SAMPLE_RATE_HZ)
    return folder
