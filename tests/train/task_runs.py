"""Recipes of two tasks, and runs of them over two tapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train_runs import Launch

FLAGS = ("--lr", "1e-3", "--batch-tokens", "400", "--set", "loop.micro_tokens=150",
         "--set", "checkpoints.every=3")  # fmt: skip

TWO_TASKS = """
[terms.ce]
weight = 0.5
[terms.text_kl]
weight = 1.0
[terms.acoustic_hidden]
weight = 0.3

[tasks.speech]
terms = ["ce", "text_kl"]
[tasks.sound]
terms = ["acoustic_hidden"]
"""

STAGES = (
    TWO_TASKS
    + """
[stages.hearing]
steps = 4
tasks = ["sound"]
freeze = ["language_model"]
[stages.all]
epochs = 1
"""
)


def launch(
    tapes: dict[str, Path], student: Path, out: Path, recipe: str, *more: str, **faults: Any
) -> Launch:
    file = out.with_suffix(".toml")
    file.write_text(recipe)
    caches = ("--cache", f"sound={tapes['sound']}", "--recipe", str(file))
    return Launch(tape=tapes["speech"], student=student, out=out, more=(*caches, *FLAGS, *more),
                  **faults)  # fmt: skip


def values(line: dict[str, Any], name: str) -> tuple[float, int]:
    return line["terms"][name]["value"], line["terms"][name]["count"]
