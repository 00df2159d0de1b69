"""A listener goes over this worker's recordings; what it hears is put on the tape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from audio_models.memory import free_memory
from cache_schema import Tape, TapeRow
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.errors import DatasetError
from cache_schema.prepare import RowError
from cache_schema.rows.values import heard_row
from cache_schema.signals import HEARD
from cache_schema.writer import TapeWriter
from pipeline.cluster.work import Part, job_of, parts
from pipeline.listen.ears import Ears
from pipeline.listen.plan import Listening, load
from pipeline.listen.recordings import Recordings
from pipeline.recipe import ExtractRecipe
from pipeline.step import Pending, open_for, pending, writer_for


def listen_all(recipe: ExtractRecipe, listenings: Sequence[Listening]) -> None:
    """Fill one column after the other for this worker's samples, a model at a time.

    Raises:
        DatasetError: the dataset has one of the columns, or is another than the tape's.
        ModelError: a model cannot be loaded, or cannot go on.
        ProvenanceError: the tape has a column from another listener.
        QuarantineError: too many recordings cannot be heard.
    """
    tape = open_for(recipe)
    left = {one.column: pending(tape, one.info, recipe) for one in listenings}
    _refuse_taken(tape, {column: todo.numbers for column, todo in left.items()})
    recordings = Recordings(tape, recipe.dataset) if any(map(len, left.values())) else None
    for one in listenings:
        if recordings is None or not left[one.column]:
            say(f"textualize: {one.column}: every recording is heard")
        else:
            _listen(recipe, one, tape, left[one.column], recordings)


def _listen(
    recipe: ExtractRecipe,
    listening: Listening,
    tape: Tape,
    todo: Pending,
    recordings: Recordings,
) -> None:
    """Fill one column; the model is gone afterwards."""
    title = f"textualize: {listening.column}"
    say(f"{title}: {listening.model} listens ({listening.kind}, {listening.dtype})")
    info = listening.info
    job = job_of(recipe, title, info.group, lambda now: pending(now, info, recipe))
    listener, batch_size = load(listening), listening.batch_size
    with writer_for(recipe, info) as writer:
        for part in parts(job, tape, todo, writer):
            with Counter(title, len(part.left)) as progress, part:
                ears = Ears(
                    listener=listener,
                    recordings=recordings,
                    batch_size=batch_size,
                    title=title,
                    failures=part.failures,
                )
                _hear_part(listening, ears, part, writer, progress)
                batch_size = ears.batch_size
                del ears
    del listener
    free_memory()


def _hear_part(
    listening: Listening, ears: Ears, part: Part[Pending], writer: TapeWriter, progress: Counter
) -> None:
    """Record what is heard of some samples, and say how much that is."""
    heard = silent = cut = 0
    for row, hearing in ears.hear_all(part.left):
        progress.advance()
        if hearing is None:
            continue
        try:
            writer.add({HEARD: [heard_row(row.sample_id, hearing.heard)]})
        except RowError as error:
            part.failures.add(row.sample_id, row.row_index, "text", str(error))
            continue
        heard += 1
        silent += not hearing.heard.text
        cut += hearing.is_cut
    writer.seal()
    tokens = listening.settled.get("max_new_tokens")  # a classifier writes none
    say(
        f"{ears.title}: {heard} of {len(part.left)} recordings are heard; nothing was heard in "
        f"{silent}" + (f", {cut} texts were cut at max_new_tokens={tokens}" if tokens else "")
    )


def _refuse_taken(tape: Tape, wanted: Mapping[str, NDArray[np.int64]]) -> None:
    """Refuse columns that the dataset has; ``wanted`` holds the places [n] each is wanted for."""
    names = [column for column, numbers in wanted.items() if len(numbers)]
    for number in np.unique(np.concatenate([*wanted.values(), np.empty(0, np.int64)])).tolist():
        row = TapeRow(tape, number)
        for column in row.metadata.keys() & names:
            raise DatasetError(
                f"textualize.listen.{column}: the dataset has a column {column!r} already (sample "
                f"{row.sample_id!r}); give what is heard another name, such as {column}_heard"
            )
