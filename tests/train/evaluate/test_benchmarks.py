"""Readers of published files of questions; files that are not there or not of the form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published_files import judged, rows_of, sample, write
from typer.main import get_command

from cache_schema.errors import DatasetError
from train.cli import app
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.rules.instructions import constraint_of
from train.evaluate.types import ABILITIES

MMAU_ROW = {
    "id": "m-1",
    "audio_id": "./test-mini-audios/m-1.wav",
    "question": "Who speaks?",
    "choices": ["Man", "Woman"],
    "answer": "Woman",
    "dataset": "AudioSet",
    "task": "speech",
    "split": "test-mini",
    "category": "Reasoning",
    "sub-category": "Source",
    "difficulty": "hard",
}


def test_mmau(tmp_path: Path) -> None:
    write(tmp_path / "mmau-test-mini.json", [MMAU_ROW])
    (row,) = rows_of("mmau", tmp_path)
    assert row == {
        "id": "m-1",
        "audio": str(tmp_path / "test-mini-audios" / "m-1.wav"),
        "question": "Who speaks?",
        "choices": ["Man", "Woman"],
        "answer": "Woman",
        **{key: MMAU_ROW[key] for key in ("dataset", "task", "split", "category", "sub-category")},
        "difficulty": "hard",
    }
    assert item_of(sample(row), BENCHMARKS["mmau"]).groups == {
        "task": "speech", "difficulty": "hard", "category": "Reasoning", "sub-category": "Source",
    }  # fmt: skip
    assert judged("mmau", row, "the woman") == [1, 0]
    assert judged("mmau", row, "B") == [0, 1]


def test_mmau_without_answers(tmp_path: Path) -> None:
    withheld = {key: value for key, value in MMAU_ROW.items() if key != "answer"}
    path = write(tmp_path / "mmau-test.json", [withheld])
    (row,) = rows_of("mmau", path)
    assert row["answer"] == ""
    assert judged("mmau", row, "Woman") == [None, None]


def test_mmar_keeps_what_tells_the_answer_out(tmp_path: Path) -> None:
    published = {
        "id": "r-1", "audio_path": "./audio/r-1.wav", "question": "Where?",
        "choices": ["Forest", "City"], "answer": "City", "modality": "sound",
        "category": "Perception Layer", "sub-category": "Scene", "language": None,
        "source": "youtube", "url": "u", "timestamp": "t", "thinking": "cars, so a city",
        "cue": ["cars"], "rubric": [{"name": "cars"}],
    }  # fmt: skip
    write(tmp_path / "MMAR-meta.jsonl", [published])
    (row,) = rows_of("mmar", tmp_path)
    assert row["audio"] == str(tmp_path / "audio" / "r-1.wav")
    assert not {"thinking", "cue", "rubric", "language"} & row.keys()
    assert item_of(sample(row), BENCHMARKS["mmar"]).groups["modality"] == "sound"
    assert judged("mmar", row, "City") == [1, 1]


LETTERED = {
    "question": "Which animal?", "choice_a": "dog", "choice_b": "cat", "choice_c": None,
    "choice_d": None, "answer_gt": "cat", "task_name": "animals",
}  # fmt: skip


def test_mmsu(tmp_path: Path) -> None:
    published = {
        **LETTERED, "id": 7, "audio_path": "/audio/7.wav", "category": "Perception",
        "sub-category": "Linguistics", "sub-sub-category": "Phonology",
        "linguistics_sub_discipline": "Phonetics",
    }  # fmt: skip
    write(tmp_path / "question" / "mmsu.jsonl", [published])
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "7.wav").touch()
    (row,) = rows_of("mmsu", tmp_path)
    assert (row["id"], row["audio"]) == ("7", str(tmp_path / "audio" / "7.wav"))
    assert (row["choices"], row["answer"]) == (["A. dog", "B. cat"], "B. cat")
    assert judged("mmsu", row, "B") == [1, 1]
    assert judged("mmsu", row, "cat") == [None, 1]
    assert judged("mmsu", row, "Dog") == [0, 0]
    assert judged("mmsu", row, "D") == [0, 0]


def test_air_bench(tmp_path: Path) -> None:
    published = {**LETTERED, "uniq_id": 3, "path": "x.wav", "dataset_name": "clotho"}
    grounding = {**published, "uniq_id": 4, "task_name": "Audio_Grounding"}
    write(tmp_path / "Foundation_meta.json", [published, grounding])
    rows = rows_of("air_bench", tmp_path)
    assert [row["audio"] for row in rows] == [
        str(tmp_path / "animals_clotho" / "x.wav"),
        str(tmp_path / "Audio_Grounding_clotho" / "x.flac"),
    ]
    assert item_of(sample(rows[0]), BENCHMARKS["air_bench"]).groups["task"] == "animals_clotho"
    assert judged("air_bench", rows[0], "B. cat") == [1, 1]
    assert judged("air_bench", rows[0], "") == [None, 0]


@pytest.mark.parametrize("kwargs", [{"N": 2, "N1": None}, '{"N": 2}', "{'N': 2, 'N1': None}"])
def test_mmau_pro(tmp_path: Path, kwargs: Any) -> None:
    shared = {"length_type": "short", "task_identifier": None, "kwargs": None, "transcription": ""}
    asked = {
        "id": "p-1", "audio_path": ["data/1.wav"], "question": "What?", "answer": "dog",
        "choices": ["dog", "cat"], "category": "sound", **shared,
    }  # fmt: skip
    two = {**asked, "id": "p-2", "audio_path": ["data/1.wav", "data/2.wav"], "category": "multi"}
    open_one = {**asked, "id": "p-3", "choices": [], "category": "open"}
    told = {
        **asked, "id": "p-4", "answer": None, "choices": None, "question": "Two words.",
        "category": "instruction following", "task_identifier": "Number Words (at most)",
        "kwargs": kwargs,
    }  # fmt: skip
    published = [asked, two, open_one, told]
    if isinstance(kwargs, dict):  # a column of one type
        published = [
            {**row, "kwargs": row["kwargs"] or {"N": None, "N1": None}} for row in published
        ]
    write(tmp_path / "test.parquet", published)
    rows = rows_of("mmau_pro", tmp_path)
    assert rows[0]["audio"] == str(tmp_path / "data" / "1.wav")
    assert rows[1]["audio"] == [str(tmp_path / "data" / f"{n}.wav") for n in (1, 2)]
    assert constraint_of(rows[3]["answer"]) == {
        "task": "Number Words (at most)", "question": "Two words.", "N": 2,
    }  # fmt: skip
    assert judged("mmau_pro", rows[0], "dog") == [1, 1]
    assert judged("mmau_pro", rows[0], "a dog") == [None, 0]
    assert judged("mmau_pro", rows[2], "a dog") == [None, None]
    assert judged("mmau_pro", rows[3], "two words") == [1, 1]
    assert judged("mmau_pro", rows[3], "three words here") == [0, 0]


def test_mmau_pro_refuses_settings_it_cannot_read(tmp_path: Path) -> None:
    row = {
        "id": "p", "audio_path": ["a"], "question": "", "answer": None, "choices": None,
        "category": "instruction following", "task_identifier": "Title", "kwargs": "N=2",
    }  # fmt: skip
    with pytest.raises(DatasetError, match=r"row p: kwargs must be an object, got 'N=2'"):
        rows_of("mmau_pro", write(tmp_path / "test.parquet", [row]))


def test_big_bench_audio(tmp_path: Path) -> None:
    published = {
        "category": "formal_fallacies", "official_answer": "invalid",
        "file_name": "data/question_0.mp3", "id": 0,
    }  # fmt: skip
    write(tmp_path / "metadata.jsonl", [published])
    (row,) = rows_of("big_bench_audio", tmp_path)
    assert (row["id"], row["audio"]) == ("0", str(tmp_path / "data" / "question_0.mp3"))
    assert (row["choices"], row["answer"]) == ([], "invalid")
    assert judged("big_bench_audio", row, "Invalid") == [1, 1]
    assert judged("big_bench_audio", row, "hm") == [None, 0]


def test_files_that_are_not_there_or_not_of_the_form(tmp_path: Path) -> None:
    for name in set(BENCHMARKS) - {"own", "asr", "ser", "iemocap"}:
        with pytest.raises(DatasetError, match="no such file or folder"):
            rows_of(name, tmp_path / "nowhere")
        with pytest.raises(DatasetError, match="and none is there"):
            rows_of(name, tmp_path)
    for name in ("own", "asr"):
        with pytest.raises(DatasetError, match="no such file"):
            rows_of(name, tmp_path)
    wrong = write(tmp_path / "wrong.jsonl", [{"id": "a", "question": "?"}])
    with pytest.raises(DatasetError, match=r"a row of MMAU has .*audio_id.*is missing"):
        rows_of("mmau", wrong)
    with pytest.raises(DatasetError, match=r"expected a file of \.jsonl"):
        rows_of("own", write(tmp_path / "a.csv", [{"a": 1}]).rename(tmp_path / "a.txt"))
    (tmp_path / "bad.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(DatasetError, match="row 1: not JSON"):
        rows_of("own", tmp_path / "bad.jsonl")
    (tmp_path / "bad.json").write_text('"text"')
    with pytest.raises(DatasetError, match="expected a list of rows"):
        rows_of("own", tmp_path / "bad.json")
    (tmp_path / "bad.jsonl").write_text("[]\n")
    with pytest.raises(DatasetError, match="row 0: expected an object"):
        rows_of("own", tmp_path / "bad.jsonl")
    for name in ("mmau-test-mini.json", "mmau-test.json"):
        write(tmp_path / "both" / name, [MMAU_ROW])
    with pytest.raises(DatasetError, match="name the one to be used"):
        rows_of("mmau", tmp_path / "both")


def test_the_table() -> None:
    assert list(BENCHMARKS) == [
        "own", "mmau", "mmar", "mmsu", "mmau_pro", "big_bench_audio", "air_bench", "ser", "meld",
        "iemocap", "asr",
    ]  # fmt: skip
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.ability in ABILITIES
        assert benchmark.measures
    hearing = {name for name, benchmark in BENCHMARKS.items() if benchmark.ability == "hearing"}
    assert hearing == {"air_bench", "ser", "meld", "iemocap", "asr"}


def test_the_help_names_every_benchmark() -> None:
    """Written out there: the table loads transformers, which help does not wait for."""
    (option,) = (one for one in get_command(app).commands["evaluate"].params  # type: ignore[attr-defined]
                 if one.name == "benchmark")  # fmt: skip
    assert option.help == " | ".join(BENCHMARKS)


def test_groups_are_text_and_only_those_a_sample_has() -> None:
    row = {"id": "a", "audio": "", "question": "", "choices": [], "answer": "x"}
    with_groups = {**row, "category": 3, "task": "", "other": "y"}
    assert item_of(sample(with_groups), BENCHMARKS["own"]).groups == {"category": "3"}
