"""One sample of a tape: its columns, its traces and its signals, each read when asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cache_schema.committed import Shard, value
from cache_schema.errors import MissingSignalError, nearest
from cache_schema.signals import AUDIO_ROW, decode_audio, topk_of, trace_of
from cache_schema.types import TEXT_SOURCE, FloatArray, Hidden, TopK, Trace

if TYPE_CHECKING:
    from cache_schema.reader import Tape


class TapeRow:
    """One sample of a tape; each signal is read when asked for."""

    def __init__(self, tape: Tape, sample_id: str, shard: Shard, index: int) -> None:
        self.sample_id = sample_id
        self._tape = tape
        self._shard = shard
        self._row_index = index

    def _field(self, name: str) -> Any:
        return value(self._shard.table("samples").column(name), self._row_index)

    @property
    def audio(self) -> FloatArray:
        """float32 [num_samples], mono, 16 kHz.

        Raises:
            MissingSignalError: the tape keeps references to audio only.
        """
        place = self._tape.index("samples", "audio").get((self.sample_id, 0))
        if place is None:
            raise MissingSignalError(
                f"{self._tape.location}: made with --audio reference, so it holds no audio "
                f"(sample {self.sample_id!r}, sha256 {self.audio_sha256})"
            )
        row = place[0].row("audio", place[1])
        return decode_audio(row["audio"], row["audio_dtype"])

    @property
    def audio_sha256(self) -> str:
        """Hash of the float32 audio, there also when the audio itself is not."""
        return str(self._field("audio_sha256"))

    @property
    def num_audio_samples(self) -> int:
        """Length of the audio at 16 kHz."""
        return int(self._field("num_audio_samples"))

    @property
    def question(self) -> str:
        """What is asked about the audio."""
        return str(self._field("question"))

    @property
    def choices(self) -> tuple[str, ...]:
        """The permitted answers."""
        return tuple(self._field("choices"))

    @property
    def answer(self) -> str:
        """The right answer, empty if unknown."""
        return str(self._field("answer"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Every other column of the dataset."""
        return dict(json.loads(self._field("metadata")))

    @property
    def row_index(self) -> int:
        """Position in the dataset."""
        return int(self._field("row_index"))

    @property
    def description(self) -> str | None:
        """The textualized audio, ``None`` if there is none."""
        place = self._tape.index("descriptions", "descriptions").get((self.sample_id, 0))
        return None if place is None else str(place[0].row("descriptions", place[1])["description"])

    @property
    def traces(self) -> list[Trace]:
        """The textual teacher's traces; empty if it recorded none for this sample."""
        index = self._tape.index(TEXT_SOURCE, "trace")
        found: list[Trace] = []
        while place := index.get((self.sample_id, len(found))):
            found.append(trace_of(place[0].row("trace", place[1])))
        return found

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals this sample has."""
        return tuple(name for name in self._tape.signals if name in self)

    def __contains__(self, name: str) -> bool:
        """Whether this sample has the signal (of its first trace)."""
        return self._place(name, 0) is not None

    def __getitem__(self, name: str) -> TopK | Hidden | Trace:
        """Return a signal, of the first trace where it belongs to traces; see ``signal``."""
        return self.signal(name)

    def signal(
        self, name: str, trace: int = 0, layers: tuple[int, ...] | None = None
    ) -> TopK | Hidden | Trace:
        """Return ``source/topk``, ``source/hidden`` or ``source/trace``.

        Args:
            name: such as ``"textual/topk"``.
            trace: which trace, where the signal belongs to traces.
            layers: layers of a ``hidden`` signal to read; all recorded ones by default.

        Raises:
            MissingSignalError: the tape has no such signal, or not for this sample or layer.
        """
        place = self._place(name, trace)
        if place is None:
            has = ", ".join(self._tape.signals) or "no signals"
            if name in self._tape.signals:
                has = f"{name} of other samples or traces"
            raise MissingSignalError(
                f"sample {self.sample_id!r} has no {name!r} (trace {trace}) on "
                f"{self._tape.location}, which has {has}{nearest(name, self._tape.signals)}"
            )
        shard, index = place
        table = name.partition("/")[2]
        if table == "hidden":
            return shard.hidden(index, layers)
        row = shard.row(table, index)
        return topk_of(row) if table == "topk" else trace_of(row)

    def _place(self, name: str, trace: int) -> tuple[Shard, int] | None:
        if name not in self._tape.signals:
            return None
        group, _, table = name.partition("/")
        index = self._tape.index(group, table)
        return index.get((self.sample_id, trace)) or index.get((self.sample_id, AUDIO_ROW))
