"""The textual step over seven described samples, with a teacher whose every word is known."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fast_stage_one import ArithmeticTeacher, recipe_of, save_config

import pipeline.textual
from cache_schema import Tape, open_tape
from cache_schema.validate.tape import validate
from pipeline.extract import run_step
from pipeline.recipe import ExtractRecipe
from pipeline.step import seed_of

NAMES = ("ann", "ben", "cat", "dan", "eve", "fay", "gus")
UNKNOWN = "gus"
"""Its answer is not known; nor has it a given trace."""

Writes = Callable[[str, int], tuple[str, str]]


def describe(folder: Path) -> ExtractRecipe:
    """Seven described samples whose right answer is yes."""
    lines = []
    for name in NAMES:
        soundfile.write(folder / f"{name}.wav", 0.1 * np.sin(np.arange(400.0)), 16000)
        row: dict[str, Any] = {
            "id": name, "audio": f"{name}.wav", "question": "Even?", "choices": ["yes", "no"],
            "transcript": f"I am {name}.", "cot": ["<think>given</think>yes", "no"],
        }  # fmt: skip
        row |= {"cot": ""} if name == UNKNOWN else {"answer": "yes"}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    save_config(folder / "arithmetic")
    recipe = recipe_of(str(folder / "rows.jsonl"), str(folder / "tape"), "", "hot")
    for step in ("ingest", "textualize"):
        run_step(step, recipe)
    return recipe


@contextlib.contextmanager
def uncounted(_: str, __: int) -> Iterator[Callable[[int], None]]:
    """Draw no progress."""
    yield lambda count: None


class Bench:
    """A copy of the tape, and the textual step over it."""

    def __init__(
        self, described: ExtractRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.out = shutil.copytree(described.tape.out, folder / "tape")
        self._described, self._patch = described, monkeypatch
        self.calls = folder / "calls"
        self.teacher = ArithmeticTeacher(self.calls)

    def run(self, writes: Writes | None = None, kills: Sequence[str] = (), **textual: Any) -> Tape:
        """Run the step on what a teacher writes; return the tape."""
        self.teacher = ArithmeticTeacher(self.calls, writes, kills)
        self._patch.setattr("pipeline.traces.survive.PAUSES_S", (0.0, 0.0))
        self._patch.setattr(pipeline.textual, "load_teacher", lambda *_: self.teacher)
        values = {"batch_samples": 4, "select": "all", "prompt": "think.v1", **textual}
        if "given" in values:
            values |= {"traces": 1, "temperature": 0.0}
        recipe = replace(
            self._described,
            textual=replace(self._described.textual, **values),
            tape=replace(self._described.tape, out=str(self.out)),
        )
        run_step("textual", recipe)
        tape = open_tape(self.out)
        assert validate(self.out, uncounted, deep=True).problems == []
        return tape

    def said(self, word: str) -> list[str]:
        """Return the teacher's diary lines that begin with a word."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(word)]


def draw_of(prompt: str, seed: int) -> int:
    """Which of a sample's draws a seed belongs to."""
    return seed - seed_of(0, next(name for name in NAMES if f"I am {name}." in prompt))


def yes_on(**draws: int) -> Writes:
    """Right on the given draw of a sample (told or not), wrong before, cut on draw 3."""

    def writes(prompt: str, seed: int) -> tuple[str, str]:
        draw = draw_of(prompt, seed)
        right = any(f"I am {name}." in prompt and draw >= at for name, at in draws.items())
        text = f"<think>{draw}</think>{'yes' if right else 'no'}"
        return text, "length" if draw == 3 else "stop"

    return writes


def fates(tape: Tape, name: str) -> tuple[list[tuple[str, int]], list[tuple[str, int, str]]]:
    row = tape[name]
    return (
        [(trace.origin, trace.draw) for trace in row.traces],
        [(trace.origin, trace.draw, trace.reason) for trace in row.rejected],
    )
