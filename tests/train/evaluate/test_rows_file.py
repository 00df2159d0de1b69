"""Data in the forms hubs have it: recordings inside a table, tapes of other questions."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evaluations
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache_schema import Tape, open_tape
from cache_schema.errors import DatasetError
from train.evaluate.benchmarks import BENCHMARKS, meld
from train.evaluate.benchmarks.asr import QUESTION
from train.evaluate.benchmarks.files import read_table
from train.evaluate.data import NOT_READ, ask
from train.evaluate.rows_file import drop_recordings, write_rows
from train.evaluate.scores import evaluation_of, judge_all
from train.evaluate.scores_file import read_scores, write_scores
from train.evaluate.types import Item


def test_recordings_inside_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waves = evaluations.save_dataset(tmp_path / "waves", (0.4, 0.6)).parent
    rows = [
        {
            "id": name,
            "audio": audio,
            "text": "hello there",
            "picture": b"\x00\x01",
            "day": dt.date(2026, 1, 1),
        }
        for name, audio in (
            ("inside", {"bytes": (waves / "0.wav").read_bytes(), "path": "0.wav"}),
            ("beside", {"bytes": None, "path": "waves/1.wav"}),
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "asr.parquet")
    out = tmp_path / "out" / "rows.jsonl"
    write_rows(BENCHMARKS["asr"].rows(tmp_path / "asr.parquet"), out)
    told = capsys.readouterr().err
    assert "the column picture holds bytes, which are left out of 2 rows" in told
    tape = open_tape(evaluations.save_tape(out, tmp_path / "tape"))
    assert (tape["inside"].question, tape["inside"].answer) == (QUESTION, "hello there")
    assert tape["inside"].metadata["day"] == "2026-01-01"
    whole = open_tape(evaluations.save_tape(waves / "rows.jsonl", tmp_path / "waves-tape"))
    for name, other in (("inside", "row-0"), ("beside", "row-1")):
        np.testing.assert_array_equal(tape[name].audio, whole[other].audio)
    drop_recordings(out)
    assert [path.name for path in out.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_what_is_no_table_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=f"rows{suffix}: cannot be read"):
        list(read_table(path))


def saved(folder: Path, *more: Mapping[str, Any]) -> Tape:
    """A tape of rows as they are, a keyword of value ``None`` taken out."""
    file = evaluations.save_dataset(folder, (0.4,) * len(more))
    rows = [
        {key: value for key, value in (row | dict(one)).items() if value is not None}
        for row, one in zip(evaluations.lines_of(file), more, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_tape(evaluations.save_tape(file, folder / "tape"))


def asked(tape: Tape, benchmark: str) -> list[Item]:
    return list(ask(tape, BENCHMARKS[benchmark], 0, ()).items)


def test_a_tape_of_questions_is_transcribed_by_its_transcripts(tmp_path: Path) -> None:
    tape = saved(
        tmp_path / "a", {"transcript": "three plus four"}, {"transcript": "", "language": "fr"}
    )
    first, second = asked(tape, "asr")
    assert (first.question, first.choices, first.answer) == (QUESTION, (), "three plus four")
    assert (second.answer, second.groups) == ("", {"language": "fr"})
    lost = saved(tmp_path / "b", {"transcript": "hi"}, {"audio": "nowhere.wav"})
    assert [item.answer for item in asked(lost, "asr")] == ["hi", NOT_READ]
    open_question = saved(tmp_path / "c", {"question": "What is said?", "choices": None})
    assert [(i.question, i.answer) for i in asked(open_question, "asr")] == [(QUESTION, "no")]
    with pytest.raises(DatasetError, match=r"'row-0': no transcript \(transcript, .*: task\)"):
        asked(saved(tmp_path / "d", {}), "asr")


def test_a_tape_of_emotions_is_asked_for_its_classes(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"choices": None, "answer": None}
    tape = saved(
        tmp_path / "a",
        {**bare, "emotion": "sad"},
        {**bare, "emotion": "happy"},
        {**bare, "audio": "nowhere.wav"},
    )
    items = asked(tape, "ser")
    assert [item.answer for item in items] == ["sad", "happy", NOT_READ]
    assert {item.choices for item in items} == {("happy", "sad")}
    assert [item.question for item in items] == ["Which one?", "Which one? Say it.", meld.QUESTION]
    with pytest.raises(DatasetError, match="sample 'row-0': a row has no class"):
        asked(saved(tmp_path / "b", bare), "ser")


def test_half_characters_of_rows_that_could_not_be_read(tmp_path: Path) -> None:
    file = evaluations.save_dataset(tmp_path, (0.4, 0.4))
    rows = evaluations.lines_of(file)
    rows[1] |= {"question": "half \ud800", "task": "\ud800", "answer": "\\ud800"}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tape = open_tape(evaluations.save_tape(file, tmp_path / "tape"))
    own = BENCHMARKS["own"]
    found = ask(tape, own, 0, own.rows(file))
    assert found.items[1].question == "half \ud800"
    assert found.digest() == ask(tape, own, 0, own.rows(file)).digest()
    verdicts = judge_all(own, found.items, [])
    scored = evaluation_of(own, found.items, [], verdicts, resamples=10)
    write_scores(tmp_path / "scores.json", scored)
    assert "task=\ud800" in {score.group for score in read_scores(tmp_path / "scores.json").scores}
