"""Rows with several recordings, with none, and without a question, through the real steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from cache_schema import Tape, open_tape
from cache_schema.errors import DatasetError, UsageError
from pipeline.cli import app
from pipeline.dataset.rows import open_rows
from pipeline.listen.recordings import Recordings
from pipeline.recipe import DatasetRecipe
from pipeline.textualize import describe

JOIN = ("--set", "dataset.several=join")


def tone(frequency_hz: float, num_samples: int, rate_hz: int = 16_000) -> NDArray[np.float32]:
    return np.asarray(
        0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / rate_hz), np.float32
    )


def run(step: str, folder: Path, *settings: str, out: str = "t") -> Result:
    told = ["--dataset", str(folder / "rows.jsonl"), "--out", str(folder / out)]
    told += ["--set", "failures.max_fraction=0.9"]
    return CliRunner().invoke(app, [step, *told, *settings])


def save(folder: Path, *cells: Any, **others: Any) -> Path:
    """Write a dataset of these audio cells, and the clips a (1 s), b (0.5 s) and c (44.1 kHz)."""
    for name, wave, rate_hz in (
        ("a", tone(300, 16_000), 16_000),
        ("b", tone(500, 8_000), 16_000),
        ("c", tone(700, 44_100, 44_100), 44_100),
    ):
        soundfile.write(folder / f"{name}.wav", wave, rate_hz, subtype="FLOAT")
    rows = [{"audio": cell, "question": f"q{n}?", **others} for n, cell in enumerate(cells)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def reasons(tape: Tape) -> dict[int, tuple[str, str]]:
    return {item.row_index: (item.reason, item.detail) for item in tape.quarantined}


CELLS = (
    "a.wav", ["a.wav"], ["a.wav", "b.wav"], [], None, "  ", [None], ["a.wav", None],
    ["a.wav", "gone.wav"], [0.1, 0.2], [[{"path": "c.wav"}]], [{"path": "c.wav"}, "b.wav"],
)  # fmt: skip


def test_several_are_refused_and_none_is_counted(tmp_path: Path) -> None:
    done = run("ingest", save(tmp_path, *CELLS))
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    assert [row.row_index for row in tape] == [0, 1]
    for row in tape:
        np.testing.assert_array_equal(row.audio, tone(300, 16_000))
        assert row.metadata == {}
    failed = reasons(tape)
    several = [number for number, (reason, _) in failed.items() if reason == "several recordings"]
    assert several == [2, 7, 8, 11]
    assert "2 recordings in one row; --set dataset.several=join" in failed[2][1]
    assert {n for n, (reason, _) in failed.items() if reason == "no audio"} == {3, 4, 5, 6}
    assert failed[9] == ("audio", "bare numbers: an array of audio needs its sampling_rate")
    assert failed[10][0] == "audio"
    assert "several recordings: 4" in done.stderr
    assert "no audio: 4" in done.stderr
    assert "several" not in tape.groups["samples"].identity


def test_several_are_joined(tmp_path: Path) -> None:
    done = run("ingest", save(tmp_path, *CELLS), *JOIN)
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    rows = {row.row_index: row for row in tape}
    assert rows.keys() == {0, 1, 2, 11}
    for number in (0, 1):
        assert rows[number].metadata == {"recordings_s": [[0.0, 1.0]]}
    parts = (tone(300, 16_000), np.zeros(8_000, np.float32), tone(500, 8_000))
    np.testing.assert_array_equal(rows[2].audio, np.concatenate(parts))
    assert rows[2].metadata == {"recordings_s": [[0.0, 1.0], [1.5, 2.0]]}
    assert rows[11].metadata == {"recordings_s": [[0.0, 1.0], [1.5, 2.0]]}
    assert len(rows[11].audio) == 32_000, "each is brought to 16 kHz first"
    failed = reasons(tape)
    assert failed[7] == ("audio", "recording 2 of 2: there is no recording")
    assert failed[8][0] == "audio"
    assert failed[8][1].startswith("recording 2 of 2: no such file")
    assert {n for n, (reason, _) in failed.items() if reason == "no audio"} == {3, 4, 5, 6}

    identity = tape.groups["samples"].identity
    assert (identity["several"], identity["gap_s"]) == ("join", 0.5)
    for settings, told in (((), "several"), ((*JOIN, "--set", "dataset.gap_s=0.25"), "gap_s")):
        other = run("ingest", tmp_path, *settings)
        assert other.exit_code == 1
        assert "'samples' was recorded differently" in other.stderr
        assert told in other.stderr
    again = run("ingest", tmp_path, *JOIN)
    assert (again.exit_code, "nothing to do" in again.stderr) == (0, True)
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "t"), "--deep"])
    assert verified.exit_code == 0, verified.output


def test_ids_follow_what_is_heard(tmp_path: Path) -> None:
    """One recording has one id however it is given, joined ones have their own."""
    save(tmp_path, "a.wav", ["a.wav"], ["a.wav", "b.wav"], ["b.wav", "a.wav"])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["question"] = "?"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    joined = open_rows(DatasetRecipe(path=str(path), several="join"))
    no_gap = open_rows(DatasetRecipe(path=str(path), several="join", gap_s=0))
    plain = open_rows(DatasetRecipe(path=str(path)))
    ids = [joined.sample(number).sample_id for number in range(4)]
    assert ids[0] == ids[1] == plain.sample(0).sample_id == plain.sample(1).sample_id
    assert len({*ids, no_gap.sample(2).sample_id}) == 4
    assert no_gap.sample(2).metadata["recordings_s"] == [[0.0, 1.0], [1.0, 1.5]]


def test_a_column_of_lists_of_audio(tmp_path: Path) -> None:
    """As `datasets` has them; none is decoded by it."""
    save(tmp_path, "a.wav")
    cells = [
        [{"bytes": (tmp_path / f"{name}.wav").read_bytes(), "path": None} for name in names]
        for names in ("ab", "c", "")
    ]
    made = datasets.Dataset.from_list([{"audio": cell, "question": "?"} for cell in cells])
    made = made.cast_column("audio", datasets.List(datasets.Audio()))
    made.to_parquet(str(tmp_path / "rows.parquet"))
    told = ["--dataset", str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "t"), *JOIN]
    done = CliRunner().invoke(app, ["ingest", *told, "--set", "failures.max_fraction=0.5"])
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    assert [len(row.audio) for row in tape] == [32_000, 16_000]
    assert reasons(tape) == {2: ("no audio", "there is no recording")}


def test_joined_recordings_that_are_only_referred_to(tmp_path: Path) -> None:
    save(tmp_path, ["a.wav", "b.wav"], "c.wav")
    assert run("ingest", tmp_path, *JOIN, "--audio", "reference").exit_code == 0
    tape = open_tape(tmp_path / "t")
    stored = run("ingest", tmp_path, *JOIN, out="stored")
    assert stored.exit_code == 0, stored.stderr
    recipe = DatasetRecipe(path=str(tmp_path / "rows.jsonl"), several="join")
    recordings = Recordings(tape, recipe)
    for row, own in zip(tape, open_tape(tmp_path / "stored"), strict=True):
        np.testing.assert_array_equal(recordings.read(row), own.audio)
    for other in ({}, {"several": "join", "gap_s": 1.0}):
        with pytest.raises(
            DatasetError, match=r"read with dataset\.several=join, dataset\.gap_s=0\.5"
        ):
            Recordings(tape, DatasetRecipe(path=recipe.path, **other))


def test_a_template_shows_which_recording_is_when(tmp_path: Path) -> None:
    save(tmp_path, ["a.wav", "b.wav"], "c.wav", speaker="ann")
    assert run("ingest", tmp_path, *JOIN).exit_code == 0
    template = "textualize.template={speaker}:\n{recordings_s}"
    done = run("textualize", tmp_path, *JOIN, "--set", template)
    assert done.exit_code == 0, done.stderr
    two, one = open_tape(tmp_path / "t")
    assert two.description == "ann:\n[00:00-00:01] Recording 1\n[00:02-00:02] Recording 2"
    assert one.description == "ann:\n[00:00-00:01] Recording 1"
    assert describe({"recordings_s": "words"}, "{recordings_s}") == "words"
    assert describe({"other_s": [[0, 1]]}, "{other_s}") == "0, 1"


def test_a_column_in_the_way(tmp_path: Path) -> None:
    save(tmp_path, "a.wav", recordings_s="mine")
    assert run("ingest", tmp_path).exit_code == 0
    done = run("ingest", tmp_path, *JOIN, out="joined")
    assert done.exit_code == 1
    assert "has a column 'recordings_s', and dataset.several=join puts" in done.stderr
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"several": "jion"}, "did you mean 'join'"),
        ({"gap_s": -1}, "dataset.gap_s: expected 0 to 60"),
        ({"gap_s": float("nan")}, "dataset.gap_s: expected 0 to 60"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DatasetRecipe(path="-", **settings)


def test_a_question_that_is_empty(tmp_path: Path) -> None:
    """It is kept; a question for all stands in for it; a number is a question too."""
    save(tmp_path, "a.wav", "b.wav", "c.wav", "a.wav", "b.wav")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row, question in zip(rows, ("", None, "  ", 0, "Who?"), strict=True):
        row["question"] = question
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("ingest", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert [row.question for row in open_tape(tmp_path / "t")] == ["", "", "", "0", "Who?"]
    done = run("ingest", tmp_path, "--set", "dataset.question=What?", out="asked")
    assert done.exit_code == 0, done.stderr
    asked = [row.question for row in open_tape(tmp_path / "asked")]
    assert asked == ["What?", "What?", "What?", "0", "Who?"]


def test_an_empty_question_goes_through_every_step(
    tmp_path: Path, text_teacher: Path, acoustic_teacher: Path
) -> None:
    save(tmp_path, "a.wav", "b.wav", transcript="beep")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row, choices in zip(rows, ([], ["yes", "no"]), strict=True):
        row |= {"question": "", "choices": choices}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = (
        "--text-teacher", str(text_teacher), "--acoustic-teacher", str(acoustic_teacher),
        "--engine", "transformers", "--max-new-tokens", "4", "--top-k", "4",
        "--set", "acoustic.device=cpu",
        "--set", "textual.prompt=plain.v1",
    )  # fmt: skip
    for step in ("ingest", "textualize", "textual", "acoustic"):
        done = run("extract-teachers", tmp_path, "--only", step, *told)
        assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    assert [row.question for row in tape] == ["", ""]
    assert tape.quarantined == []
    for row in tape:
        assert len(row.traces) == 1
        assert np.isfinite(row["textual/topk"].logprobs).all()
        assert np.isfinite(row["acoustic/hidden"].states).all()
        assert np.isfinite(row["acoustic/topk"].logprobs).all()
