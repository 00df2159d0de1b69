"""Rows and traces that a run leaves out: each with a count, and never all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_step import refuse, train
from tiny_tape import MakeTape

from audio_models.load import AudioLM
from cache_schema import open_tape
from train.data import scan
from train.settings import DataRecipe


def test_rows_are_left_out_with_a_count(
    make_tape: MakeTape, student: AudioLM, student_dir: Path, tmp_path: Path
) -> None:
    changes = {
        "s0": {"correct": False},
        "s1": {"finish_reason": "length"},
        "s2": {"correct": None},
        "s3": {"token_ids": np.empty(0, dtype=np.int64)},
        "s4": {"token_ids": np.asarray([5, student.audio_token_id])},
    }
    result = train(make_tape(changes=changes), student_dir, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (
        "rows: 8; left out: 1 empty trace, 1 trace with an audio placeholder, "
        "1 truncated trace, 1 wrong answer" in result.output
    )
    report = (tmp_path / "run" / "report.md").read_text()
    assert "rows: 8; left out: 1 empty trace, 1 trace with an audio placeholder, " in report


def test_descriptions_that_name_the_placeholder(make_tape: MakeTape, student: AudioLM) -> None:
    placeholder = student.tokenizer.decode([student.audio_token_id])
    described = {f"s{number}": "a bell" for number in range(5)} | {"s5": f"heard: {placeholder}"}
    tape = open_tape(make_tape(num_samples=6, described=described))
    examples, left_out = scan(tape, student, DataRecipe(), (), reads="description")
    assert dict(left_out) == {"description or question holds the audio placeholder": 1}
    assert len(examples) == 5


def test_traces_are_left_out_by_where_they_come_from(
    make_tape: MakeTape, student: AudioLM, tmp_path: Path
) -> None:
    changes = {
        "s0": {"origin": "label"},
        "s1": {"origin": "given"},
        "s2": {"origin": "label", "correct": False},
    }
    tape = open_tape(make_tape(changes=changes))
    left_out = {
        origins: dict(scan(tape, student, DataRecipe(origins=origins), ())[1])
        for origins in (("free", "label", "given"), ("free",), ("free", "given"))
    }
    assert left_out == {
        ("free", "label", "given"): {"wrong answer": 1},
        ("free",): {"trace of origin label": 2, "trace of origin given": 1},
        ("free", "given"): {"trace of origin label": 2},
    }


def test_the_report_counts_what_origins_leave_out(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape(changes={"s0": {"origin": "label"}})
    more = ("--set", 'data.origins=["free"]')
    result = train(tape, student_dir, tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    report = (tmp_path / "run" / "report.md").read_text()
    assert "rows: 11; left out: 1 trace of origin label" in report


@pytest.mark.parametrize("origins", ['["labels"]', "[]", '["free", "told"]'])
def test_an_origin_that_is_none(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, origins: str
) -> None:
    more = ("--set", f"data.origins={origins}")
    refuse(train(make_tape(), student_dir, tmp_path / "run", *more), "origins: ", status=2)


def test_no_usable_row_is_refused(make_tape: MakeTape, student_dir: Path, tmp_path: Path) -> None:
    changes = {f"s{index}": {"correct": False} for index in range(3)}
    tape = make_tape(changes=changes, num_samples=3)
    refuse(
        train(tape, student_dir, tmp_path / "run"),
        "no row to train on (3 wrong answer); --set data.wrong_traces=true",
    )
    assert not (tmp_path / "run").exists()
    more = ("--set", "data.wrong_traces=true")
    assert train(tape, student_dir, tmp_path / "run", *more).exit_code == 0
