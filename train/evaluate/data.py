"""What is asked: a tape as it is, or a dataset or benchmark that stage one puts on one.

Stage one runs as a process of its own. A row it cannot read is not left out: it becomes an item
that no model is asked and that has failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema import Tape, TapeRow, layout
from cache_schema.commands.child import end_with_parent
from cache_schema.commands.console import say
from cache_schema.errors import DatasetError, UsageError
from cache_schema.files import TapeFiles
from cache_schema.fingerprint import fingerprint
from cache_schema.manifest import Quarantined
from cache_schema.types import Sample
from train.data import require_audio
from train.evaluate.benchmarks.files import SUFFIXES
from train.evaluate.benchmarks.items import item_of
from train.evaluate.rows_file import drop_recordings, write_rows
from train.evaluate.types import NOT_READ, Benchmark, Item

_DUPLICATE = "duplicate"
_NAMES = {
    "question": ("question", "instruction", "prompt"),
    "choices": ("choices", "options"),
    "answer": ("answer", "label_text", "output"),
}
"""Keys of a row that could not be read, as stage one looks for them."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked.

    Attributes:
        tape: where the recordings are.
        items: every row, in the data's order.
        unreadable: sample id -> why stage one could not read it; those are among the items.
        duplicates: rows left out, because an earlier one is the same without a difference.
    """

    tape: Tape
    items: tuple[Item, ...]
    unreadable: Mapping[str, str]
    duplicates: int

    @property
    def answerable(self) -> list[tuple[Item, TapeRow]]:
        """The items with a recording, and their rows."""
        return [(i, self.tape[i.sample_id]) for i in self.items if i.sample_id in self.tape]

    def digest(self) -> str:
        """Return one hash over everything asked: questions, choices, answers, recordings."""
        heard = {item.sample_id: row.audio_sha256 for item, row in self.answerable}
        rows = [[_plain(item), heard.get(item.sample_id, "")] for item in self.items]
        return f"sha256:{fingerprint({'items': rows})}"


def _plain(value: Any) -> Any:
    """Return what is hashed of an item: JSON values, of half characters their escapes."""
    if isinstance(value, Item):
        return _plain(vars(value))
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value.encode("utf-8", "backslashreplace").decode()


def is_tape(data: str) -> bool:
    """Whether a path or URL holds a tape."""
    return ("://" in data or Path(data).is_dir()) and TapeFiles(data).exists(layout.DATASET_FILE)


def prepare(data: str, benchmark: Benchmark, limit: int, rows_file: Path, folder: Path) -> str:
    """Return where the tape with the data is; it is made where ``data`` is none.

    Args:
        data: a tape, a dataset, or a benchmark's files.
        benchmark: how those are read.
        limit: only the first rows; 0: all.
        rows_file: where a benchmark's rows are written as a dataset.
        folder: where the tape is made.

    Raises:
        DatasetError: stage one could not use the data; it has said why.
        UsageError: the same, of settings.
    """
    if is_tape(data):
        return data
    source, several = data, []
    if benchmark.name != "own":
        write_rows(benchmark.rows(Path(data)), rows_file)
        source = str(rows_file)
        several = ["--set", "dataset.several=join"]  # MMAU-Pro asks of two recordings at once
    say(
        f"the recordings are kept in {folder}, losslessly; once there is a report it may be deleted"
    )
    command = [sys.executable, "-m", "pipeline", "ingest", "--dataset", source]
    command += ["--out", str(folder), "--set", "failures.max_fraction=1"]
    command += several + (["--limit", str(limit)] if limit else [])
    done = subprocess.run(command, check=False, preexec_fn=end_with_parent)
    if done.returncode:
        failed = UsageError if done.returncode == 2 else DatasetError
        raise failed(
            f"{data} could not be read (exit status {done.returncode}). If it needs more to be "
            "said of it, make a tape of it, pipeline ingest --dataset ... --out TAPE, and give "
            "that as --data"
        )
    drop_recordings(rows_file)
    return str(folder)


def ask(tape: Tape, benchmark: Benchmark, limit: int, known: Iterable[dict[str, Any]]) -> Asked:
    """Return the items of a tape, those included that stage one could not read.

    Args:
        tape: the samples.
        benchmark: whose groups the items get.
        limit: only the first rows; 0: all.
        known: the data's rows in their order, from which unreadable ones are taken; empty where
            they are not known here. Read only where it is needed.

    Raises:
        DatasetError: there is nothing to ask, or nothing to compare with.
        MissingSignalError: the tape keeps references to audio only.
    """
    require_audio(tape)
    failed = [q for q in tape.quarantined if q.group == "samples"]
    lost = [q for q in failed if q.reason != _DUPLICATE and q.sample_id not in tape]
    samples: list[tuple[int, TapeRow | Sample]] = [(row.row_index, row) for row in tape]
    samples += [(one.row_index, sample) for one, sample in _lost_samples(lost, known)]
    samples.sort(key=lambda pair: pair[0])
    kept = samples[:limit] if limit else samples
    if not kept:
        raise DatasetError(f"{tape.location}: there is nothing to ask, it holds no sample")
    items = [item_of(sample, benchmark) for _, sample in kept]
    if benchmark.complete is not None:
        items = benchmark.complete(items, [sample.metadata for _, sample in kept])
    ids = {item.sample_id for item in items}
    return Asked(
        tape=tape,
        items=tuple(items),
        unreadable={q.sample_id: f"{q.reason}: {q.detail}" for q in lost if q.sample_id in ids},
        duplicates=len(failed) - len(lost),
    )


def known_rows(data: str, benchmark: Benchmark, rows_file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that stage one was given, where they can be read here.

    Args:
        data: as given.
        benchmark: what it was read as.
        rows_file: the benchmark's rows, if there are some.
    """
    if rows_file.is_file():
        yield from map(json.loads, rows_file.read_bytes().splitlines())
    elif Path(data).suffix.lower() in SUFFIXES and Path(data).is_file():
        yield from benchmark.rows(Path(data))


def _lost_samples(
    lost: Sequence[Quarantined], known: Iterable[dict[str, Any]]
) -> Iterator[tuple[Quarantined, Sample]]:
    """Yield what is known of rows that are not on the tape."""
    wanted = {one.row_index for one in lost}
    rows = {at: row for at, row in enumerate(known) if at in wanted} if lost else {}
    for one in lost:
        row = rows.get(one.row_index, {})
        choices = _cell(row, "choices")
        answer = _cell(row, "answer") if row else NOT_READ
        yield (
            one,
            Sample(
                sample_id=one.sample_id,
                row_index=one.row_index,
                audio=None,
                question=str(_cell(row, "question") or ""),
                choices=tuple(map(str, choices)) if isinstance(choices, list) else (),
                answer="" if answer is None else str(answer),
                metadata=row,
            ),
        )


def _cell(row: Mapping[str, Any], ours: str) -> Any:
    return next((row[name] for name in _NAMES[ours] if name in row), None)
