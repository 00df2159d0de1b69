"""Recordings and datasets: what is read, and what is refused with which words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from cache_schema.errors import AudioError, DatasetError
from pipeline.audio.recordings import load_audio
from pipeline.dataset.rows import open_rows
from pipeline.recipe import DatasetRecipe


def tone(rate_hz: int, seconds: float = 0.5, frequency_hz: float = 440.0) -> np.ndarray:
    times_s = np.arange(int(rate_hz * seconds)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def encoded(wave: np.ndarray, rate_hz: int, form: str, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate_hz, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_containers_and_rates(form: str, rate_hz: int) -> None:
    audio = load_audio({"bytes": encoded(tone(rate_hz), rate_hz, form), "path": "x"}, None)
    assert audio.dtype == np.float32
    length = 8_000 if form != "MP3" else len(audio)
    assert len(audio) == pytest.approx(length, abs=1)
    spectrum = np.abs(np.fft.rfft(audio))
    assert np.argmax(spectrum) * 16_000 / len(audio) == pytest.approx(440, abs=4)


def test_sixteen_khz_wav_is_taken_as_it_is() -> None:
    words = np.arange(-400, 400, dtype=np.int16)
    audio = load_audio(encoded(words, 16_000, "WAV", subtype="PCM_16"), None)
    np.testing.assert_array_equal(audio, words.astype(np.float32) / 32768)


def test_channels_are_averaged() -> None:
    wave = tone(16_000)
    stereo = np.stack([wave, -0.5 * wave], axis=1)
    audio = load_audio(encoded(stereo, 16_000, "WAV", subtype="FLOAT"), None)
    np.testing.assert_allclose(audio, wave / 4, atol=1e-7)


RAMP = np.arange(160) / 320


@pytest.mark.parametrize(
    "array",
    [
        (RAMP * 32768).astype(np.int16),
        RAMP,
        np.stack([RAMP, RAMP]).astype(np.float32),
        np.stack([RAMP, RAMP], axis=1).astype(np.float16),
        RAMP.tolist(),
    ],
)
def test_arrays(array: Any) -> None:
    audio = load_audio({"array": array, "sampling_rate": 16_000}, None)
    np.testing.assert_allclose(audio, RAMP, atol=3e-4)  # float16 has 11 bits


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.wav", "no such file"),
        (b"these bytes are no audio", "cannot decode"),
        ({"array": np.zeros(0), "sampling_rate": 16_000}, "empty"),
        ({"array": np.zeros(16_000), "sampling_rate": 16_000}, "silent .1.00 s"),
        ({"array": np.array([0.1, np.nan]), "sampling_rate": 16_000}, "NaN"),
        ({"array": [0, 16_384], "sampling_rate": 16_000}, "int64 has no known scale"),
        ({"array": [0.1, 0.2]}, "needs its sampling_rate"),
        (17, "expected a path, bytes or an array"),
    ],
)
def test_unusable_audio(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(value, tmp_path)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {"id": f"r{i}", "audio": f"{i}.wav", "question": "What?", "choices": ["a", "b"],
         "answer": "a", "speaker": "ann"}
        for i in range(3)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    for row in rows:
        soundfile.write(tmp_path / row["audio"], tone(16_000, frequency_hz=300), 16_000)
    return tmp_path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
def test_the_same_rows_from_every_form(
    folder: Path, rows: list[dict[str, Any]], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"rows.{form}"
    if form == "jsonl":
        write_jsonl(path, rows)
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        header = [name for name in rows[0] if name != "choices"]
        lines = [",".join(header), *(",".join(row[name] for name in header) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    opened = open_rows(DatasetRecipe(path=str(path), limit=2))
    assert len(opened) == 2
    sample = opened.sample(1)
    assert (sample.sample_id, sample.question, sample.answer) == ("r1", "What?", "a")
    assert sample.choices == (() if form == "csv" else ("a", "b"))
    assert sample.metadata == {"speaker": "ann"}
    assert sample.audio.shape == (8_000,)


def test_mmau_form(folder: Path, rows: list[dict[str, Any]]) -> None:
    mmau = [
        {**{k: v for k, v in row.items() if k != "audio"}, "audio_id": f"./{row['audio']}",
         "task": "speech", "difficulty": "easy"}
        for row in rows
    ]  # fmt: skip
    (folder / "mmau.json").write_text(json.dumps(mmau))
    sample = open_rows(DatasetRecipe(path=str(folder / "mmau.json"))).sample(2)
    assert sample.metadata["task"] == "speech"
    assert sample.audio.size == 8_000


def test_ids_from_content_are_equal_for_equal_content(
    folder: Path, rows: list[dict[str, Any]]
) -> None:
    bare = [{k: v for k, v in row.items() if k != "id"} for row in rows]
    bare[2]["answer"] = "b"
    opened = open_rows(DatasetRecipe(path=write_jsonl(folder / "bare.jsonl", bare)))
    first, second, third = (opened.sample(i).sample_id for i in range(3))
    assert first == second != third


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        (lambda row: row.pop("audio"), {}, "no audio column .columns: id, question"),
        (lambda row: row.pop("question"), {}, "dataset.question='...'"),
        (lambda row: None, {"columns": {"answer": "anser"}}, "no column 'anser' for answer; did"),
        (lambda row: None, {"columns": {"sound": "audio"}}, "dataset.columns names 'sound'"),
        (lambda row: row.update(id="same"), {}, "rows 0 and 1 have the same id 'same'"),
    ],
)
def test_column_mistakes(
    folder: Path, rows: list[dict[str, Any]], change: Any, recipe: dict[str, Any], message: str
) -> None:
    for row in rows:
        change(row)
    path = write_jsonl(folder / "rows.jsonl", rows)
    with pytest.raises(DatasetError, match=message):
        open_rows(DatasetRecipe(path=path, **recipe))


def test_one_question_for_all(folder: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row.pop("question")
    path = write_jsonl(folder / "rows.jsonl", rows)
    assert open_rows(DatasetRecipe(path=path, question="Who?")).sample(0).question == "Who?"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "the dataset is empty"),
        (
            "cut.jsonl",
            '{"audio": "a.wav"}\n{"audio"',
            "cut.jsonl, line 2: Expecting ':' delimiter at column 9",
        ),
        ("list.json", "[1, 2]", "expected a list of objects"),
        ("notes.txt", "hello", "expected .jsonl, .json"),
        ("missing.jsonl", None, "no such file or directory"),
        ("missing.parquet", None, "no such file or directory"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        open_rows(DatasetRecipe(path=str(tmp_path / name)))
