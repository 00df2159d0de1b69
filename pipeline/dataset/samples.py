"""A dataset that is open: rows, and a row as a Sample."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cache_schema.codecs.pcm import audio_sha256
from cache_schema.errors import DatasetError
from cache_schema.fingerprint import fingerprint
from cache_schema.types import FloatArray, Sample
from pipeline.dataset.recordings_of_row import Recording, read_recording
from pipeline.describe.timed import SPANS_COLUMN

_HALVES = re.compile("[\\ud800-\\udfff]")
"""Halves of characters, which JSON can escape and UTF-8 has not."""


class CellError(DatasetError):
    """A cell of one row cannot be used; other rows can."""


class FirstRows(Sequence[Mapping[str, Any]]):
    """The first ``count`` rows."""

    def __init__(self, rows: Any, count: int) -> None:
        self._rows, self._count = rows, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def cells(self, column: str) -> Iterator[Any]:
        """Yield one column's cells, leaving the others unread where the form allows it."""
        if hasattr(self._rows, "select_columns"):  # of `datasets`: recordings may lie beside
            blocks = self._rows.select_columns([column]).iter(batch_size=1000)
            yield from islice((cell for block in blocks for cell in block[column]), self._count)
        else:
            yield from (self[index].get(column) for index in range(self._count))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A dataset open for reading.

    Attributes:
        name: as the user gave it.
        rows: random access to rows as mappings.
        folder: where relative audio paths start.
        columns: our column -> the dataset's, only those present.
        question: asked of every sample that has no question of its own.
        digest: identity of the content.
        split: the one that was read, whether or not it was named; empty where there are none.
        several: what becomes of several recordings in one row: ``refuse`` or ``join``.
        gap_s: seconds of silence between two that are joined.
    """

    name: str
    rows: FirstRows
    folder: Path | None
    columns: Mapping[str, str]
    question: str
    digest: str
    split: str = ""
    several: str = "refuse"
    gap_s: float = 0.0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def sample(self, row_index: int) -> Sample:
        """Read one row.

        Raises:
            AudioError: its recording cannot be used.
            CellError: a cell has the wrong type, or holds what no tape can.
            DatasetError: the dataset cannot be read any more.
        """
        row = self.rows[row_index]
        try:
            return self._sample(row, row_index)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise CellError(f"{type(error).__name__}: {error}") from error

    def audio(self, row_index: int) -> FloatArray:
        """Read the recording of one row again, float32 [num_samples], mono, 16 kHz.

        Whether it is whole and not silent was judged when it was taken: the hash on the tape tells
        whether this is that recording.

        Raises:
            AudioError: it cannot be used.
            DatasetError: the dataset cannot be read any more.
        """
        return self._recording(self.rows[row_index], whole=False).audio

    def _recording(self, row: Mapping[str, Any], whole: bool) -> Recording:
        cell = row.get(self.columns["audio"])
        return read_recording(cell, self.folder, self.several, self.gap_s, whole)

    def _sample(self, row: Mapping[str, Any], row_index: int) -> Sample:
        cells = {ours: row.get(theirs) for ours, theirs in self.columns.items()}
        recording = self._recording(row, whole=True)
        audio = recording.audio
        choices = cells.get("choices") or ()
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            column = self.columns["choices"]
            raise CellError(f"column {column!r}: choices must be a list, got {choices!r:.80}")
        question = _text(cells.get("question")) or self.question
        answer = cells.get("answer")
        given = cells.get("id")
        used = set(self.columns.values())
        metadata = {k: _plain(v) for k, v in row.items() if k not in used and v is not None}
        if self.several == "join":
            metadata[SPANS_COLUMN] = [list(span_s) for span_s in recording.spans_s]
        content = {"question": question, "choices": _plain(choices), "answer": _plain(answer)}
        texts = {"id": given, "question": question, "answer": answer}
        for ours, value in [*texts.items(), *(("choices", choice) for choice in choices)]:
            self._check_utf8(ours, str(value))
        identity = fingerprint({**content, "audio": audio_sha256(audio)})[:20]
        return Sample(
            sample_id=id_text(given) or identity,
            row_index=row_index,
            audio=audio,
            question=question,
            choices=tuple(str(choice) for choice in choices),
            answer="" if answer is None else str(answer),
            metadata=metadata,
        )

    def _check_utf8(self, ours: str, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            column = self.columns.get(ours, ours)
            raise CellError(f"column {column!r} holds half a character ({error})") from error

    def given_id(self, row_index: int) -> str:
        """Return the row's own id; empty where ids come from the content, or it cannot be one."""
        return usable_id(id_text(self.rows[row_index].get(self.columns.get("id", ""))))


def _text(value: Any) -> str:
    """Return a cell's text, empty where there is none in it."""
    text = "" if value is None else str(value)
    return text if text.strip() else ""


def id_text(value: Any) -> str:
    """Return a row's own id as text; empty if it has none."""
    return "" if value is None else str(value)


def usable_id(given: str) -> str:
    """Return an id, or an empty text for one that is not UTF-8: its row fails by itself."""
    return given if given.isascii() or not _HALVES.search(given) else ""


def _plain(value: Any) -> Any:
    """Return a JSON value; bytes are named by their length, other objects by their text."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
