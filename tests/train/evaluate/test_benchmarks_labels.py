"""Readers of files of labels and transcripts: emotions, classes of one's own, speech."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from published_files import judged, rows_of, write

from cache_schema.errors import DatasetError
from train.evaluate.benchmarks import BENCHMARKS
from train.evaluate.benchmarks.meld import CLASSES


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
