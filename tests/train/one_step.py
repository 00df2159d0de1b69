"""A training run of one step, in this process, and what a refusal of it looks like."""

from __future__ import annotations

from pathlib import Path

import click.testing
from typer.testing import CliRunner

from train.cli import app


def train(tape: Path, student: Path, out: Path, *more: str) -> click.testing.Result:
    arguments = ["student", "--cache", str(tape), "--student", str(student), "--out", str(out)]
    return CliRunner().invoke(app, [*arguments, "--max-steps", "1", *more])


def refuse(result: click.testing.Result, *parts: str, status: int = 1) -> None:
    assert result.exit_code == status, result.output
    assert result.output.count("error:") == 1
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.output
