"""Recordings that are damaged, cut off or none have a reason, and whole ones have none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from encoded_audio import encoded, mp3_of_varying_rate, sound, streamed_wav, without_first_frame
from typer.testing import CliRunner

from cache_schema import open_tape
from cache_schema.errors import AudioError
from pipeline.audio.mp3_frames import measure_mp3
from pipeline.audio.recordings import NoAudioError, load_audio
from pipeline.cli import app


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
        ("nothing.wav", r"nothing.wav is empty \(0 bytes\)"),
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
    (tmp_path / "nothing.wav").touch()
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
    assert "empty.wav is empty (0 bytes)" in failed[3].detail
    assert "always 0" in failed[4].detail
    assert "is a directory" in failed[5].detail
    assert "File name too long" in failed[6].detail
