"""``extract-teachers``: every step in a process of its own, one after the other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cache_schema.fingerprint import check_model_path

from cache_schema.errors import TeachertapeError, UsageError, nearest
from cache_schema.recipes import as_toml
from pipeline.progress import say
from pipeline.recipe import ExtractRecipe
from pipeline.step import STEPS


class StepFailedError(TeachertapeError):
    """A step's process failed; it has said why."""


def wanted_steps(recipe: ExtractRecipe) -> list[str]:
    """Return the steps this recipe needs, in order."""
    wanted = ["ingest"]
    if recipe.textual.teacher:
        wanted += ["textualize", "textual"]
    if recipe.acoustic.teacher:
        wanted += ["acoustic"]
    return wanted


def check(recipe: ExtractRecipe) -> None:
    """Find what can be found before anything is written.

    Raises:
        ModelError: a teacher's path does not exist.
    """
    for model in (recipe.textual.teacher, recipe.acoustic.teacher):
        if model:
            check_model_path(model)


def run_step(step: str, recipe: ExtractRecipe) -> None:
    """Run one step in this process."""
    if step not in STEPS:
        raise UsageError(
            f"--only {step!r}: expected one of {', '.join(STEPS)}{nearest(step, STEPS)}"
        )
    if step in ("textual", "acoustic") and not getattr(recipe, step).teacher:
        flag = "--text-teacher" if step == "textual" else "--acoustic-teacher"
        raise UsageError(f"--only {step} needs {flag}")
    check(recipe)
    run: Callable[[ExtractRecipe], None] = import_module(f"pipeline.{step}").run
    run(recipe)


def run_all(recipe: ExtractRecipe) -> None:
    """Run the steps, each in a process that ends (and frees its memory) before the next begins.

    Raises:
        StepFailedError: a step failed; earlier steps are on the tape.
    """
    check(recipe)
    steps = wanted_steps(recipe)
    with tempfile.TemporaryDirectory(prefix="teachertape-") as folder:
        resolved = Path(folder) / "recipe.toml"
        resolved.write_text(as_toml(recipe), encoding="utf-8")
        for number, step in enumerate(steps, 1):
            say(f"[{number}/{len(steps)}] {step}")
            started_s = time.monotonic()
            command = [sys.executable, "-m", "pipeline", "extract-teachers"]
            done = subprocess.run(
                [*command, "--only", step, "--recipe", str(resolved)], check=False
            )
            if done.returncode != 0:
                raise StepFailedError(f"step {step} failed (exit status {done.returncode})")
            say(f"[{number}/{len(steps)}] {step}: done in {time.monotonic() - started_s:.1f} s")
    say(f"tape: {recipe.tape.out}   look: pipeline inspect {recipe.tape.out}")
