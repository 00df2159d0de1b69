"""A listener goes over this worker's recordings; what it hears is put on the tape."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch

from cache_schema import Tape, TapeRow
from cache_schema.console import say
from cache_schema.errors import AudioError, DatasetError, TapeError
from cache_schema.prepare import RowError
from cache_schema.rows import heard_row
from cache_schema.signals import HEARD
from pipeline.listen.base import Hearing, Listener
from pipeline.listen.plan import Listening, load
from pipeline.progress import Counter
from pipeline.recipe import ExtractRecipe
from pipeline.step import Failures, failures_of, open_for, pending, writer_for

WINDOW_BATCHES = 16
"""Batches sorted by length together: little padding, and shards stay near the dataset's order."""


def listen(recipe: ExtractRecipe, listening: Listening) -> None:
    """Fill one column for this worker's samples; the model is gone afterwards.

    Raises:
        DatasetError: the dataset has that column.
        ModelError: the model cannot be loaded.
        ProvenanceError: the tape has this column from another listener.
        QuarantineError: too many recordings cannot be heard.
        TapeError: the tape holds no recordings.
    """
    tape = open_for(recipe)
    todo = pending(tape, listening.info, recipe)
    title = f"textualize: {listening.column}"
    if not todo:
        say(f"{title}: every recording is heard")
        return
    _refuse_references(tape)
    _refuse_taken(todo, listening.column)
    say(f"{title}: {listening.model} listens ({listening.kind}, {listening.dtype})")
    failures = failures_of(title, listening.info.group, tape, recipe)
    listener = load(listening)
    silent = cut = 0
    with writer_for(recipe, listening.info) as writer, Counter(title, len(todo)) as progress:
        for row, hearing in hear_all(listener, todo, listening.batch_size, title, failures):
            progress.advance()
            if hearing is None:
                continue
            try:
                writer.add({HEARD: [heard_row(row.sample_id, hearing.heard)]})
            except RowError as error:
                failures.add(row.sample_id, row.row_index, "text", str(error))
                continue
            silent += not hearing.heard.text
            cut += hearing.is_cut
        writer.seal()
        failures.settle(writer)
    if silent:
        say(f"{title}: nothing was heard in {silent} of {len(todo)} recordings")
    if cut:
        tokens = listening.settled["max_new_tokens"]
        say(f"{title}: {cut} of {len(todo)} texts were cut at max_new_tokens={tokens}")
    del listener
    release()


def release() -> None:
    """Give back the memory of a model that nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def hear_all(
    listener: Listener,
    rows: Sequence[TapeRow],
    batch_size: int,
    title: str,
    failures: Failures,
) -> Iterator[tuple[TapeRow, Hearing | None]]:
    """Hear recordings in batches of similar length, window by window of the dataset's order.

    Where memory runs out, the batch size is halved for good; where one recording spoils a batch,
    each of it is heard alone. ``None`` stands for a recording that counts as failed.
    """
    window = batch_size * WINDOW_BATCHES
    for start in range(0, len(rows), window):
        left = sorted(rows[start : start + window], key=lambda row: row.num_audio_samples)
        alone = 0
        while left:
            batch = left[: 1 if alone else batch_size]
            heard: Sequence[Hearing | None] | None = None
            reason = detail = ""
            try:
                heard = listener.hear([row.audio for row in batch])
            except torch.cuda.OutOfMemoryError:
                reason, detail = "out of memory", f"{batch[-1].num_audio_samples} audio samples"
                if len(batch) > 1:
                    batch_size = len(batch) // 2
                    say(f"{title}: out of memory with {len(batch)} recordings, now {batch_size}")
            except AudioError as error:
                reason, detail = "audio", str(error)
                alone = alone or len(batch)
            if heard is None:
                release()  # outside the handlers, which hold on to the memory
                if len(batch) > 1:
                    continue
                failures.add(batch[0].sample_id, batch[0].row_index, reason, detail)
                heard = [None]
            alone = max(0, alone - 1)
            yield from zip(batch, heard, strict=True)
            left = left[len(batch) :]


def _refuse_references(tape: Tape) -> None:
    if tape.groups["samples"].identity.get("audio") == "reference":
        raise TapeError(
            f"{tape.location}: made with --audio reference, so there are no recordings to listen "
            "to; listen on a tape made with --audio store, and merge the two"
        )


def _refuse_taken(rows: Sequence[TapeRow], column: str) -> None:
    for row in rows:
        if column in row.metadata:
            raise DatasetError(
                f"textualize.listen.{column}: the dataset has a column {column!r} already (sample "
                f"{row.sample_id!r}); give what is heard another name, such as {column}_heard"
            )
