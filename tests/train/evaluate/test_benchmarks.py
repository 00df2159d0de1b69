"""Readers of the published files, on files written in the published form."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache_schema.errors import DatasetError
from cache_schema.types import Sample
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.benchmarks.meld import CLASSES
from train.evaluate.rules.instructions import constraint_of
from train.evaluate.types import ABILITIES, Response


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(name: str, path: Path) -> list[dict[str, Any]]:
    return list(BENCHMARKS[name].rows(path))


def sample(row: dict[str, Any]) -> Sample:
    """What stage one makes of a row, without its recording."""
    ours = ("id", "audio", "question", "choices", "answer")
    return Sample(
        sample_id=row["id"],
        row_index=0,
        audio=None,
        question=row["question"],
        choices=tuple(row["choices"]),
        answer=row["answer"],
        metadata={key: value for key, value in row.items() if key not in ours},
    )


def judged(name: str, row: dict[str, Any], text: str) -> list[float | None]:
    """What both rules say of a text as the whole answer; ``None`` is not counted."""
    benchmark = BENCHMARKS[name]
    item = item_of(sample(row), benchmark)
    response = Response(
        sample_id=item.sample_id, text=text, answer=text, num_tokens=1, finish="stop"
    )
    verdicts = [rule.judge(item, response) for rule in benchmark.rules]
    return [verdict.value if verdict.counted else None for verdict in verdicts]


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


def meld_row(utterance: int, emotion: str) -> dict[str, Any]:
    return {
        "Sr No.": 1, "Utterance": "You\u2019re here, \u201cagain\u201d?", "Speaker": "Mark",
        "Emotion": emotion, "Sentiment": "positive", "Dialogue_ID": 0, "Utterance_ID": utterance,
        "Season": 3, "Episode": 19, "StartTime": "00:14:38,127", "EndTime": "00:14:40,378",
    }  # fmt: skip


def test_meld(tmp_path: Path) -> None:
    file = write(tmp_path / "test_sent_emo.csv", [meld_row(0, "surprise"), meld_row(1, "Joy")])
    with pytest.raises(DatasetError, match=r"no recording such as dia0_utt0\.wav.*ffmpeg"):
        rows_of("meld", file)
    there = tmp_path / "output_repeated_splits_test" / "dia0_utt1.flac"
    there.parent.mkdir()
    there.touch()
    rows = rows_of("meld", tmp_path)
    assert rows == rows_of("ser", tmp_path) == rows_of("ser", file)
    assert [row["id"] for row in rows] == ["test_dia0_utt0", "test_dia0_utt1"]
    assert rows[0]["audio"] == str(tmp_path / "dia0_utt0.wav")  # missing: stage one says so
    assert rows[1]["audio"] == str(there)
    assert (rows[1]["answer"], rows[1]["choices"]) == ("joy", list(CLASSES))
    assert rows[0]["transcript"] == "You\u2019re here, \u201cagain\u201d?"
    assert judged("meld", rows[1], "joy") == [1, 1]
    assert judged("meld", rows[1], "Joy.") == [0, 1]
    assert BENCHMARKS["meld"].measures[0].name == "weighted_f1"
    write(file, [meld_row(0, "bored")])
    with pytest.raises(DatasetError, match="dia0_utt0 is 'bored', none of neutral"):
        rows_of("meld", file)


EMOTIONS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes05F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
[10.0100 - 11.3925]\tSes05F_impro01_F001\texc\t[2.5000, 2.5000, 2.5000]

[14.8872 - 18.0175]\tSes05F_impro01_M000\tfru\t[2.5000, 2.5000, 2.5000]
[19.2900 - 20.7875]\tSes05F_script01_1b_F003\tang\t[2.5000, 3.0000, 2.5000]
"""


def test_iemocap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for session in ("Session4", "Session5"):
        folder = tmp_path / session / "dialog" / "EmoEvaluation"
        folder.mkdir(parents=True)
        (folder / "Ses05F_impro01.txt").write_text(EMOTIONS, encoding="latin-1")
        (folder / "._Ses05F_impro01.txt").write_bytes(b"\x00\xff")
    with caplog.at_level(logging.INFO):
        rows = rows_of("iemocap", tmp_path)
    assert "3 utterances, left out by label: {'fru': 1}" in caplog.text
    assert rows == rows_of("ser", tmp_path) == rows_of("iemocap", tmp_path / "Session5")
    assert [(row["id"], row["answer"]) for row in rows] == [
        ("Ses05F_impro01_F000", "neutral"),
        ("Ses05F_impro01_F001", "happy"),
        ("Ses05F_script01_1b_F003", "angry"),
    ]
    wav = tmp_path / "Session5" / "sentences" / "wav"
    assert rows[0]["audio"] == str(wav / "Ses05F_impro01" / "Ses05F_impro01_F000.wav")
    assert rows[2]["audio"] == str(wav / "Ses05F_script01_1b" / "Ses05F_script01_1b_F003.wav")
    assert rows[0]["choices"] == ["angry", "happy", "neutral", "sad"]
    assert [row["kind"] for row in rows] == ["improvised", "improvised", "scripted"]
    assert {row["session"] for row in rows_of("iemocap", tmp_path / "Session4")} == {"Session4"}
    assert BENCHMARKS["iemocap"].measures[0].name == "unweighted_accuracy"
    with pytest.raises(DatasetError, match="expected IEMOCAP's folder with Session5"):
        rows_of("iemocap", tmp_path / "Session5" / "dialog")


def test_ser_of_own_data(tmp_path: Path) -> None:
    published = [{"id": "a", "audio": "a.wav", "emotion": "sad"}, {"id": "b", "audio": "b.wav"}]
    path = write(tmp_path / "own.jsonl", [{**row, "label": "glad"} for row in published])
    first, second = rows_of("ser", path)
    assert (first["answer"], second["answer"]) == ("sad", "glad")
    assert first["choices"] == second["choices"] == ["glad", "sad"]
    assert first["question"] == "What emotion does the speaker express?"
    assert first["audio"] == str(tmp_path / "a.wav")
    asked = {**published[0], "question": "How?", "choices": ["sad", "not"]}
    (row,) = rows_of("ser", write(tmp_path / "own.jsonl", [asked]))
    assert (row["question"], row["choices"]) == ("How?", ["sad", "not"])
    with pytest.raises(DatasetError, match="a row has no class"):
        rows_of("ser", write(tmp_path / "own.jsonl", published))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_own_and_asr(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"own{suffix}", [{"id": "a", "audio": "a.wav", "transcript": "Hi you"}])
    (row,) = rows_of("own", path)
    assert row == {"id": "a", "audio": str(tmp_path / "a.wav"), "transcript": "Hi you"}
    (row,) = rows_of("asr", path)
    assert row["answer"] == "Hi you"
    assert row["language"] == "en"
    assert "transcript" not in row  # what is asked for must not stand in the sample's text
    assert judged("asr", row, "hi, you!") == [0, 0]
    assert judged("asr", row, "") == [1, 1]


def test_asr_needs_a_transcript(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"audio": "a.wav", "caption": "x"}])
    with pytest.raises(DatasetError, match=r"row 0: no transcript \(transcript, .*keys: audio"):
        rows_of("asr", path)
    path = write(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(DatasetError, match="row 0: no recording"):
        rows_of("asr", path)


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


def test_groups_are_text_and_only_those_a_sample_has() -> None:
    row = {"id": "a", "audio": "", "question": "", "choices": [], "answer": "x"}
    with_groups = {**row, "category": 3, "task": "", "other": "y"}
    assert item_of(sample(with_groups), BENCHMARKS["own"]).groups == {"category": "3"}
