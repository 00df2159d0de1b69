"""Rows that fail: an odd one alone, and too many, which stop the step early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_stage_one import save_dataset
from typer.testing import CliRunner, Result

from cache_schema import open_tape
from cache_schema.errors import QuarantineError
from pipeline.cli import app
from pipeline.dataset.rows import open_rows
from pipeline.recipe import DatasetRecipe
from pipeline.step import Failures

HALF = "\ud83d"  # of an emoji that was cut


def save(folder: Path, count: int, **changes: dict[str, Any]) -> Path:
    """A dataset of one recording under many ids; ``r3={...}`` changes row 3."""
    template = json.loads(save_dataset(folder, 1).read_text())
    rows = [{**template, "id": f"row-{n}", **changes.get(f"r{n}", {})} for n in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(step: str, folder: Path, *settings: str) -> Result:
    told = ["--dataset", str(folder / "rows.jsonl"), "--out", str(folder / "t")]
    return CliRunner().invoke(app, [step, *told, *settings])


def test_an_odd_row_fails_alone_and_by_name(tmp_path: Path) -> None:
    save(
        tmp_path, 9,
        r1={"question": f"What? {HALF}"}, r2={"answer": HALF}, r3={"choices": ["a", HALF]},
        r4={"choices": "yes or no"}, r5={"id": f"x{HALF}"}, r6={"transcript": HALF},
        r7={"audio": HALF},
    )  # fmt: skip
    strict = run("ingest", tmp_path)
    assert strict.exit_code == 1
    assert "row-1 (row 1): row: column 'question' holds half a character" in strict.stderr
    assert isinstance(strict.exception, SystemExit)
    done = run("ingest", tmp_path, "--set", "failures.max_fraction=0.8")
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    assert {row.sample_id for row in tape} == {"row-0", "row-8"}
    failed = {item.row_index: item for item in tape.quarantined}
    assert failed.keys() == set(range(1, 8))
    assert failed[5].sample_id == "row-5", "by its row, its id cannot be written"
    assert failed[7].reason == "audio"
    assert {failed[number].reason for number in range(1, 7)} == {"row"}
    for number, column in ((2, "answer"), (3, "choices"), (4, "choices"), (5, "id")):
        assert f"column '{column}'" in failed[number].detail
    again = run("ingest", tmp_path)
    assert (again.exit_code, "nothing to do" in again.stderr) == (0, True)


def test_a_changed_dataset_is_no_failing_row(tmp_path: Path) -> None:
    rows = open_rows(DatasetRecipe(path=str(save(tmp_path, 2) / "rows.jsonl")))
    (tmp_path / "rows.jsonl").write_text("{}\n{}\n")
    with pytest.raises(Exception, match="was changed while it was read") as caught:
        rows.sample(0)
    assert type(caught.value).__name__ == "DatasetError"


def test_a_step_that_fails_on_all_stops_early(tmp_path: Path) -> None:
    """What succeeded is on the tape, what was not tried is taken up by the next run."""
    missing = {f"r{number}": {"audio": "gone.wav"} for number in range(3, 200)}
    save(tmp_path, 200, **missing)
    done = run("ingest", tmp_path)
    assert done.exit_code == 1
    assert "16 of 200 samples failed, more than the 1.0% allowed" in done.stderr
    assert "row-3 (row 3): audio: no such file" in done.stderr
    assert "... and 11 more (audio: 16)" in done.stderr
    assert "The step stopped there." in done.stderr
    tape = open_tape(tmp_path / "t")
    assert (len(tape), tape.quarantined) == (3, [])

    save(tmp_path / "whole", 40)
    assert run("ingest", tmp_path / "whole").exit_code == 0
    template = ("--set", "textualize.template={nothing}")
    described = run("textualize", tmp_path / "whole", *template)
    assert described.exit_code == 1
    assert "textualize: 16 of 40 samples failed" in described.stderr


def test_failures_of_earlier_runs_count() -> None:
    failures = Failures("textual", 0.5, 100, 30)
    for number in range(20):
        failures.add(f"row-{number}", number, "signals", "words")
    with pytest.raises(QuarantineError, match="51 of 100"):
        failures.add("row-20", 20, "signals", "words")
    all_may = Failures("textual", 1.0, 20, 0)
    for number in range(20):
        all_may.add(f"row-{number}", number, "signals", "words")
