"""Batches of a run: this process's share of one step after another, loaded ahead."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from train.batch.build import TrainBatch, load_batches
from train.data import Example
from train.parts import Run
from train.steps.order import divide_step
from train.steps.ring import HostBuffer, Readers, prefetch
from train.steps.stages import PlannedStep

STEPS_AHEAD = 2
"""Steps loaded while one is computed; each has a buffer of its own, and so has the computed one."""


@dataclass(frozen=True, kw_only=True)
class MicroSize:
    """Planned size of a micro-batch: rows, and input positions with the padding."""

    rows: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class StepLoad:
    """One process's micro-batches of a step and their planned sizes; none if it got no row.

    Attributes:
        micro: what it passes through the student.
        sizes: of each.
        spare: the last so many are another's row and count nothing: where processes hold parts of
            the student, each runs as many passes as the one with most.
    """

    micro: list[TrainBatch]
    sizes: list[MicroSize]
    spare: int = 0

    @property
    def own(self) -> list[TrainBatch]:
        """The micro-batches that count."""
        return self.micro[: len(self.micro) - self.spare]


def loads(
    run: Run, steps: Iterable[PlannedStep], micro_tokens: int, alone: bool = False
) -> Generator[StepLoad, None, None]:
    """Yield this process's shares of steps; a share's states are valid until the next one.

    Args:
        run: where rows come from and what is read of them.
        steps: the rows of each step.
        micro_tokens: padded tokens of one forward pass.
        alone: every row is this process's, as if it were the only one.
    """
    accelerator = run.accelerator
    rank, ranks = (0, 1) if alone else (accelerator.process_index, accelerator.num_processes)

    def load(readers: Readers, step: PlannedStep, buffer: HostBuffer) -> StepLoad:
        micro = divide_step(step.rows, rank, ranks, micro_tokens)
        spare = 0
        if run.shards and not alone:
            spare = spare_passes(step.rows, rank, ranks, micro_tokens)
        if spare:
            shortest = min(step.rows, key=lambda e: (e.num_tokens, e.sample_id, e.trace_index))
            micro.append([shortest])
        shares = [step.stage.task_of(rows).share(rows) for rows in micro]
        batches = load_batches(run.lm, shares, buffer, readers)
        sizes = [planned_size(rows) for rows in micro]
        again = max(spare - 1, 0)
        return StepLoad(
            micro=batches + batches[-1:] * again, sizes=sizes + sizes[-1:] * again, spare=spare
        )

    buffers = [HostBuffer(accelerator.device) for _ in range(STEPS_AHEAD + 1)]
    with Readers() as readers:
        yield from prefetch((functools.partial(load, readers, step) for step in steps), buffers)


def spare_passes(step: list[Example], rank: int, ranks: int, micro_tokens: int) -> int:
    """Return how many passes fewer than the process with most one has in a step."""
    passes = [len(divide_step(step, each, ranks, micro_tokens)) for each in range(ranks)]
    return max(passes) - passes[rank]


def planned_size(rows: list[Example]) -> MicroSize:
    """Return the size of a micro-batch of these rows."""
    return MicroSize(rows=len(rows), tokens=len(rows) * max(e.num_tokens for e in rows))


class Feed:
    """The training steps' loads; the current one can be had again in smaller micro-batches.

    Args:
        run: what is trained.
        done: steps already taken.
        micro_tokens: padded tokens of one forward pass.
    """

    def __init__(self, run: Run, done: int, micro_tokens: int) -> None:
        self._run, self._step = run, done
        self._begin(micro_tokens)

    def advance(self) -> None:
        """Go to the next step; ``load`` is its, ``waited_s`` starts over."""
        self._step += 1
        self.waited_s = 0.0
        self._take()

    def again(self, micro_tokens: int) -> None:
        """Load the current step again, and all after it, in smaller micro-batches."""
        self.close()
        self._step -= 1
        self._begin(micro_tokens)
        self._step += 1
        self._take()

    def go_on_with(self, micro_tokens: int) -> None:
        """Load the steps after the current one in smaller micro-batches, if it is not so yet."""
        if micro_tokens != self.micro_tokens:
            self.close()
            self._begin(micro_tokens)

    def close(self) -> None:
        """End the loader's threads."""
        self._loads.close()

    def _begin(self, micro_tokens: int) -> None:
        self.micro_tokens = micro_tokens
        self._loads = loads(self._run, self._run.steps_from(self._step), micro_tokens)

    def _take(self) -> None:
        began_s = time.perf_counter()
        self.load = next(self._loads)
        self.waited_s += time.perf_counter() - began_s
