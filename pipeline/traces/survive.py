"""An engine that dies on a batch: again in halves, until the sample that kills it is alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cache_schema import TapeRow
from cache_schema.commands.console import say
from cache_schema.errors import ModelError, first_line
from pipeline.teachers.base import EngineDiedError
from pipeline.traces.draft import Task
from pipeline.traces.outcome import Failure, Outcome

Attempt = Callable[[Sequence[TapeRow]], Iterator[list[Outcome]]]
"""Runs samples; gives their outcomes part by part, in their order."""

DOUBTFUL = 2
"""Deaths in a row after which the engine itself is tried, on something known to be harmless."""

PAUSES_S = (5.0, 30.0)
"""Seconds before an engine that failed such a trial, or did not start again, is tried once more:
memory of a process that died may take a while to be free."""

MAX_CONDEMNED = 5
"""Samples that may be given up before any has succeeded: if all are bad, the engine is."""

TRIAL_TOKENS = 4
ENGINE_DIED = "engine died"


class Survivor:
    """Runs batches on an engine that may die; one object for a whole run.

    A bad sample is told from a broken engine by a trial: of the last sample that succeeded, else of
    a question of one character. A broken engine fails it too; then the step fails, and no sample is
    blamed for it.

    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._deaths = 0
        self._died = False
        self._cold = True
        self._good: TapeRow | None = None
        self._condemned = 0

    @property
    def proven(self) -> bool:
        """Whether a sample has succeeded, so that those given up are bad for certain."""
        return self._good is not None

    def each(self, rows: Sequence[TapeRow], attempt: Attempt) -> Iterator[list[Outcome]]:
        """Yield what comes of a batch, part by part.

        A sample on which alone the engine died twice comes back as failed.

        Raises:
            ModelError: the engine does not start, or does not survive what is harmless either; or
                no sample has ever succeeded and ``MAX_CONDEMNED`` were given up.
        """
        waiting: deque[Sequence[TapeRow]] = deque([rows])
        suspect = ""
        while waiting:
            part = waiting.popleft()
            if self._died and not self.proven and len(part) > 1:
                # Of a batch that kills, halves would be tried until one sample is left.
                waiting.appendleft(part[1:])
                part = part[:1]
            left = part
            try:
                self._make_ready(attempt)
                for outcomes in attempt(part):
                    left = left[len(outcomes) :]
                    self._note(outcomes)
                    yield outcomes
            except EngineDiedError as error:
                again = part[0].sample_id == suspect
                self._mourn(left, error, again=again)
                if again:
                    self._make_ready(attempt, doubtful=True)
                    yield [self._give_up(part[0], error)]
                    continue
                suspect = part[0].sample_id if len(part) == 1 else ""
                half = (len(left) + 1) // 2
                waiting.extendleft(piece for piece in (left[half:], left[:half]) if piece)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        good = [outcome.row for outcome in outcomes if outcome.failure is None]
        if good:  # the others were perhaps never put to the engine
            self._deaths = 0
            self._good = good[-1]

    def _make_ready(self, attempt: Attempt, *, doubtful: bool = False) -> None:
        """Start the engine if it is down; if it is doubtful, see whether it works.

        Raises:
            ModelError: it does not; at once, if it has never started.
        """
        for pause_s in (*PAUSES_S, None):
            try:
                if self._cold:
                    self._task.teacher.start(self._task.wanted)
                    self._cold = False
                if doubtful or self._deaths >= DOUBTFUL:
                    self._try_harmless(attempt)
                    self._deaths = 0
            except ModelError as error:
                if not self._died and not isinstance(error, EngineDiedError):
                    raise
                self._close()
                if pause_s is None:
                    raise ModelError(_broken(self._deaths, error)) from error
                say(f"textual: the engine does not work ({first_line(error)}); trying it again")
                time.sleep(pause_s)
            else:
                return

    def _try_harmless(self, attempt: Attempt) -> None:
        if self._good is not None:
            for outcomes in attempt([self._good]):
                outcomes.clear()  # they are on the tape
            return
        task = self._task
        few = replace(task.sampling, num_traces=1, max_new_tokens=TRIAL_TOKENS)
        task.teacher.trace(
            [task.teacher.encode([{"role": "user", "content": "?"}])], [0], few, task.wanted
        )

    def _mourn(self, left: Sequence[TapeRow], error: EngineDiedError, *, again: bool) -> None:
        """Close the engine and say so."""
        self._close()
        alone = len(left) == 1
        what = f"sample {left[0].sample_id!r}" if alone else f"{len(left)} samples"
        then = "trying it once more" if alone else "trying again in smaller parts"
        say(
            f"textual: the engine died on {what} ({first_line(error)}); "
            f"{'it is left out if the engine works without it' if again else then}"
        )

    def _close(self) -> None:
        self._deaths += 1
        self._died = self._cold = True
        self._task.teacher.close()

    def _give_up(self, row: TapeRow, error: EngineDiedError) -> Outcome:
        self._condemned += 1
        if not self.proven and self._condemned == MAX_CONDEMNED:
            raise ModelError(
                f"textual: the engine died on each of the first {MAX_CONDEMNED} samples, last on "
                f"{row.sample_id!r}: {error}\n{_REMEDY}"
            ) from error
        failure = Failure(reason=ENGINE_DIED, detail=f"twice on it alone: {error}")
        return Outcome(row=row, failure=failure)


_REMEDY = (
    "What succeeded is on the tape; mend the engine (--set textual.vllm...=, a smaller "
    "textual.batch_samples, --engine transformers) and run the same command again."
)


def _broken(deaths: int, error: ModelError) -> str:
    return (
        f"textual: the engine died {deaths} times in a row, last on what it should survive: {error}"
        f"\n{_REMEDY}"
    )
