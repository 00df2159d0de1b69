"""Progress of long work: a bar on a terminal, plain lines in a log; count, rate and time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cache_schema.commands.console import say

LOG_INTERVAL_S = 10.0


class Counter:
    """Counts finished samples, or other units, of one step; use as a context manager."""

    def __init__(self, title: str, total: int, unit: str = "samples") -> None:
        self._unit = unit
        self._title, self._total, self._done = title, total, 0
        self._started_s = self._logged_s = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{unit}, {{task.fields[rate]:.1f}}/s"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=total, rate=0.0)

    def __enter__(self) -> Counter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._started_s
            say(f"{self._title}: {self._done} {self._unit} in {seconds:.1f} s")

    def advance(self, count: int = 1) -> None:
        """Count finished ones."""
        self._done += count
        now = time.monotonic()
        rate = self._done / max(now - self._started_s, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, advance=count, rate=rate)
        elif now - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now
            if self._done:
                left_s = (self._total - self._done) / rate
                told = f"{rate:.1f}/s, about {left_s:.0f} s left"
            else:
                told = f"none done after {now - self._started_s:.0f} s"
            say(f"{self._title}: {self._done}/{self._total} {self._unit}, {told}")
