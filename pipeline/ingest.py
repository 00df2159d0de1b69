"""Step one, ingest: rows of the dataset become samples of the tape, audio decoded for good."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schema import Tape, open_tape
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.errors import AudioError, TeachertapeError
from cache_schema.maker import (
    GroupInfo,
    refuse_other_maker,
)
from cache_schema.prepare import RowError
from cache_schema.rows.values import sample_rows
from cache_schema.takeover import check_output
from cache_schema.types import Sample
from cache_schema.writer import TapeWriter
from pipeline.audio.recordings import NoAudioError
from pipeline.cluster.work import Job, Part, parts
from pipeline.dataset.recordings_of_row import SeveralRecordingsError, joining
from pipeline.dataset.row_ids import SeenIds
from pipeline.dataset.rows import open_rows
from pipeline.dataset.samples import CellError, Rows
from pipeline.recipe import ExtractRecipe
from pipeline.step import Failures, notes, writer_for

Outcome = Sample | AudioError | CellError
"""What becomes of a row."""

REASONS = {
    NoAudioError: "no audio",
    SeveralRecordingsError: "several recordings",
    AudioError: "audio",
    CellError: "row",
}
"""Why a row is quarantined, by its error: the first that fits."""

DECODE_THREADS = 4
_AHEAD = 64


def run(recipe: ExtractRecipe) -> None:
    """Ingest this worker's rows.

    Raises:
        DatasetError: the dataset cannot be used; nothing is written.
        ProvenanceError: the tape was made from another dataset.
        QuarantineError: too many recordings cannot be used.
    """
    rows = open_rows(recipe.dataset)
    root = Path(recipe.tape.out)
    info = GroupInfo(
        group="samples",
        kind="samples",
        identity={
            "dataset_digest": rows.digest,
            "split": rows.split,
            "columns": dict(rows.columns),
            "question": rows.question,
            "audio": recipe.dataset.audio,
            **joining(recipe.dataset),
        },
        notes=notes({"dataset": recipe.dataset.path}),
    )
    tape = open_tape(root) if check_output(root) else None
    if tape is not None and "samples" in tape.groups:
        info = _as_recorded(tape.groups["samples"], info, recipe.dataset.split)
        refuse_other_maker(tape.groups["samples"], info)
    mine = np.flatnonzero(recipe.mine(np.arange(len(rows))))

    def left_on(tape: Tape | None) -> NumberedRows:
        settled, _ = _settled(tape, len(rows))
        return NumberedRows(mine[~settled[mine]])

    def look() -> tuple[Tape, NumberedRows]:
        now = open_tape(root)
        return now, left_on(now)

    def failures(tape: Tape | None, since: int) -> Failures:
        _, failed = _settled(tape, len(rows))
        before = sum(map(recipe.is_mine, failed)) + since
        return Failures("ingest", recipe.failures.max_fraction, len(mine), before)

    todo = left_on(tape)
    if not len(todo):
        failed = sum(map(recipe.is_mine, _settled(tape, len(rows))[1]))
        again = ", which only another --out tries again" * bool(failed)
        told = f"{len(rows)} rows, {failed} failed{again}"
        say(f"ingest: nothing to do for worker {recipe.worker}; {told}")
        return
    job = Job(recipe=recipe, title="ingest", group="samples", look=look, failures=failures)
    with writer_for(recipe, info) as writer:
        for part in parts(job, tape, todo, writer):
            with Counter("ingest", len(part.left)) as progress, part:
                _ingest(recipe, rows, part, writer, progress)


@dataclass(frozen=True)
class NumberedRows:
    """Rows of the dataset.

    Attributes:
        row_indices: their numbers, int64 [n].
    """

    row_indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_indices)

    def where(self, mask: NDArray[np.bool_]) -> NumberedRows:
        """Return those that a mask, bool [n], holds."""
        return NumberedRows(self.row_indices[mask])


def _ingest(
    recipe: ExtractRecipe,
    rows: Rows,
    part: Part[NumberedRows],
    writer: TapeWriter,
    progress: Counter,
) -> None:
    """Put rows on the tape; those that cannot be used count as failed."""
    seen = SeenIds(lambda row_index: rows.sample(row_index).sample_id)
    tape, failures = part.tape, part.failures
    for row_index, outcome in _decode(rows, part.left.row_indices):
        progress.advance()
        if isinstance(outcome, TeachertapeError):
            name = rows.given_id(row_index) or f"row-{row_index}"
            reason = next(why for kind, why in REASONS.items() if isinstance(outcome, kind))
            failures.add(name, row_index, reason, str(outcome))
            continue
        on_tape = tape is not None and outcome.sample_id in tape
        if on_tape or not seen.add(outcome.sample_id, row_index):
            failures.add(outcome.sample_id, row_index, "duplicate", "same content as another")
            continue
        audio = outcome.audio
        assert audio is not None
        kept = outcome if recipe.dataset.audio == "store" else replace(outcome, audio=None)
        try:
            writer.add(sample_rows(kept, audio_sha256(audio), audio.size))
        except RowError as error:
            failures.add(outcome.sample_id, row_index, "row", str(error))


def _as_recorded(recorded: GroupInfo, offered: GroupInfo, asked: str) -> GroupInfo:
    """Return what is offered, its split as the tape names it.

    Older tapes have no name for a dataset's only split where none was asked for.
    """
    if asked or recorded.identity.get("split") != "":
        return offered
    return replace(offered, identity={**offered.identity, "split": ""})


def _settled(tape: Tape | None, num_rows: int) -> tuple[NDArray[np.bool_], set[int]]:
    """Return which rows are on the tape or failed, bool [num_rows], and the numbers of the latter.

    An earlier run with a larger ``--limit`` may have met rows beyond these.
    """
    settled = np.zeros(num_rows, dtype=bool)
    if tape is None:
        return settled, set()
    settled[tape.row_indices[tape.row_indices < num_rows]] = True
    failed = {q.row_index for q in tape.catalog.each_quarantined() if q.group == "samples"}
    settled[[row_index for row_index in failed if row_index < num_rows]] = True
    return settled, failed


def _decode(rows: Rows, todo: NDArray[np.int64]) -> Iterator[tuple[int, Outcome]]:
    """Decode rows in threads, in order, a bounded number ahead."""

    def one(row_index: int) -> tuple[int, Outcome]:
        try:
            return row_index, rows.sample(row_index)
        except (AudioError, CellError) as error:
            return row_index, error

    left = map(int, todo)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        while block := list(islice(left, _AHEAD)):
            yield from pool.map(one, block)
