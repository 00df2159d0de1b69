"""Hearing many recordings with one model: batches of like length, and what cannot be heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cache_schema import TapeRow
from cache_schema.commands.console import say
from cache_schema.errors import AudioError
from pipeline.listen.base import Hearing, Listener
from pipeline.listen.faults import OUT_OF_MEMORY, Unread, breaks_after, or_unread
from pipeline.listen.recordings import Recordings
from pipeline.step import Failures

WINDOW_BATCHES = 16
"""Batches sorted by length together: little padding, and shards stay near the dataset's order."""

ROLE = "listener"


@dataclass(kw_only=True)
class Ears:
    """A listener that goes over recordings and outlasts those it cannot hear.

    Attributes:
        listener: the model.
        recordings: where they are read.
        batch_size: recordings heard together; halved for good where memory runs out.
        title: begins what is said.
        failures: where a recording that cannot be heard counts.
        breaks: recordings in a row that the model broke on.
    """

    listener: Listener
    recordings: Recordings
    batch_size: int
    title: str
    failures: Failures
    breaks: int = 0

    def hear_all(self, rows: Sequence[TapeRow]) -> Iterator[tuple[TapeRow, Hearing | None]]:
        """Hear recordings in batches of similar length, window by window of the dataset's order.

        Where one recording spoils a batch, each of it is heard alone. ``None`` stands for a
        recording that counts as failed.

        Raises:
            ModelError: the model broke on ``MAX_BREAKS`` recordings in a row.
            QuarantineError: too many recordings failed.
        """
        window = self.batch_size * WINDOW_BATCHES
        for start in range(0, len(rows), window):
            left = sorted(rows[start : start + window], key=lambda row: row.num_audio_samples)
            alone = 0
            while left:
                batch = left[: 1 if alone else self.batch_size]
                heard = self._hear(batch)
                if isinstance(heard, Unread) and len(batch) > 1:
                    if heard.reason == OUT_OF_MEMORY:
                        self.batch_size = len(batch) // 2
                        now = f"with {len(batch)} recordings, now {self.batch_size}"
                        say(f"{self.title}: out of memory {now}")
                    else:
                        alone = len(batch)
                    continue
                if isinstance(heard, Unread):
                    self._miss(batch[0], heard)
                    yield batch[0], None
                else:
                    self.breaks = 0
                    yield from zip(batch, heard, strict=True)
                alone = max(0, alone - 1)
                left = left[len(batch) :]

    def _hear(self, batch: Sequence[TapeRow]) -> list[Hearing] | Unread:
        """Hear a batch, or say why not."""
        try:
            audios = [self.recordings.read(row) for row in batch]
        except AudioError as error:
            return Unread(reason="audio", detail=str(error))
        size = f"{batch[-1].num_audio_samples} audio samples"
        return or_unread(lambda: self.listener.hear(audios), ROLE, size)

    def _miss(self, row: TapeRow, unread: Unread) -> None:
        self.failures.add(row.sample_id, row.row_index, unread.reason, unread.detail)
        self.breaks = breaks_after(self.breaks, unread, row, self.title, ROLE)
