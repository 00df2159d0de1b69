"""The tape a source is made again on: the chosen samples, and what their teacher reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache_schema import Tape, TapeRow, layout
from cache_schema.errors import TapeError
from cache_schema.maker import GroupInfo, recorded
from cache_schema.rows.values import rejected_row, sample_rows, trace_row
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE, Sample
from cache_schema.writer import TapeWriter


def write_scratch(tape: Tape, info: GroupInfo, rows: Sequence[TapeRow], out: Path) -> None:
    """Write it, the file of the group that is made again included.

    With that file there, a teacher that is another than the tape's is refused before it is loaded.

    Args:
        tape: the tape that is replayed.
        info: the source.
        rows: samples that it recorded.
        out: the new tape.

    Raises:
        MissingSignalError: a recording is not on the tape.
        TapeError: what the teacher reads is not on the tape.
    """
    _write_samples(rows, out, with_audio=info.kind == AUDIO_SOURCE)
    if info.kind == TEXT_SOURCE:
        _write_descriptions(tape, rows, out)
    elif str(info.identity.get("responses", "")).startswith("trace"):
        _write_traces(tape, info, rows, out)
    file = out / layout.group_file(info.group)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(_as_replayed(info).to_json())


def _as_replayed(info: GroupInfo) -> GroupInfo:
    """Return the source as the replay records it: whole, its states without loss."""
    signals = {name: dict(facts) for name, facts in recorded(info).items()}
    if "profile" in signals.get("hidden", {}):
        signals["hidden"]["profile"] = "hot"
    return replace(info, signals=signals, notes={}, whole=None)


def _write_samples(rows: Sequence[TapeRow], out: Path, *, with_audio: bool) -> None:
    """Write the samples; recordings attached to the tape become the new tape's own."""
    with TapeWriter(out, GroupInfo(group="samples", kind="samples")) as writer:
        for row in rows:
            sample = Sample(
                sample_id=row.sample_id,
                row_index=row.row_index,
                audio=row.audio if with_audio else None,
                question=row.question,
                choices=row.choices,
                answer=row.answer,
                metadata=row.metadata,
            )
            writer.add(sample_rows(sample, row.audio_sha256, row.num_audio_samples))


def _write_descriptions(tape: Tape, rows: Sequence[TapeRow], out: Path) -> None:
    if "descriptions" not in tape.groups:
        raise TapeError(f"{tape.location}: no descriptions, which its textual teacher read")
    with TapeWriter(out, tape.groups["descriptions"]) as writer:
        for row in rows:
            item = {"sample_id": row.sample_id, "description": row.description or ""}
            writer.add({"descriptions": [item]})


def _write_traces(tape: Tape, info: GroupInfo, rows: Sequence[TapeRow], out: Path) -> None:
    """Write the traces that an acoustic teacher was read on."""
    textual = tape.groups.get(TEXT_SOURCE)
    if textual is None or "trace" not in textual.signals:
        raise TapeError(
            f"{tape.location}: {info.group!r} was read on the textual traces, which are not here; "
            "replay a copy that has them"
        )
    traces = replace(textual, signals={"trace": {}}, notes={}, whole=None)
    with TapeWriter(out, traces) as writer:
        for row in rows:
            name = row.sample_id
            kept = [trace_row(name, index, trace) for index, trace in enumerate(row.traces)]
            out_of = [rejected_row(name, index, one) for index, one in enumerate(row.rejected)]
            if kept or out_of:
                tables = {"trace": kept, "rejected": out_of}
                writer.add({table: items for table, items in tables.items() if items})
            else:  # the step would wait for them
                writer.quarantine(name, row.row_index, "no trace", "nor on the tape")
