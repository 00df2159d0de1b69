"""Small datasets to evaluate on, and evaluations as a user starts them, here or killed in a child.

Children are forked from a process that has imported everything (``forks.Forks``).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import soundfile
import torch
import transformers.models.qwen2_5_omni.modeling_qwen2_5_omni
import transformers.models.qwen2_5_omni.processing_qwen2_5_omni  # noqa: F401 - before the fork
from typer.testing import CliRunner

from pipeline.cli import app as pipeline_app
from train.cli import app
from train.evaluate.responses import ResponseLog
from train.evaluate.types import Response

SECONDS = (0.4, 1.3, 0.7, 0.4, 2.1, 1.0, 0.5)


def save_dataset(folder: Path, seconds: Sequence[float] = SECONDS) -> Path:
    """Write noise of some lengths as WAV files, and a JSONL of questions about them."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = []
    for index, length_s in enumerate(seconds):
        noise = random.normal(0.0, 0.1, round(16_000 * length_s)).astype(np.float32)
        soundfile.write(folder / f"{index}.wav", noise, 16_000, subtype="FLOAT")
        row = {
            "id": f"row-{index}",
            "audio": f"{index}.wav",
            "question": "Which one?" + " Say it." * (index % 3),
            "choices": ["yes", "no"],
            "answer": "yes" if index % 2 else "no",
            "task": ("sound", "speech")[index % 2],
        }
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def save_tape(dataset: Path, out: Path) -> Path:
    """Put a dataset on a tape, by stage one in this process."""
    arguments = ["ingest", "--dataset", str(dataset), "--out", str(out)]
    done = CliRunner().invoke(pipeline_app, [*arguments, "--set", "failures.max_fraction=1"])
    assert done.exit_code == 0, done.output
    return out


def evaluate_here(*arguments: str | Path) -> click.testing.Result:
    """Evaluate in this process."""
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def killed(arguments: list[str], after: int, half: str) -> int:
    """Evaluate, and be killed once so many responses are written and half of another one is."""
    torch.set_num_threads(1)
    add = ResponseLog.add

    def add_and_die(self: ResponseLog, responses: Iterable[Response]) -> None:
        add(self, responses)
        if len(self.done) >= after:
            self._file.write(half.encode())
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    ResponseLog.add = add_and_die  # type: ignore[method-assign]
    try:
        app(["evaluate", *arguments])
    except SystemExit as end:
        sys.stderr.flush()
        return int(end.code or 0)
    return 0


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]
