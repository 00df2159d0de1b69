"""Real encoded recordings of every kind give the samples that were put in; damaged ones a reason.

The reference is the sound itself, computed at 16 kHz from its formula.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.functional import resample as resample_by_torchaudio
from typer.testing import CliRunner

from cache_schema import open_tape
from cache_schema.codecs.pcm import decode_audio, encode_audio
from cache_schema.errors import AudioError
from pipeline import resample
from pipeline.audio import NoAudioError, load_audio
from pipeline.cli import app
from pipeline.mp3_frames import measure_mp3
from pipeline.recipe import DatasetRecipe
from pipeline.rows import open_rows

SECONDS = 1.5
EDGE = 800
"""50 ms at both ends, where codecs fade in and filters reach beyond the recording."""


def sound(rate_hz: int, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Two tones that every rate and codec here carries, with a slow beat that shows a shift."""
    times_s = np.arange(round(rate_hz * seconds)) / rate_hz
    tones = np.sin(2 * np.pi * 440 * times_s) + 0.5 * np.sin(2 * np.pi * 1_030 * times_s)
    return np.asarray(0.3 * tones * (1 + 0.5 * np.sin(2 * np.pi * 3 * times_s)), np.float32)


def encoded(wave: NDArray[Any], rate_hz: int, form: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate_hz, format=form, subtype=subtype)
    return buffer.getvalue()


def error_of(audio: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the largest difference but for the edges; lengths may differ by a sample."""
    assert audio.dtype == np.float32
    assert abs(len(audio) - len(reference)) <= 1
    inner = slice(EDGE, len(reference) - EDGE)
    return float(np.abs(audio[inner] - reference[inner]).max())


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

RESAMPLED = 6e-3
"""What the filter, 6 zero crossings wide, leaves of the images of these tones; measured 4e-3."""


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


def mp3_of_varying_rate(seconds: float = 6.0) -> bytes:
    wave = sound(16_000, seconds)
    wave[len(wave) // 3 :] += np.random.default_rng(0).normal(0, 0.2, 2 * len(wave) // 3)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", 16_000, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(wave)
    return buffer.getvalue()


def without_first_frame(mp3: bytes) -> bytes:
    """Leave out the frame that says how long the recording is."""
    second = next(at for at in range(4, len(mp3)) if mp3[at : at + 2] == mp3[:2])
    return mp3[second:]


def streamed_wav(declared: int = 0xFFFFFFFF) -> bytes:
    wav = bytearray(encoded(sound(16_000), 16_000, "WAV", "PCM_16"))
    at = wav.find(b"data") + 4
    wav[at : at + 4] = declared.to_bytes(4, "little")
    return bytes(wav)


def test_a_recording_has_the_bits_that_soundfile_reads(tmp_path: Path) -> None:
    """An MP3 decoder gives other last bits after other calls, and hashes are made of them."""
    for data in (mp3_of_varying_rate(), encoded(sound(16_000, 20.0), 16_000, "OGG", "VORBIS")):
        (tmp_path / "a").write_bytes(data)
        whole = soundfile.read(tmp_path / "a", dtype="float32")[0]
        for value in ("a", data, data):
            np.testing.assert_array_equal(load_audio(value, tmp_path), whole)


def test_a_header_that_tells_of_more_than_there_is() -> None:
    flac = bytearray(encoded(sound(16_000), 16_000, "FLAC", "PCM_16"))
    flac[21] |= 0x0F  # the 36 bits of STREAMINFO that count samples
    flac[22:26] = b"\xff" * 4
    with pytest.raises(AudioError, match=r"do not fit into memory|cannot decode|is cut off"):
        load_audio(bytes(flac), None)


def test_an_mp3_is_counted_frame_by_frame() -> None:
    mp3 = mp3_of_varying_rate()
    tagged = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 0]) + b"\xff\xfb\x90\x00" * 32 + mp3
    for data in (mp3, tagged, mp3 + b"TAG" + bytes(125)):
        assert load_audio(data, None).size == pytest.approx(96_000, abs=1)
        assert 96_000 <= measure_mp3(data).samples < 96_000 + 3 * 1152
    constant = encoded(sound(16_000, 6.0), 16_000, "MP3", "MPEG_LAYER_III")
    assert 96_000 <= measure_mp3(constant).samples < 96_000 + 3 * 1152
    assert measure_mp3(b"").samples == measure_mp3(b"\xff" * 40).samples == 0


def test_a_length_that_was_not_known_yet_is_no_damage() -> None:
    for declared in (0xFFFFFFFF, 0x7FFFFFFF):
        assert load_audio(streamed_wav(declared), None).size == 24_000


@pytest.mark.parametrize("num_samples", [4_000, 4_001])
def test_whole_files_of_every_container_are_whole(num_samples: int) -> None:
    """Odd lengths are padded by some, chunks may follow the sound: none of it is damage."""
    wave = sound(16_000)[:num_samples]
    tried = set()
    for form in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"):
        for subtype in soundfile.available_subtypes(form):
            if not soundfile.check_format(form, subtype):
                continue
            try:
                data = encoded(wave, 16_000, form, subtype)
                whole = soundfile.read(io.BytesIO(data), dtype="float32")[0]
            except soundfile.LibsndfileError:
                continue  # not at this rate, or written and never read
            np.testing.assert_array_equal(load_audio(data, None), whole)
            tried.add((form, subtype))
    assert len(tried) > 30
    wav = encoded(wave, 16_000, "WAV", "PCM_U8")
    for behind in (b"LIST\x04\0\0\0note", b"LIST\xff\0\0\0note"):
        assert len(load_audio(wav + behind, None)) == num_samples


CUT = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("AIFF", "PCM_16"), ("W64", "PCM_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "subtype"), CUT)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_recording_that_was_cut_off(
    form: str, subtype: str, share: float, tmp_path: Path
) -> None:
    whole = encoded(sound(16_000, 30.0), 16_000, form, subtype)
    assert load_audio(whole, None).size == pytest.approx(480_000, abs=1)
    part = whole[: int(share * len(whole))]
    (tmp_path / "part").write_bytes(part)
    for value in (part, "part"):
        with pytest.raises(AudioError, match=r"cannot decode|is cut off or damaged|is empty"):
            load_audio(value, tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "there is no recording"),
        ("folder", "is a directory"),
        ("x" * 5_000, "File name too long"),
        ("https://example.org/a.wav", "download it first"),
        ("notes.wav", "cannot decode .*notes.wav: "),
        (b"", r"empty \(0 bytes\)"),
        ({"bytes": b"", "path": "a.wav"}, r"empty \(0 bytes\)"),
        ({"url": "a.wav"}, "or an array with its sampling_rate, got url"),
        ({"bytes": None, "path": None}, "there is no recording"),
        ({"bytes": None, "path": " "}, "there is no recording"),
        ({"array": None, "sampling_rate": 16_000}, "there is no recording"),
        ({}, "there is no recording"),
        ({"path": ["a.wav"]}, "expected a path, bytes"),
        ("samples.raw", "cannot decode .*samples.raw: .*sample_?rate"),
        ({"array": np.full(9, 3e38), "sampling_rate": 16_000}, "silent"),
        ({"array": np.full(800, 0.25), "sampling_rate": 16_000}, "silent .0.05 s, always 0.25"),
        ({"array": np.zeros(8, np.uint8), "sampling_rate": 16_000}, "always -1"),
        ({"array": [[0.1, -0.1], [-0.1, 0.1], [0, 0]], "sampling_rate": 16_000}, "silent"),
        ({"array": [0.1, np.inf], "sampling_rate": 16_000}, "NaN or infinite"),
        ({"array": np.array([0.1, 1e300]), "sampling_rate": 16_000}, "NaN or infinite"),
        ({"array": [[0.1, 0.2], [0.3, 0.4]], "sampling_rate": 16_000}, r"\(2, 2\): which axis"),
        ({"array": np.ones((100, 200)), "sampling_rate": 16_000}, "at most 64"),
        ({"array": np.ones((2, 2, 2)), "sampling_rate": 16_000}, "expected samples, or channels"),
        ({"array": np.zeros((0, 2)), "sampling_rate": 16_000}, "empty"),
        ({"array": [[0.1], [0.2, 0.3]], "sampling_rate": 16_000}, "different lengths"),
        ({"array": ["a"], "sampling_rate": 16_000}, "no known scale"),
        ({"array": np.array([True, False]), "sampling_rate": 16_000}, "bool has no known scale"),
        ({"array": np.array([1j, 0]), "sampling_rate": 16_000}, "complex128 has no known scale"),
        ({"array": [0.1, 0.2], "sampling_rate": "fast"}, "whole number of Hz, got 'fast'"),
        ({"array": [0.1, 0.2], "sampling_rate": 22_050.5}, "whole number of Hz"),
        ({"array": [0.1, 0.2], "sampling_rate": float("nan")}, "whole number of Hz"),
        ({"array": [0.1, 0.2], "sampling_rate": 1}, "a rate of 1 Hz"),
        ({"array": [0.1, 0.2], "sampling_rate": -16_000}, "a rate of -16000 Hz"),
        (encoded(np.zeros(0, np.float32), 16_000, "WAV", "PCM_16"), r"empty \(0 samples\)"),
        (encoded(np.zeros(800, np.float32), 16_000, "FLAC", "PCM_16"), "silent .0.05 s, always 0"),
        (encoded(np.zeros(800, np.float32), 8_000, "WAV", "ALAW"), "silent .0.10 s, always"),
        (encoded(np.array([0.1, np.nan]), 16_000, "WAV", "FLOAT"), "NaN or infinite"),
        (without_first_frame(mp3_of_varying_rate()), "makes decoders stop after"),
    ],
)  # fmt: skip
def test_what_is_no_recording(value: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "samples.raw").write_bytes(bytes(1_000))
    (tmp_path / "notes.wav").write_text("These are words, no sound, whatever the name says.\n" * 9)
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(value, tmp_path)
    assert isinstance(caught.value, NoAudioError) == ("no recording" in message)


def test_bad_recordings_are_quarantined_each_with_its_reason(tmp_path: Path) -> None:
    good = encoded(sound(44_100), 44_100, "WAV", "PCM_16")
    (tmp_path / "good.wav").write_bytes(good)
    (tmp_path / "cut.wav").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.wav").write_text("words")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), 16_000)
    names = ["good.wav", "cut.wav", "text.wav", "empty.wav", "silent.wav", ".", "x" * 5_000]
    rows = [{"id": str(n), "audio": name, "question": "?"} for n, name in enumerate(names)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--dataset", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "t")]
    done = CliRunner().invoke(app, ["ingest", *told, "--set", "failures.max_fraction=0.9"])
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    assert list(tape.sample_ids) == ["0"]
    failed = {item.row_index: item for item in tape.quarantined}
    assert {item.reason for item in failed.values()} == {"audio"}
    assert "cut off or damaged: it should have 132300 bytes" in failed[1].detail
    assert "cannot decode" in failed[2].detail
    assert "cannot decode" in failed[3].detail
    assert "always 0" in failed[4].detail
    assert "is a directory" in failed[5].detail
    assert "File name too long" in failed[6].detail
