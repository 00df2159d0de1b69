"""A training run of a few steps, in this process."""

from __future__ import annotations

from pathlib import Path

import click.testing
from typer.testing import CliRunner

from train.cli import app


def train(tape: Path, student: Path, out: Path, *more: str) -> click.testing.Result:
    arguments = ["student", "--cache", str(tape), "--student", str(student), "--out", str(out)]
    return CliRunner().invoke(app, [*arguments, *more])


def flags(steps: int, *more: str) -> tuple[str, ...]:
    return (
        "--max-steps", str(steps), "--batch-tokens", "400", "--lr", "1e-3",
        "--set", "checkpoints.every=5", *more,
    )  # fmt: skip
