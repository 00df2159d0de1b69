"""What a step goes through: all of this worker's samples at once, or portions that it leases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic

from cache_schema import Tape
from cache_schema.commands.console import say
from cache_schema.errors import ModelError, QuarantineError
from cache_schema.writer import TapeWriter
from pipeline.cluster.lease import Lease, LeaseLostError
from pipeline.cluster.leases import Leases
from pipeline.cluster.portions import L, Look, Portions
from pipeline.cluster.slots import LeasedWriter, always, sweep_slots
from pipeline.recipe import ExtractRecipe
from pipeline.step import Failures, Pending, failures_of, open_for


@dataclass(frozen=True, kw_only=True)
class Job(Generic[L]):
    """What a step does to a group.

    Attributes:
        recipe: says whose samples these are.
        title: begins what is said.
        group: the group that is added to.
        look: opens the tape as it is now; gives it and what is left.
        failures: (tape, failures since that tape was opened) -> where a sample that fails counts.
    """

    recipe: ExtractRecipe
    title: str
    group: str
    look: Look[L]
    failures: Callable[[Tape | None, int], Failures]


class Part(Generic[L]):
    """Samples to record; a context manager that commits them when it is left.

    A lease that is lost ends the part early, without an error: what was not committed is given up,
    for another worker does it.

    Attributes:
        tape: what they are read from; ``None`` if there is none yet.
        left: the samples.
        failures: where one that fails counts.
    """

    def __init__(
        self,
        tape: Tape | None,
        left: L,
        failures: Failures,
        writer: TapeWriter,
        lease: Lease | None = None,
    ) -> None:
        self.tape, self.left, self.failures = tape, left, failures
        self._writer, self._lease = writer, lease

    def __enter__(self) -> Part[L]:
        if self._lease is not None and isinstance(self._writer, LeasedWriter):
            self._writer.fence = self._lease.check
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        try:
            if error is not None:
                return self._give_up(error)
            try:
                self._writer.seal()
                self.failures.settle(self._writer)
            except BaseException as failed:
                if not self._give_up(failed):
                    raise
            else:
                if self._lease is not None:
                    self._lease.finish()
        finally:
            if isinstance(self._writer, LeasedWriter):
                self._writer.fence = always
        return False

    def _give_up(self, error: BaseException) -> bool:
        """End without having recorded all; return whether that is no error."""
        if self._lease is None:
            return False
        if isinstance(error, LeaseLostError):
            self._writer.discard()
            self._lease.close()
            say(str(error))
            return True
        if isinstance(error, ModelError | QuarantineError):  # between two samples
            try:
                self._writer.seal()
            except LeaseLostError:
                self._writer.discard()
        self._lease.release()
        return False


def job_of(
    recipe: ExtractRecipe, title: str, group: str, left_on: Callable[[Tape], Pending]
) -> Job[Pending]:
    """Return the job of a step that reads samples of the tape.

    Args:
        recipe: says whose samples these are.
        title: begins what is said.
        group: the group that is added to.
        left_on: tape -> what is left on it.
    """

    def look() -> tuple[Tape, Pending]:
        tape = open_for(recipe)
        return tape, left_on(tape)

    def failures(tape: Tape | None, since: int) -> Failures:
        assert tape is not None
        return failures_of(title, group, tape, recipe, since)

    return Job(recipe=recipe, title=title, group=group, look=look, failures=failures)


def parts(job: Job[L], tape: Tape | None, left: L, writer: TapeWriter) -> Iterator[Part[L]]:
    """Yield the parts of a job, each to be entered.

    Args:
        job: what is done.
        tape: the tape as the step opened it.
        left: what was left on it; of a worker that leases its rows only the beginning.
        writer: of the group, open.

    Raises:
        TapeError: see ``Portions``.
    """
    if not isinstance(writer, LeasedWriter):
        yield Part(tape, left, job.failures(tape, 0), writer)
        return
    since: tuple[Tape | None, int] = (None, 0)
    for portion in Portions(leases_of(job.recipe, job.group), job.title, job.look):
        failed = since[1] if since[0] is portion.tape else 0
        failures = job.failures(portion.tape, failed)
        told = f"{len(portion.left)} samples ({portion.of} portions were left)"
        say(f"{job.title}: portion {portion.number}, {told}")
        yield Part(portion.tape, portion.left, failures, writer, portion.lease)
        since = portion.tape, failed + failures.count


def leases_of(recipe: ExtractRecipe, group: str) -> Leases:
    """Return the leases of a group of the tape that a recipe writes."""
    return Leases(
        Path(recipe.tape.out),
        group,
        rows=recipe.portion_rows,
        heartbeat_s=recipe.cluster.heartbeat_s,
        expires_s=recipe.cluster.expires_s,
    )


def tidy(recipe: ExtractRecipe, group: str) -> None:
    """Remove the leases of a group of which nothing is left, and what killed workers left of it."""
    leases_of(recipe, group).remove()
    sweep_slots(Path(recipe.tape.out), group)
