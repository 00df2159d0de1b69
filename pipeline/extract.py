"""``extract-teachers``: every step in a process of its own, one after the other.

Steps that run no model start without a model framework: what loads one is imported where it is
used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cache_schema import layout
from cache_schema.commands.child import end_with_parent
from cache_schema.commands.console import say
from cache_schema.commands.recipes import as_toml
from cache_schema.errors import TeachertapeError, UsageError, nearest
from cache_schema.layers import parse_layers
from cache_schema.writer import complete_index
from pipeline.cluster.work import tidy
from pipeline.recipe import ExtractRecipe
from pipeline.step import STEPS, group_of
from pipeline.textual_recipe import TextualRecipe


class StepFailedError(TeachertapeError):
    """A step's process failed; it has said why."""


def wanted_steps(recipe: ExtractRecipe) -> list[str]:
    """Return the steps this recipe needs, in order; without a dataset the tape's samples do."""
    wanted = ["ingest"] if recipe.dataset.path else []
    if recipe.textual.teacher or recipe.textualize.listen or recipe.textualize.template:
        wanted += ["textualize"]
    if recipe.textual.teacher:
        wanted += ["textual"]
    if recipe.acoustic.teacher:
        wanted += ["acoustic"]
    return wanted


def check(recipe: ExtractRecipe) -> None:
    """Find what can be found before anything is written.

    Raises:
        ModelError: a teacher or a listener does not exist.
        UsageError: it has no such layers, does not go with its settings, or its prompt or chat
            template does not exist; or there is neither a dataset nor a tape.
    """
    if not recipe.dataset.path and not (Path(recipe.tape.out) / layout.DATASET_FILE).is_file():
        raise UsageError(
            "--dataset is needed where no tape is at --out; see 'pipeline extract-teachers --help'"
        )
    if recipe.textualize.listen:
        from pipeline.listen.plan import settle

        for column, listener in recipe.textualize.listen.items():
            settle(column, listener)
    if recipe.acoustic.teacher:
        from pipeline.hearing.plan import check as check_acoustic

        check_acoustic(recipe.acoustic)
    if recipe.textual.teacher:
        from audio_models.config import load_config
        from pipeline.teachers.describe import text_shape
        from pipeline.traces.check import check_teacher

        shape = text_shape(load_config(recipe.textual.teacher))
        parse_layers(recipe.textual.layers, shape.num_layers)
        _check_textual(recipe.textual)
        if recipe.textual.engine != "encoder":
            check_teacher(recipe.textual)


def _check_textual(textual: TextualRecipe) -> None:
    from pipeline.teachers.encoder_only import check_textual
    from pipeline.traces.check import check_traces

    check_textual(textual)
    if textual.engine != "encoder":
        check_traces(textual)


def check_step(step: str, recipe: ExtractRecipe) -> None:
    """Refuse a step that cannot be run by itself.

    Raises:
        UsageError: there is no such step, or its teacher is not given.
    """
    if step not in STEPS:
        raise UsageError(
            f"--only {step!r}: expected one of {', '.join(STEPS)}{nearest(step, STEPS)}"
        )
    needed = {
        "textual": ("--text-teacher", recipe.textual.teacher),
        "acoustic": ("--acoustic-teacher", recipe.acoustic.teacher),
    }
    flag, given = needed.get(step, ("", "nothing"))
    if not given:
        raise UsageError(f"step {step} needs {flag}; see 'pipeline extract-teachers --help'")


def run_step(step: str, recipe: ExtractRecipe) -> None:
    """Run one step in this process.

    Raises:
        UsageError: see ``check_step``.
        TeachertapeError: the step failed; see its ``run``.
    """
    check_step(step, recipe)
    if step == "textual":
        _check_textual(recipe.textual)
    run: Callable[[ExtractRecipe], None] = import_module(f"pipeline.{step}").run
    run(recipe)
    if recipe.is_leased:
        tidy(recipe, group_of(step, recipe))
        if step == "textualize":
            for column in recipe.textualize.listen:
                tidy(recipe, layout.heard_group(column))
    complete_index(Path(recipe.tape.out))  # a run killed between its last shard and its index


def run_all(recipe: ExtractRecipe, debug: bool = False) -> None:
    """Run the steps, each in a process that ends (and frees its memory) before the next begins.

    Raises:
        StepFailedError: a step failed; earlier steps are on the tape.
        UsageError: a step found its settings wrong.
    """
    check(recipe)
    steps = wanted_steps(recipe)
    quiet = dict(os.environ)
    if not sys.stderr.isatty():
        quiet.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of loading weights: one long line
    with tempfile.TemporaryDirectory(prefix="teachertape-") as folder:
        resolved = Path(folder) / "recipe.toml"
        resolved.write_text(as_toml(recipe), encoding="utf-8")
        for number, step in enumerate(steps, 1):
            say(f"[{number}/{len(steps)}] {step}")
            started_s = time.monotonic()
            command = [sys.executable, "-m", "pipeline", "extract-teachers"]
            command += ["--only", step, "--recipe", str(resolved), *(["--debug"] if debug else [])]
            done = subprocess.run(command, check=False, preexec_fn=end_with_parent, env=quiet)
            if done.returncode != 0:
                failed = UsageError if done.returncode == 2 else StepFailedError
                raise failed(f"step {step} failed (exit status {done.returncode})")
            say(f"[{number}/{len(steps)}] {step}: done in {time.monotonic() - started_s:.1f} s")
    say(f"tape: {recipe.tape.out}   look: pipeline inspect {recipe.tape.out}")
