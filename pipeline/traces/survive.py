"""An engine that dies on a batch: again in halves, until the sample that kills it is alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cache_schema import TapeRow
from cache_schema.console import say
from cache_schema.errors import ModelError
from pipeline.teachers.base import EngineDiedError
from pipeline.traces.draft import Task
from pipeline.traces.outcome import Failure, Outcome

MAX_DEATHS = 3
"""Deaths in a row, with no batch in between that went well, after which the step fails."""

ENGINE_DIED = "engine died"
_T = TypeVar("_T")


class Survivor:
    """Runs batches on an engine that may die; one object for a whole run.

    Parts wait their turn: after the half that failed comes its other half, so that one bad sample
    is found with successes in between. When the engine has died twice in a row the next try is of
    one sample alone, the cheapest way to tell a broken engine from a bad sample.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._deaths = 0
        self._cold = True

    def each(
        self, rows: Sequence[TapeRow], attempt: Callable[[Sequence[TapeRow]], list[Outcome]]
    ) -> Iterator[list[Outcome]]:
        """Yield what comes of a batch, part by part.

        A sample on which alone the engine died twice comes back as failed.

        Raises:
            ModelError: the engine died ``MAX_DEATHS`` times in a row.
        """
        waiting: deque[Sequence[TapeRow]] = deque([rows])
        suspects: set[str] = set()
        while waiting:
            part = waiting.popleft()
            if self._deaths == MAX_DEATHS - 1 and len(part) > 1:
                waiting.appendleft(part[1:])
                part = part[:1]
            try:
                done = self._try(part, attempt)
            except EngineDiedError as error:
                lost = self._mourn(part, error, suspects)
                if lost is not None:
                    yield [lost]
                    continue
                half = (len(part) + 1) // 2
                waiting.extend(piece for piece in (part[:half], part[half:]) if piece)
                continue
            self._deaths = 0
            yield done

    def _try(self, part: Sequence[TapeRow], attempt: Callable[[Sequence[TapeRow]], _T]) -> _T:
        if self._cold:
            self._task.teacher.start(self._task.wanted)
            self._cold = False
        return attempt(part)

    def _mourn(
        self, part: Sequence[TapeRow], error: EngineDiedError, suspects: set[str]
    ) -> Outcome | None:
        """Close the engine and say so; return the outcome of a sample that killed it twice."""
        self._deaths += 1
        self._cold = True
        self._task.teacher.close()
        alone = len(part) == 1
        what = f"sample {part[0].sample_id!r}" if alone else f"{len(part)} samples"
        if self._deaths == MAX_DEATHS:
            raise ModelError(
                f"textual: the engine died {MAX_DEATHS} times in a row, last on {what}: {error}\n"
                "What succeeded is on the tape; mend the engine (--set textual.vllm...=, a smaller "
                "textual.batch_samples, --engine transformers) and run the same command again."
            ) from error
        again = alone and part[0].sample_id in suspects
        then = "trying it once more" if alone else "trying again in smaller parts"
        say(
            f"textual: the engine died on {what} ({_first_line(error)}); "
            f"{'it is left out' if again else then}"
        )
        if again:
            failure = Failure(reason=ENGINE_DIED, detail=f"twice on it alone: {error}")
            return Outcome(row=part[0], failure=failure)
        if alone:
            suspects.add(part[0].sample_id)
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
