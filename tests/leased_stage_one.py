"""``fast_stage_one`` with workers that lease portions of the rows, to be run in forked children."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fast_stage_one
import torch
from fast_stage_one import ArithmeticTeacher, note

import cache_schema.writer
import pipeline.textual
from cache_schema.types import IntArray
from pipeline.cluster.lease import Lease
from pipeline.cluster.recipe import ClusterRecipe
from pipeline.extract import run_step
from pipeline.recipe import ExtractRecipe
from pipeline.step import STEPS

HEARTBEAT_S, EXPIRES_S = 0.1, 0.8


class SlowTeacher(ArithmeticTeacher):
    """Takes its time over every prompt.

    Args:
        calls: see ``ArithmeticTeacher``.
        pause_s: of each prompt.
    """

    def __init__(self, calls: Path, pause_s: float) -> None:
        super().__init__(calls)
        self._pause_s = pause_s

    def generate(self, prompts: Sequence[IntArray], *rest: Any) -> Any:
        time.sleep(self._pause_s)
        return super().generate(prompts, *rest)


def recipe_of(dataset: str, out: str, acoustic_teacher: str, worker: str) -> ExtractRecipe:
    """Recordings heard one by one: what is recorded then does not depend on the portions."""
    recipe = fast_stage_one.recipe_of(dataset, out, acoustic_teacher, "hot")
    return replace(
        recipe,
        acoustic=replace(recipe.acoustic, batch_size=1),
        cluster=ClusterRecipe(heartbeat_s=HEARTBEAT_S, expires_s=EXPIRES_S),
        worker=worker,
    )


def work(
    dataset: str, out: str, acoustic_teacher: str, worker: str, diary: str, pause_s: float
) -> None:
    """Run the steps as one worker; what the teacher is asked is noted in the diary."""
    torch.set_num_threads(1)
    pipeline.textual.load_teacher = lambda _recipe, _seed: SlowTeacher(Path(diary), pause_s)
    recipe = recipe_of(dataset, out, acoustic_teacher, worker)
    for step in STEPS:
        if step != "acoustic" or acoustic_teacher:
            note(Path(diary), f"step {step}")
            run_step(step, recipe)


def work_to_a_commit(*arguments: Any) -> None:
    """Be killed between the rename of the second textual shard and its line in the manifest."""
    real, shards = cache_schema.writer.append_line, itertools.count(1)

    def killed(path: Path, line: bytes) -> None:
        if b'"shards/textual/' in line and next(shards) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, line)

    cache_schema.writer.append_line = killed
    work(*arguments)


def work_blindly(*arguments: Any) -> None:
    """Work without asking whether the lease is held: stopped just between asking and committing."""
    Lease.check = lambda self: None  # type: ignore[method-assign]
    work(*arguments)
