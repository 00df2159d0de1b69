"""What measured rows weigh on their tape: of each signal, what is there once and what grows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache_schema import Tape, TapeRow, layout
from cache_schema.signals import A_RECORDING, HEARD
from cache_schema.types import AUDIO_SOURCE, SAMPLE_RATE_HZ, TEXT_SOURCE, Lens, Sampled, TopK

Numbers = NDArray[np.float64]

_NO_TOKENS = ("rejected", "frame_logits", *A_RECORDING)
"""Tables of sources whose rows are of no tokens."""

CHARACTERS_A_TOKEN = 4.0
"""Taken for a trace's text where no trace with its tokens is there to tell."""


@dataclass(frozen=True, kw_only=True)
class TableWeight:
    """One table of a group, its arrays included.

    Attributes:
        once: bytes a shard, however few its samples.
        growing: bytes of each measured row, [N]; 0 for a row that failed.
        tokens: tokens, or audio positions, of each measured row, [N]; zeros where it has none.
    """

    once: float
    growing: Numbers
    tokens: Numbers


def weights_of(tape: Tape, group: str, rows: Sequence[int]) -> dict[str, TableWeight]:
    """Return what the tables of a group weigh; the index of the tape counts with its samples.

    Args:
        tape: made of the measured rows.
        group: ``samples``, ``descriptions`` or a source.
        rows: dataset rows that were measured, in order.
    """
    shards = tape.shards[group]
    once: dict[str, int] = {}
    total: dict[str, int] = {}
    for shard in shards:
        for file, record in shard.record.files.items():
            table = file.split("/")[0].split(".")[0]
            fixed = _once_bytes(Path(tape.location) / shard.record.path / file)
            once[table] = once.get(table, 0) + fixed
            total[table] = total.get(table, 0) + record["bytes"] - fixed
    recorded, kind = tape.recorded(group), tape.groups[group].kind
    positions = sum(shard.record.positions for shard in shards)
    found = {}
    for table in sorted(total):
        lengths = _lengths(tape, group, table, recorded, rows)
        tokens = np.zeros(len(rows))
        if kind == AUDIO_SOURCE and table == "hidden":
            tokens = lengths * positions / lengths.sum()
        elif kind in (TEXT_SOURCE, AUDIO_SOURCE) and table not in _NO_TOKENS:
            tokens = lengths
        weights = lengths if lengths.sum() else present(tape, recorded, rows)
        found[f"{group}/{table}"] = TableWeight(
            once=once[table] / len(shards),
            growing=weights * total[table] / weights.sum(),
            tokens=tokens,
        )
    if group == "samples":
        there = present(tape, recorded, rows)
        size = _folder_bytes(Path(tape.location) / layout.INDEX_DIR)
        found["index"] = TableWeight(
            once=0.0, growing=there * size / there.sum(), tokens=np.zeros(len(rows))
        )
    return found


def bytes_a_shard(tape: Tape) -> float:
    """Return what the manifest and whatever else lies beside the tables weighs, a shard."""
    shards = [shard for many in tape.shards.values() for shard in many]
    tables = sum(int(file["bytes"]) for shard in shards for file in shard.record.files.values())
    location = Path(tape.location)
    index = _folder_bytes(location / layout.INDEX_DIR)
    return (_folder_bytes(location) - index - tables) / len(shards)


def work_of(step: str, tape: Tape, rows: Sequence[int]) -> Numbers:
    """Return how much work each measured row was for a step, [N]; 0 if it did not get there.

    The textual teacher's work is tokens, those of rejected traces included, an encoder's those it
    reads; descriptions made from columns are all the same; other work, listening too, is seconds of
    audio.
    """
    if step == "textual":
        if "trace" in tape.groups[TEXT_SOURCE].signals:
            return _tokens_written(tape, rows)
        return _lengths(tape, TEXT_SOURCE, "hidden", tape.recorded(TEXT_SOURCE), rows)
    seconds = _lengths(tape, "samples", "audio", tape.recorded("samples"), rows) / SAMPLE_RATE_HZ
    if step == "textualize" and all(group.kind != HEARD for group in tape.groups.values()):
        return np.where(seconds > 0, 1.0, 0.0)
    return seconds


def _tokens_written(tape: Tape, rows: Sequence[int]) -> Numbers:
    """Return the tokens of each measured row's traces, [N].

    Of a rejected trace there is the text only: its tokens are guessed from its characters.
    """
    found = [row for row in _rows_at(tape, rows) if row is not None]
    kept = [trace for row in found for trace in row.traces]
    characters, tokens = sum(len(one.text) for one in kept), sum(len(one.token_ids) for one in kept)
    a_token = characters / tokens if characters and tokens else CHARACTERS_A_TOKEN
    rejected = {
        row.row_index: sum(len(one.text) / a_token + 1 for one in row.rejected) for row in found
    }
    lengths = _lengths(tape, TEXT_SOURCE, "trace", tape.recorded(TEXT_SOURCE), rows)
    more: Numbers = np.array([rejected.get(index, 0.0) for index in rows])
    written: Numbers = lengths + more
    return written


def _rows_at(tape: Tape, rows: Sequence[int]) -> list[TapeRow | None]:
    by_index: Mapping[int, TapeRow] = {row.row_index: row for row in tape}
    return [by_index.get(index) for index in rows]


def present(tape: Tape, recorded: set[str], rows: Sequence[int]) -> Numbers:
    """Return 1 for each measured row among the recorded ids, else 0, [N]."""
    found = _rows_at(tape, rows)
    return np.array([float(row is not None and row.sample_id in recorded) for row in found])


def _lengths(
    tape: Tape, group: str, table: str, recorded: set[str], rows: Sequence[int]
) -> Numbers:
    """Return how long each measured row's part of a table is, in whatever it is proportional to."""
    return np.array(
        [
            0.0 if row is None or row.sample_id not in recorded else _length(row, group, table)
            for row in _rows_at(tape, rows)
        ]
    )


def _length(row: TapeRow, group: str, table: str) -> float:
    if group == "samples":
        texts = len(row.question) + len(str(row.metadata)) + 120  # ids, hash, numbers
        return float(row.num_audio_samples if table == "audio" else texts)
    if group == "descriptions":
        return len(row.description or "") + 30.0
    if table == HEARD:
        heard = row.heard.get(layout.heard_column(group))
        return 0.0 if heard is None else len(heard.text) + 60.0 * len(heard.segments) + 30.0
    if table == "rejected":
        return float(sum(len(rejected.text) + 100 for rejected in row.rejected))
    if group == TEXT_SOURCE:
        return _textual_length(row, table)
    return _acoustic_length(row, group, table)


def _textual_length(row: TapeRow, table: str) -> float:
    hidden = f"{TEXT_SOURCE}/hidden"
    if table == "hidden" and not row.traces and hidden in row:
        return float(row.hidden_place(hidden).count)
    return float(sum(len(trace.token_ids) for trace in row.traces))


def _acoustic_length(row: TapeRow, group: str, table: str) -> float:
    if table in ("hidden", "frame_logits"):
        return float(row.num_audio_samples)
    if table in A_RECORDING:
        return 1.0
    for name in (f"{group}/topk", f"{group}/lens", f"{group}/sampled"):
        if name in row:
            kept = row[name]
            assert isinstance(kept, TopK | Lens | Sampled)
            return float(len(kept.target_ids) * max(1, len(row.traces)))
    return 0.0


def _once_bytes(path: Path) -> int:
    """Return the bytes of a file that do not grow with its rows."""
    if path.name == "zarr.json":
        return path.stat().st_size
    if path.suffix != ".arrow":
        return 0
    with pa.memory_map(str(path)) as source:
        one = pa.ipc.open_file(source).read_all().slice(0, 1)
        two = pa.concat_tables([one, one]).combine_chunks()
        return int(min(2 * _arrow_bytes(one) - _arrow_bytes(two), path.stat().st_size))


def _arrow_bytes(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return int(sink.getvalue().size)


def _folder_bytes(folder: Path) -> int:
    return sum(
        (Path(where) / name).stat().st_size for where, _, names in os.walk(folder) for name in names
    )
