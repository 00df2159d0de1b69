"""One sample of a tape: its columns, its traces and its signals, each read when asked for."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cache_schema import layout
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.committed import Shard
from cache_schema.errors import MissingSignalError, TapeError, nearest
from cache_schema.hidden import HiddenPlace
from cache_schema.rows.values import audio_of, decode
from cache_schema.signals import AUDIO_ROW, HEARD, SIGNAL_TABLES
from cache_schema.types import (
    AUDIO_SOURCE,
    TEXT_SOURCE,
    Embedding,
    FloatArray,
    FrameLogits,
    Heard,
    Hidden,
    Lens,
    Rejected,
    Sampled,
    TopK,
    Trace,
    UtteranceLogits,
)

if TYPE_CHECKING:
    from cache_schema.reader import Tape

Signal = TopK | Lens | Sampled | Hidden | Trace | UtteranceLogits | FrameLogits | Embedding


class TapeRow:
    """One sample of a tape; each signal is read when asked for.

    Args:
        tape: the tape.
        number: the sample's place in the dataset's order.
    """

    def __init__(self, tape: Tape, number: int) -> None:
        self._tape = tape
        self._number = number
        self._sample_id: str | None = None
        self._place_in_samples: tuple[Shard, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by sample id: a tape opened again later may number its samples otherwise."""
        return operator.getitem, (self._tape, self.sample_id)

    @property
    def sample_id(self) -> str:
        """What joins everything recorded of this sample."""
        if self._sample_id is None:  # no cached_property: see Shard.record
            self._sample_id = str(self._tape.catalog.index.sample_id[self._number])
        return self._sample_id

    @property
    def _samples_row(self) -> tuple[Shard, int]:
        if self._place_in_samples is None:
            place = self._tape.place("samples", "samples", self._number, 0)
            if place is None:
                raise TapeError(f"{self._tape.location}: sample {self.sample_id!r} has no row")
            self._place_in_samples = place
        return self._place_in_samples

    def _field(self, name: str) -> Any:
        shard, index = self._samples_row
        return shard.columns("samples").cell(name, index)

    @property
    def audio(self) -> FloatArray:
        """float32 [num_samples], mono, 16 kHz.

        Raises:
            MissingSignalError: the tape keeps references to audio only.
            TapeError: the recording contradicts its sample.
        """
        shard, index = self._samples_row
        where = f"{shard.record.path}: audio of sample {self.sample_id!r}"
        if "audio" in shard.record.rows:
            row = shard.row("audio", index)
            if row["sample_id"] != self.sample_id:
                raise TapeError(f"{where}: row {index} of audio is of sample {row['sample_id']!r}")
            return audio_of(row, self.num_audio_samples, where)
        attached = shard.attached_row(self.sample_id)
        if attached is None:
            raise MissingSignalError(
                f"{self._tape.location}: made with --audio reference, or shared without audio, so "
                f"it holds none (sample {self.sample_id!r}, sha256 {self.audio_sha256}); "
                "pipeline attach adds it from your own files"
            )
        audio = audio_of(attached, self.num_audio_samples, where)
        if audio_sha256(audio) != self.audio_sha256:
            raise TapeError(f"{where}: what is attached is another recording; attach again")
        return audio

    @property
    def has_audio(self) -> bool:
        """Whether the recording is here, stored or attached."""
        shard, _ = self._samples_row
        return "audio" in shard.record.rows or self.sample_id in shard.attached()

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
        """Every other column of the dataset.

        Raises:
            TapeError: what is recorded is no JSON object.
        """
        try:
            return dict(json.loads(self._field("metadata")))
        except (ValueError, TypeError, RecursionError) as error:
            raise TapeError(f"metadata of sample {self.sample_id!r}: {error}") from error

    @property
    def row_index(self) -> int:
        """Position in the dataset."""
        return int(self._tape.catalog.index.id_order[self._number])

    @property
    def description(self) -> str | None:
        """The textualized audio, ``None`` if there is none."""
        place = self._tape.place("descriptions", "descriptions", self._number, 0)
        return None if place is None else str(place[0].row("descriptions", place[1])["description"])

    @property
    def traces(self) -> list[Trace]:
        """The textual teacher's traces; empty if it recorded none for this sample."""
        return self._numbered("trace")

    @property
    def rejected(self) -> list[Rejected]:
        """Traces that the textual teacher generated and that were not kept."""
        return self._numbered("rejected")

    def _numbered(self, table: str) -> list[Any]:
        """Return the rows of a table of the textual teacher that are numbered from 0."""
        found: list[Any] = []
        while place := self._tape.place(TEXT_SOURCE, table, self._number, len(found)):
            found.append(self._read(TEXT_SOURCE, table, *place))
        return found

    @property
    def heard(self) -> dict[str, Heard]:
        """Column -> what a listening model wrote for it, of every such model that heard this."""
        found: dict[str, Heard] = {}
        for name, group in self._tape.groups.items():
            if group.kind == HEARD and (place := self._tape.place(name, HEARD, self._number, 0)):
                found[layout.heard_column(name)] = self._read(name, HEARD, *place)
        return found

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals this sample has."""
        return tuple(name for name in self._tape.signals if name in self)

    def __contains__(self, name: str) -> bool:
        """Whether this sample has the signal, in the row that ``signal`` returns by default."""
        return self._place(name, None) is not None

    def __getitem__(self, name: str) -> Signal:
        """Return a signal, of its default row; see ``signal``."""
        return self.signal(name)

    def signal(
        self, name: str, trace: int | None = None, layers: tuple[int, ...] | None = None
    ) -> Signal:
        """Return one signal of one source, such as ``textual/topk`` or ``wavlm/hidden``.

        A source of kind ``acoustic`` may have rows of the recording and rows of traces side by
        side: states of the audio positions and of the tokens of a response.

        Args:
            name: ``source/signal``.
            trace: that trace's row, ``AUDIO_ROW`` (-1) the row of the recording or description.
                By default (``None``) the row of the recording where an acoustic source has one,
                else that of the first trace; of a textual source the first trace's, else the
                description's.
            layers: layers of a ``hidden`` signal to read; all recorded ones by default.

        Raises:
            MissingSignalError: the tape has no such signal, or not for this sample, trace or layer.
            TapeError: what is recorded is damaged or contradicts itself.
        """
        table, shard, index = self._find(name, trace)
        if table == "hidden":
            return shard.hidden(index, layers).read()
        signal: Signal = self._read(name.partition("/")[0], table, shard, index)
        return signal

    def hidden_place(
        self, name: str, trace: int | None = None, layers: tuple[int, ...] | None = None
    ) -> HiddenPlace:
        """Return where a ``hidden`` signal lies, to be read into memory of your own.

        Args:
            name: as for ``signal``.
            trace: as for ``signal``.
            layers: as for ``signal``.

        Raises:
            MissingSignalError: as for ``signal``, or the signal is not ``hidden``.
            TapeError: what is recorded is damaged or contradicts itself.
        """
        table, shard, index = self._find(name, trace)
        if table != "hidden":
            raise MissingSignalError(f"{name!r} holds no states")
        return shard.hidden(index, layers)

    def traces_of(self, name: str) -> tuple[int, ...]:
        """Return the traces a signal has rows of, ascending; -1 is the recording's, or its text's.

        Args:
            name: as for ``signal``; empty if the sample, or the tape, has no such signal.
        """
        group, _, signal = name.partition("/")
        index = self._tape.catalog.index
        found = {
            trace
            for table in SIGNAL_TABLES.get(signal, ())
            for trace in index.traces_of(group, table, self._number)
        }
        return tuple(sorted(found)) if name in self._tape.signals else ()

    def _find(self, name: str, trace: int | None) -> tuple[str, Shard, int]:
        place = self._place(name, trace)
        if place is None:
            has = ", ".join(self._tape.signals) or "no signals"
            if name in self._tape.signals:
                has = f"{name} of other samples or traces"
            of_trace = "" if trace is None else f" (trace {trace})"
            raise MissingSignalError(
                f"sample {self.sample_id!r} has no {name!r}{of_trace} on "
                f"{self._tape.location}, which has {has}{nearest(name, self._tape.signals)}"
            )
        return place

    def _place(self, name: str, trace: int | None) -> tuple[str, Shard, int] | None:
        if name not in self._tape.signals:
            return None
        group, _, signal = name.partition("/")
        traces: tuple[int, ...] = (0, AUDIO_ROW) if trace is None else (trace,)
        if trace is None and self._tape.groups[group].kind == AUDIO_SOURCE:
            traces = (AUDIO_ROW, 0)
        for index in traces:
            for table in SIGNAL_TABLES.get(signal, ()):
                if place := self._tape.place(group, table, self._number, index):
                    return table, *place
        return None

    def _read(self, group: str, table: str, shard: Shard, index: int) -> Any:
        where = f"{shard.record.path}: row {index} of {table}"
        return decode(table, shard.row(table, index), self._tape.groups[group].signals, where)
