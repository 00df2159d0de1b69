"""What a run says while it runs: ``metrics.jsonl``, a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cache_schema.codecs.files import write_atomic
from cache_schema.commands.console import say

HELD_OUT = "held_out"
"""Kind of the lines on held-out rows; the steps' lines have no kind."""

Track = Callable[[dict[str, float], int], None]
"""Hands (values, step) to trackers."""


@dataclass(frozen=True, kw_only=True)
class TermValue:
    """One term of one step.

    Attributes:
        value: mean over its positions, unweighted; 0 without any.
        weight: what it is multiplied by in the loss.
        count: its positions in the step.
        unknown: of a term on tokens a teacher named, the teacher's mean mass there on tokens the
            student lacks: in the tail or, of drawn ones, left out; ``None`` for others.
        gradient_norm: norm of the weighted term's gradient over all trained parameters, on the
            step's first micro-batch; ``None`` where it was not measured.
    """

    value: float
    weight: float
    count: int
    unknown: float | None = None
    gradient_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One line of ``metrics.jsonl``.

    Attributes:
        step: steps done, from 1.
        loss: weighted sum of the terms.
        terms: every term.
        lr: learning rate of the student.
        grad_norm: gradient norm before clipping.
        tokens: unpadded input positions over all processes.
        tokens_per_s: the same a second of this step.
        step_s: seconds of this step, waiting included.
        loader_wait_s: seconds spent waiting for data.
        micro_tokens: padded tokens of one forward pass, at most.
    """

    step: int
    loss: float
    terms: dict[str, TermValue]
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    step_s: float
    loader_wait_s: float
    micro_tokens: int

    def to_json(self) -> str:
        """Return the line, without its end."""
        return json.dumps({**vars(self), "terms": _terms_json(self.terms)})


@dataclass(frozen=True, kw_only=True)
class HeldOutMetrics:
    """One line of ``metrics.jsonl`` of its own kind: ``"kind": "held_out"``.

    Attributes:
        step: steps done when it was measured.
        loss: weighted sum of the terms on the held-out rows.
        terms: every term.
        tokens: unpadded input positions.
        eval_s: seconds it took.
        best: whether it is the lowest so far.
        accuracy: share of right answers among those generated; ``None`` where none were.
        no_answer: share of responses without an answer; likewise.
        generate_s: seconds that generating took; likewise.
    """

    step: int
    loss: float
    terms: dict[str, TermValue]
    tokens: int
    eval_s: float
    best: bool
    accuracy: float | None = None
    no_answer: float | None = None
    generate_s: float | None = None

    def to_json(self) -> str:
        """Return the line, without its end."""
        values = {key: value for key, value in vars(self).items() if value is not None}
        return json.dumps({"kind": HELD_OUT, **values, "terms": _terms_json(self.terms)})


def _terms_json(terms: Mapping[str, TermValue]) -> dict[str, dict[str, float]]:
    return {
        name: {key: value for key, value in vars(term).items() if value is not None}
        for name, term in terms.items()
    }


def scalars(metrics: StepMetrics | HeldOutMetrics) -> dict[str, float]:
    """Return a line's numbers under flat names, for trackers; ``step`` is left out."""
    values = {
        key: float(value)
        for key, value in vars(metrics).items()
        if key != "step" and isinstance(value, int | float)
    }
    for name, term in _terms_json(metrics.terms).items():
        kept = term if term["count"] else {"count": 0}  # without a position it has no value
        values.update({f"{name}/{key}": float(value) for key, value in kept.items()})
    prefix = f"{HELD_OUT}/" if isinstance(metrics, HeldOutMetrics) else "train/"
    return {f"{prefix}{key}": value for key, value in values.items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the steps' lines of ``metrics.jsonl``; a last line cut by a crash is left out."""
    return [line for line in _read_lines(path) if "kind" not in line]


def read_held_out(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` on held-out rows."""
    return [line for line in _read_lines(path) if line.get("kind") == HELD_OUT]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``: those steps are done again."""
    kept = [line for line in _read_lines(path) if line["step"] <= step]
    if path.is_file():
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


class Reporter:
    """Writes metrics and shows progress; use as a context manager, on the first process only."""

    def __init__(self, path: Path, total: int, done: int, every: int, track: Track) -> None:
        self._path, self._total, self._first, self._every = path, total, done, every
        self._track = track
        self._started_s = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Reporter:
        self._file = self._path.open("a", encoding="utf-8")
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._bar is not None:
            self._bar.stop()

    def step(self, metrics: StepMetrics) -> None:
        """Record one step."""
        self._write(metrics)
        text = f"{_losses(metrics)}  {metrics.tokens_per_s:,.0f} tok/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=metrics.step, description=text)
        elif metrics.step % self._every == 0 or metrics.step in (self._first + 1, self._total):
            done = metrics.step - self._first
            left_s = (time.monotonic() - self._started_s) / done * (self._total - metrics.step)
            say(f"step {metrics.step}/{self._total}  {text}  {left_s:.0f} s left")

    def held_out(self, metrics: HeldOutMetrics) -> None:
        """Record one evaluation on the held-out rows."""
        self._write(metrics)
        text = f"held out after step {metrics.step}: {_losses(metrics)}{'  (best)' * metrics.best}"
        if metrics.accuracy is not None:
            text += f"  answers right {metrics.accuracy:.1%}, missing {metrics.no_answer:.1%}"
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            say(text)

    def _write(self, metrics: StepMetrics | HeldOutMetrics) -> None:
        self._file.write(metrics.to_json() + "\n")
        self._file.flush()
        self._track(scalars(metrics), metrics.step)


def _losses(metrics: StepMetrics | HeldOutMetrics) -> str:
    computed = {name: term for name, term in metrics.terms.items() if term.count}
    terms = "  ".join(f"{name} {term.value:.4f}" for name, term in computed.items())
    return f"loss {metrics.loss:.4f}  {terms}"
