import shutil

import numpy as np
import pytest
import soundfile

from examples.quickstart import asterisk_prompts
from examples.quickstart.recordings import (
    RecordingsError,
    first_available,
    load_saved,
    prepare,
    read_folder,
    save,
)


def test_prepare_resamples_trims_and_scales():
    silence, tone = np.zeros(800, np.float32), np.sin(np.arange(1600) / 3).astype(np.float32)
    wave = prepare(np.concatenate([silence, 0.1 * tone, silence]), 8_000)
    assert 0.19 < len(wave) / 16_000 < 0.23
    assert np.abs(wave).max() == pytest.approx(1.0)
    assert wave.dtype == np.float32


def test_save_and_load(tones, tmp_path):
    save(tones, tmp_path)
    again = load_saved(tmp_path)
    assert again.voices == tones.voices
    for kept, item in zip(again.recordings, tones.recordings, strict=True):
        assert (kept.number, kept.speaker) == (item.number, item.speaker)
        np.testing.assert_allclose(kept.wave, item.wave, atol=1e-4)


def test_a_folder_of_numbers(tones, tmp_path):
    for item in tones.recordings:
        for take in range(5):
            name = f"{item.number}_{item.speaker}_{take}.wav"
            soundfile.write(tmp_path / name, item.wave, 16_000)
    (tmp_path / "notes_on_this.wav").write_bytes(b"not a number")
    soundfile.write(tmp_path / "3_low_0.wav", np.tile(tones.recordings[0].wave, 8), 16_000)
    found = read_folder(tmp_path)
    assert len(found.recordings) == 60
    assert max(len(item.wave) for item in found.recordings) < 16_000
    for path in tmp_path.glob("7_low_*.wav"):
        path.unlink()
    with pytest.raises(RecordingsError, match="low says no 7"):
        read_folder(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(RecordingsError, match="NUMBER_SPEAKER_INDEX"):
        read_folder(tmp_path)


def test_sources_are_tried_in_order_and_aloud(tones):
    def absent():
        raise RecordingsError("no network")

    said = []
    assert first_available({"first": absent, "second": lambda: tones}, said.append) is tones
    assert said == ["first: not available (no network)"]
    with pytest.raises(RecordingsError, match="--recordings"):
        first_available({"first": absent}, said.append)


@pytest.fixture
def prompts(monkeypatch, tmp_path, tones):
    """Debian's packages replaced by tones; counts downloads."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, tones.recordings[0].wave, 16_000)
    files = {
        f"{package}/digits/{number}.wav": path.read_bytes()
        for package in asterisk_prompts.PACKAGES
        for number in range(10)
    }
    downloads = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        asterisk_prompts, "_download", lambda say: downloads.append(say) or dict(files)
    )
    return downloads


def test_prompts_are_downloaded_once_and_another_release_is_said(prompts):
    said = []
    first = asterisk_prompts.load(said.append)
    second = asterisk_prompts.load(said.append)
    assert len(prompts) == 1
    assert len(first.recordings) == len(second.recordings) == 50
    assert sum("another release" in line for line in said) == 2


def test_a_damaged_cache_is_downloaded_again(prompts):
    asterisk_prompts.load(lambda _: None)
    damaged = next(asterisk_prompts.cache_folder().glob("*-fr-wav/digits/3.wav"))
    damaged.write_bytes(b"damaged")
    asterisk_prompts.load(lambda _: None)
    assert len(prompts) == 2


def test_without_apt_the_prompts_are_not_available(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecordingsError, match="apt-get"):
        asterisk_prompts.load(lambda _: None)
