"""The acoustic step's loop: passes are built ahead, launched, landed, and put on the tape.

While one pass runs on a GPU, the next one's inputs are built in a thread and the results of the one
before are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cache_schema import TapeRow
from cache_schema.answers.questions import question_text
from cache_schema.commands.progress import Counter
from cache_schema.errors import AudioError
from cache_schema.prepare import RowError
from cache_schema.types import SAMPLE_RATE_HZ, IntArray
from cache_schema.writer import TapeWriter
from pipeline.hearing.batches import Capacity, cut, memory_used
from pipeline.listen.faults import OUT_OF_MEMORY, Unread, breaks_after, or_unread
from pipeline.listen.recordings import Recordings
from pipeline.responses import Responses
from pipeline.step import Failures, seed_of
from pipeline.teachers.acoustic import AcousticTeacher, Item, Told

WINDOW = 128
"""Samples sorted by length together: little padding, and shards stay near the dataset's order."""

ROLE = "teacher"


@dataclass(kw_only=True)
class Waiting:
    """A sample whose items are not all heard yet.

    Attributes:
        row: the sample.
        left: items to come.
        told: what was said of those before.
        failed: whether it counts as failed already.
    """

    row: TapeRow
    left: int
    told: list[Told] = field(default_factory=list)
    failed: bool = False


Batch = list[tuple[Waiting, Item]]


@dataclass(kw_only=True)
class Recorder:
    """Hears samples with a teacher and puts what it says on the tape.

    Attributes:
        title: begins what is said.
        teacher: who hears.
        recordings: where they are read.
        responses: what the teacher is read on; ``None`` for a teacher that reads none.
        seed: of the drawn tokens.
        capacity: of a pass.
        writer: of the teacher's group.
        failures: where a sample that cannot be heard counts.
        progress: counts finished samples.
    """

    title: str
    teacher: AcousticTeacher
    recordings: Recordings
    responses: Responses | None
    seed: int
    capacity: Capacity
    writer: TapeWriter
    failures: Failures
    progress: Counter
    _flying: tuple[Batch, Any] | None = None
    _finished: int = 0
    _breaks: int = 0

    def record(self, rows: Sequence[TapeRow]) -> None:
        """Record samples; what cannot be heard or is not finite counts as failed.

        Raises:
            ModelError: the teacher broke on ``MAX_BREAKS`` samples in a row.
            QuarantineError: too many samples failed.
        """
        batches = cut(self._items(rows), self.capacity, self.teacher.same_length)
        for batch, built in self._built(batches):
            self._fly(batch, built)
        self._land()

    def _built(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Any]]:
        """Yield batches with their inputs, on a GPU built in a thread while the last pass runs.

        On the CPU the thread's arithmetic would take the pass's cores: 1.2 times the time was seen.
        """
        if self.teacher.device.type == "cpu":
            yield from ((batch, self._build(batch)) for batch in batches)
            return
        with ThreadPoolExecutor(max_workers=1) as ahead:
            waiting: tuple[Batch, Future[Any]] | None = None
            for batch in batches:
                upcoming = batch, ahead.submit(self._build, batch)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = upcoming
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _tell(self) -> None:
        if self._finished:
            self.progress.advance(self._finished)
            self._finished = 0

    def _items(self, rows: Sequence[TapeRow]) -> Iterator[tuple[Waiting, Item]]:
        """Yield the items of every sample that can be read, window by window by rising length."""
        for start in range(0, len(rows), WINDOW):
            window = sorted(rows[start : start + WINDOW], key=lambda row: row.num_audio_samples)
            for row in window:
                text = question_text(row.question, row.choices)
                try:
                    audio = self.recordings.read(row)
                    items = self.teacher.items(audio, text, self._responses_of(row))
                except AudioError as error:
                    self.failures.add(row.sample_id, row.row_index, "audio", str(error))
                    self._finished += 1
                    continue
                waiting = Waiting(row=row, left=len(items))
                yield from ((waiting, item) for item in items)

    def _responses_of(self, row: TapeRow) -> list[tuple[IntArray, int]]:
        if self.responses is None:
            return []
        return [
            (ids, seed_of(self.seed, f"{row.sample_id}/{index}"))
            for index, ids in enumerate(self.responses.of(row))
        ]

    def _build(self, batch: Batch) -> Any:
        return _or_unread(batch, lambda: self.teacher.build([item for _, item in batch]))

    def _fly(self, batch: Batch, built: Any) -> None:
        """Launch a pass, then land the one before."""
        flight = built if isinstance(built, Unread) else self._launch(batch, built)
        if isinstance(flight, Unread):
            self._split(batch, flight)
            return
        self._land()
        self._flying = batch, flight

    def _launch(self, batch: Batch, built: Any) -> Any:
        flight = _or_unread(batch, partial(self.teacher.launch, built))
        if isinstance(flight, Unread) and flight.reason == OUT_OF_MEMORY and self._flying:
            self._land()  # what is on its way holds memory too: try again without it
            flight = _or_unread(batch, partial(self.teacher.launch, built))
        return flight

    def _split(self, batch: Batch, unread: Unread) -> None:
        """Hear the halves of a batch that could not be heard, down to the item that spoils it."""
        self._land()  # items of one sample stay in order
        if len(batch) == 1:
            self._fail(batch[0][0], unread)
            return
        if unread.reason == OUT_OF_MEMORY:
            longest_s = max(item.length_s for _, item in batch)
            self.capacity.halve(len(batch), longest_s, self.title)
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            self._fly(half, self._build(half))

    def _land(self) -> None:
        """Take what is on its way; what cannot be landed is heard again in halves."""
        while self._flying is not None:
            (batch, flight), self._flying = self._flying, None
            told = _or_unread(batch, partial(self.teacher.land, flight))
            if isinstance(told, Unread):
                self._split(batch, told)
                continue
            self._breaks = 0
            longest_s = max(item.length_s for _, item in batch)
            self.capacity.saw(len(batch), longest_s, memory_used(self.teacher.device))
            for (waiting, _), one in zip(batch, told, strict=True):
                waiting.told.append(one)
                self._count(waiting)
        self._tell()

    def _fail(self, waiting: Waiting, unread: Unread) -> None:
        row = waiting.row
        if not waiting.failed:
            waiting.failed = True
            self.failures.add(row.sample_id, row.row_index, unread.reason, unread.detail)
        self._count(waiting)
        self._breaks = breaks_after(self._breaks, unread, row, self.title, ROLE)

    def _count(self, waiting: Waiting) -> None:
        """One item less to come; the last one finishes its sample."""
        waiting.left -= 1
        if waiting.left:
            return
        self._finished += 1
        if waiting.failed:
            return
        row = waiting.row
        try:
            self.writer.add(*self.teacher.rows(row.sample_id, waiting.told))
        except RowError as error:
            self.failures.add(row.sample_id, row.row_index, "signals", str(error))
        waiting.told.clear()


def _or_unread(batch: Batch, action: Callable[[], Any]) -> Any:
    """Return what an action on a batch gives, or why it could not be done."""
    return or_unread(action, ROLE, _size_of(batch))


def _size_of(batch: Batch) -> str:
    longest = max((item for _, item in batch), key=lambda item: item.length_s)
    tokens = 0 if longest.response_ids is None else len(longest.response_ids)
    seconds = len(longest.audio) / SAMPLE_RATE_HZ
    return f"{seconds:.1f} s of audio and {tokens} response tokens do not fit, read alone"
