"""Real encoded recordings of every kind give the samples that were put in.

The reference is the sound itself, computed at 16 kHz from its formula.
"""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from encoded_audio import RESAMPLED, encoded, error_of, sound
from torchaudio.functional import resample as resample_by_torchaudio

from cache_schema.codecs.pcm import decode_audio, encode_audio
from cache_schema.errors import AudioError
from pipeline.audio import resample
from pipeline.audio.recordings import load_audio
from pipeline.dataset.rows import open_rows
from pipeline.recipe import DatasetRecipe

FORMS = [
    ("WAV", "PCM_U8", 0.01),  # 1/128, rounded
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "PCM_24", 1e-5),
    ("WAV", "PCM_32", 1e-5),
    ("WAV", "FLOAT", 1e-5),
    ("WAV", "DOUBLE", 1e-5),
    ("WAV", "ULAW", 0.03),
    ("AIFF", "PCM_16", 1e-4),
    ("FLAC", "PCM_16", 1e-4),
    ("FLAC", "PCM_24", 1e-5),
    ("OGG", "VORBIS", 0.05),
    ("MP3", "MPEG_LAYER_III", 0.05),
]
"""Container, encoding, and how far a sample may be off at 16 kHz: half a step, or the codec's."""

NONE = ("MP3", 96_000)
"""No MP3 has this rate."""


RATES_HZ = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000)
CASES = [(*form, rate_hz) for form in FORMS for rate_hz in RATES_HZ if (form[0], rate_hz) != NONE]


@pytest.mark.parametrize(("form", "subtype", "tolerance", "rate_hz"), CASES)
def test_every_form_at_every_rate(form: str, subtype: str, tolerance: float, rate_hz: int) -> None:
    wave = sound(rate_hz)
    audio = load_audio(encoded(wave, rate_hz, form, subtype), None)
    allowed = tolerance + (RESAMPLED if rate_hz != 16_000 else 0)
    assert error_of(audio, sound(16_000)) < allowed
    twice = np.stack([1.2 * wave, 0.8 * wave], axis=1)
    if subtype != "ULAW":
        assert error_of(load_audio(encoded(twice, rate_hz, form, subtype), None), audio) < (
            2 * tolerance + 1e-6
        )


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 48_000])
def test_opus(rate_hz: int) -> None:
    """A speech codec: it keeps what is heard, not the wave, so its spectrum is compared."""
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        pytest.skip("this libsndfile has no Opus")
    audio = load_audio(encoded(sound(rate_hz), rate_hz, "OGG", "OPUS"), None)
    reference = sound(16_000)
    assert len(audio) == pytest.approx(len(reference), abs=1)
    found, wanted = (np.abs(np.fft.rfft(one[: len(reference) - 1])) for one in (audio, reference))
    assert np.abs(found - wanted).max() < 0.1 * wanted.max()


def test_a_rate_of_many_phases_is_filtered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole kernel is too long each sample has its own weights: the same to rounding."""
    for rate_hz in (8_000, 11_025, 44_100, 96_000):
        wave = sound(rate_hz)
        theirs = resample_by_torchaudio(torch.from_numpy(wave), rate_hz, 16_000).numpy()
        np.testing.assert_array_equal(resample.resample(wave, rate_hz), theirs)
        with monkeypatch.context() as patched:
            patched.setattr(resample, "MAX_KERNEL", 0)
            patched.setattr(resample, "_BLOCK", 1_000)
            np.testing.assert_allclose(resample.resample(wave, rate_hz), theirs, atol=2e-5)
    for rate_hz in (44_101, 47_999):
        audio = load_audio({"array": sound(rate_hz), "sampling_rate": rate_hz}, None)
        assert error_of(audio, sound(16_000)) < RESAMPLED


def test_channels_are_averaged_in_files_and_arrays() -> None:
    parts = np.stack([sound(16_000) * share for share in (0.2, 0.4, 0.1, 0.1, 0.8)], axis=1)
    mean = parts.mean(axis=1)
    for form in ("WAV", "FLAC"):
        subtype = "FLOAT" if form == "WAV" else "PCM_24"
        audio = load_audio(encoded(parts, 16_000, form, subtype), None)
        np.testing.assert_allclose(audio, mean, atol=1e-6)
    for array in (parts, parts.T, parts.tolist()):
        audio = load_audio({"array": array, "sampling_rate": 16_000}, None)
        np.testing.assert_allclose(audio, mean, atol=1e-6)


def test_arrays_of_integers() -> None:
    wave = sound(16_000)
    for dtype, one, zero in ((np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.uint8, 128, 128)):
        array = np.clip(np.round(wave.astype(np.float64) * one) + zero, 0 if zero else -one, None)
        audio = load_audio({"array": array.astype(dtype), "sampling_rate": 16_000}, None)
        np.testing.assert_allclose(audio, wave, atol=0.51 / one + 1e-7)
    eight = load_audio(encoded(wave, 16_000, "WAV", "PCM_U8"), None)
    words = np.round(eight * 128 + 128).astype(np.uint8)
    np.testing.assert_array_equal(
        load_audio({"array": words, "sampling_rate": 16_000}, None), eight
    )


def test_every_way_to_give_a_recording(tmp_path: Path) -> None:
    wave = sound(16_000)
    content = encoded(wave, 16_000, "WAV", "FLOAT")
    (tmp_path / "clips").mkdir()
    path = tmp_path / "clips" / "a b ü.wav"
    path.write_bytes(content)
    array = {"array": wave, "sampling_rate": 16_000.0}
    for value in (
        "clips/a b ü.wav", str(path), path, Path("clips/a b ü.wav"), content, bytearray(content),
        memoryview(content), array, {"bytes": content, "path": "gone.wav"},
        {"bytes": None, "path": "clips/a b ü.wav"}, {"path": str(path)}, {**array, "path": "gone"},
    ):  # fmt: skip
        np.testing.assert_array_equal(load_audio(value, tmp_path), wave)


def test_a_column_of_audio(tmp_path: Path) -> None:
    """As `datasets` stores them: bytes inside, paths beside; none is decoded by `datasets`."""
    waves = [sound(rate_hz) for rate_hz in (16_000, 44_100)]
    paths = []
    for number, (wave, rate_hz) in enumerate(zip(waves, (16_000, 44_100), strict=True)):
        paths.append(str(tmp_path / f"{number}.flac"))
        soundfile.write(paths[-1], wave, rate_hz)
    cells = [
        {"bytes": Path(paths[0]).read_bytes(), "path": None},
        {"bytes": None, "path": paths[1]},
    ]
    made = datasets.Dataset.from_list(
        [{"audio": cell, "question": "?"} for cell in cells]
    ).cast_column("audio", datasets.Audio())
    made.save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "rows.parquet"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in map(Path, paths):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "metadata.csv").write_text("file_name,question\n0.flac,?\n1.flac,?\n")
    for name in ("saved", "rows.parquet", "folder"):
        rows = open_rows(DatasetRecipe(path=str(tmp_path / name)))
        for number in range(2):
            audio = rows.sample(number).audio
            assert audio is not None
            assert error_of(audio, sound(16_000)) < RESAMPLED + 1e-4


def test_values_beyond_one_are_kept_to_the_bit() -> None:
    loud = 3 * sound(16_000)
    audio = load_audio(encoded(loud, 16_000, "WAV", "FLOAT"), None)
    np.testing.assert_array_equal(audio, loud)
    assert np.abs(audio).max() > 1
    for wave in (loud, loud * np.float32(1e37), np.array([-1, 1 - 2**-15], np.float32)):
        np.testing.assert_array_equal(decode_audio(*encode_audio(wave)), wave)
    assert encode_audio(loud)[1] == "float32"
    largest = np.tile(np.repeat(np.array([3.4e38, -3.4e38], np.float32), 50), 9)
    whole = load_audio({"array": largest, "sampling_rate": 16_000}, None)
    np.testing.assert_array_equal(whole, largest)
    with pytest.raises(AudioError, match="too large"):
        load_audio({"array": largest, "sampling_rate": 44_100}, None)  # the filter overshoots
