"""Training runs as a user starts them, in one process or several, with faults; and what they leave.

Processes of a run are forked from one that has imported everything (``forks.Forks``): an
interpreter that imports torch and transformers takes some ten seconds on two cores.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import torch
import transformers.models.qwen2_5_omni.modeling_qwen2_5_omni
import transformers.models.qwen2_5_omni.processing_qwen2_5_omni  # noqa: F401 - as above
from forks import Ended, Forks
from safetensors.torch import load_file
from typer.testing import CliRunner

import train.run  # noqa: F401 - before the fork
from train.cli import app
from train.metrics import Reporter, StepMetrics, read_held_out, read_metrics
from train.objective import Objective

TIMES = ("step_s", "tokens_per_s", "loader_wait_s", "eval_s")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A run to start.

    Attributes:
        tape: its folder.
        student: its folder.
        out: the run's folder.
        more: flags.
        kill_after: end the first process as by ``kill -9``, the metrics of this step written.
        memory: input positions with padding of one pass that fit; 0: any.
        backward: run out of memory in the backward pass, not the forward one.
        short: processes that have no more memory than that; all by default.
    """

    tape: Path
    student: Path
    out: Path
    more: Sequence[str] = ()
    kill_after: int = 0
    memory: int = 0
    backward: bool = False
    short: Sequence[int] = field(default=(0, 1, 2, 3))

    @property
    def arguments(self) -> list[str]:
        """What is typed after ``train``."""
        paths = ("--cache", self.tape, "--student", self.student, "--out", self.out)
        return ["student", *map(str, paths), *self.more]


def train_here(launch: Launch) -> click.testing.Result:
    """Train in this process."""
    with _less_memory(launch.memory, launch.backward):
        return CliRunner().invoke(app, launch.arguments)


def train_apart(
    forks: Forks, launch: Launch, ranks: int = 1, others: Launch | None = None
) -> tuple[list[Ended], str]:
    """Train in processes of their own; return how each ended, and what they said, in order.

    Args:
        forks: where they are forked from.
        launch: how they are started,
        ranks: and how many.
        others: how all but the first are started, if otherwise.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = launch.out.with_suffix(".log")
    children = []
    for rank in range(ranks):
        short = launch.memory if rank in launch.short else 0
        places = [rank, ranks, port] if ranks > 1 else []
        faults = [launch.kill_after, short, launch.backward]
        heard = f"{log}.{rank}"
        typed = (others if others and rank else launch).arguments
        children.append(forks.start("train_runs:one_process", typed, places, faults, heard))
    ended = [forks.wait(child, 200) for child in children]
    return ended, "".join(Path(f"{log}.{rank}").read_text() for rank in range(ranks))


def one_process(arguments: list[str], places: list[int], faults: list[Any], heard: str) -> int:
    """Be one process of a run; return its exit status."""
    file = os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    if places:
        rank, ranks, port = places
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    kill_after, memory, backward = faults
    if kill_after:
        _die_after(kill_after)
    with _less_memory(memory, backward):
        try:
            app(arguments)
        except SystemExit as end:
            sys.stderr.flush()
            return int(end.code or 0)
    return 0


def _die_after(step: int) -> None:
    record = Reporter.step

    def step_and_die(self: Reporter, metrics: StepMetrics) -> None:
        record(self, metrics)
        if metrics.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Reporter.step = step_and_die  # type: ignore[method-assign]


@contextlib.contextmanager
def _less_memory(tokens: int, backward: bool) -> Iterator[None]:
    """Let the student's passes over more input positions than that run out of memory."""
    forward = Objective.forward

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. (a test's)")

    def short(self: Objective, batch: Any, *scale: Any) -> Any:
        too_large = batch.audio.inputs["attention_mask"].numel() > tokens
        if too_large and not backward:
            refuse()
        found = forward(self, batch, *scale)
        loss = found if isinstance(found, torch.Tensor) else found.loss
        if too_large and loss.requires_grad:
            loss.register_hook(refuse)
        return found

    if tokens:
        Objective.forward = short  # type: ignore[method-assign]
    try:
        yield
    finally:
        Objective.forward = forward  # type: ignore[method-assign]


def steps(run: Path) -> list[dict[str, Any]]:
    """Return the steps' lines, but for times."""
    return _without_times(read_metrics(run / "metrics.jsonl"))


def held_out(run: Path) -> list[dict[str, Any]]:
    """Return the lines on held-out rows, but for times."""
    return _without_times(read_held_out(run / "metrics.jsonl"))


def _without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the trained student's weights."""
    return load_file(run / "student" / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    """Whether two trained students are the same, bit for bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def apart(one: Path, other: Path, start: Path) -> float:
    """Return the distance of two trained students, as a share of how far the first one moved."""
    a, b, before = weights(one), weights(other), load_file(start / "model.safetensors")
    between = sum(float((a[name] - b[name]).double().square().sum()) for name in a)
    moved = sum(float((a[name] - before[name]).double().square().sum()) for name in a)
    return (between / moved) ** 0.5
