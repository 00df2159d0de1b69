from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_audio_lm
import torch
from tiny_tape import MakeTape
from typer.testing import CliRunner

from audio_models.generate import generate
from audio_models.inputs import Request
from audio_models.load import load_audio_lm
from train import checkpoint, loop
from train.cli import app
from train.metrics import read_metrics


def train(tape: Path, student: Path, out: Path, *more: str):
    arguments = ["student", "--cache", str(tape), "--student", str(student), "--out", str(out)]
    return CliRunner().invoke(app, [*arguments, *more])


QUICK = (
    "--max-steps", "6", "--batch-tokens", "400", "--lr", "1e-3", "--set", "checkpoints.every=3",
)  # fmt: skip


def test_a_run_trains_and_leaves_a_student_that_answers(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    result = train(make_tape(), student_dir, tmp_path / "run", *QUICK, "--max-steps", "20")
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert set(lines[0]["terms"]) == {"ce", "text_jsd", "text_hidden", "acoustic_hidden"}
    # the frozen student is the acoustic teacher: nothing to correct before the first step
    assert lines[0]["terms"]["acoustic_hidden"]["value"] < 1e-5
    assert lines[-1]["terms"]["ce"]["value"] < lines[0]["terms"]["ce"]["value"]
    trained = load_audio_lm(str(tmp_path / "run" / "student"), "auto", "cpu")
    request = Request(audio=np.zeros(8000, np.float32), text="Is it high?")
    assert len(generate(trained, [request], max_new_tokens=4, batch_size=1)[0].token_ids) > 0
    assert "tiny-text" in (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "recipe.toml").is_file()
