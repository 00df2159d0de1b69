"""``--top-k 0``: the acoustic teacher's states alone, whatever could be read besides."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_stage_one import save_dataset
from typer.testing import CliRunner

from cache_schema import open_tape
from pipeline.cli import app


def test_states_alone(tmp_path: Path, acoustic_teacher: Path) -> None:
    tape = tmp_path / "tape"
    common = [
        "extract-teachers", "--dataset", str(save_dataset(tmp_path, 3)), "--out", str(tape),
        "--acoustic-teacher", str(acoustic_teacher), "--top-k", "0",
    ]  # fmt: skip
    for step in ("ingest", "acoustic"):
        done = CliRunner().invoke(app, [*common, "--only", step])
        assert done.exit_code == 0, done.output
    assert "states only" in done.output
    opened = open_tape(tape)
    assert set(opened.sources["acoustic"]["signals"]) == {"hidden"}
    assert len(opened.recorded("acoustic")) == 3
    assert "acoustic/topk" not in opened.signals
    again = CliRunner().invoke(app, [*common, "--only", "acoustic"])
    assert "every sample is recorded" in again.output
    refused = CliRunner().invoke(app, [*common, "--only", "acoustic", "--acoustic-layers", "none"])
    assert refused.exit_code == 2
    assert "top-k is 0 as well" in refused.stderr


@pytest.mark.parametrize("top_k", ["0", "-1"])
def test_without_an_acoustic_teacher(tmp_path: Path, top_k: str) -> None:
    dataset, tape = save_dataset(tmp_path, 2), tmp_path / "tape"
    arguments = ["ingest", "--dataset", str(dataset), "--out", str(tape), "--top-k", top_k]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == (0 if top_k == "0" else 2), done.output
