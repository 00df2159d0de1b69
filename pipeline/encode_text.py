"""Step three with an encoder-only text model: states of the description's tokens, and no trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cache_schema import Tape, TapeRow
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.errors import TapeError, UsageError
from cache_schema.layers import parse_layers
from cache_schema.maker import GroupInfo
from cache_schema.prepare import RowError
from cache_schema.rows.values import hidden_row
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import TEXT_SOURCE, IntArray
from cache_schema.writer import TapeWriter
from pipeline.cluster.work import job_of, parts
from pipeline.facts import NOTE_KEYS, hidden_facts
from pipeline.recipe import ExtractRecipe
from pipeline.replay.note import recipe_note
from pipeline.step import Failures, Pending, notes, open_for, pending, writer_for
from pipeline.teachers.hf_encoder import HfEncoder, describe_encoder


def run(recipe: ExtractRecipe) -> None:
    """Read this worker's descriptions with the encoder.

    Raises:
        ModelError: the model cannot be used.
        ProvenanceError: the tape has signals of another textual teacher.
        TapeError: there are no descriptions to read.
        UsageError: a setting is given that an encoder has no use for, or no layer is wanted.
        QuarantineError: too many descriptions failed.
    """
    tape = open_for(recipe)
    if "descriptions" not in tape.groups:
        raise TapeError(f"{recipe.tape.out}: no descriptions yet; run the textualize step first")
    about = describe_encoder(recipe.textual)
    layers = parse_layers(recipe.textual.layers, about["num_layers"])
    info = group_info(recipe, about, layers, tape.groups["descriptions"].fingerprint)

    def left_on(tape: Tape) -> Pending:
        return pending(tape, info, recipe).among(tape.recorded_mask("descriptions"))

    todo = left_on(tape)
    if not todo:
        say("textual: every described sample is recorded")
        return
    encoder = HfEncoder(recipe.textual)
    job = job_of(recipe, "textual", TEXT_SOURCE, left_on)
    size = recipe.textual.batch_samples
    with writer_for(recipe, info) as writer:
        for part in parts(job, tape, todo, writer):
            with Counter("textual", len(part.left)) as progress, part:
                for start in range(0, len(part.left), size):
                    batch = part.left[start : start + size]
                    record_batch(encoder, layers, batch, writer, part.failures)
                    progress.advance(len(batch))
    encoder.close()


def group_info(
    recipe: ExtractRecipe, about: Mapping[str, Any], layers: Sequence[int], descriptions: str
) -> GroupInfo:
    """Return who makes the states; ``descriptions`` is the fingerprint of the texts' maker."""
    if not layers:
        raise UsageError("--text-layers none leaves nothing to record with --engine encoder")
    return GroupInfo(
        group=TEXT_SOURCE,
        kind=TEXT_SOURCE,
        signals={"hidden": hidden_facts(recipe, layers, about["width"])},
        identity={
            **{key: value for key, value in about.items() if key not in NOTE_KEYS},
            "descriptions": descriptions,
        },
        notes=notes({key: about[key] for key in NOTE_KEYS} | recipe_note(recipe, "textual")),
    )


def record_batch(
    encoder: HfEncoder,
    layers: Sequence[int],
    rows: Sequence[TapeRow],
    writer: TapeWriter,
    failures: Failures,
) -> None:
    """Record a batch of descriptions; what cannot be read or is not finite counts as failed."""
    texts: list[tuple[TapeRow, IntArray]] = []
    for row in rows:
        ids = encoder.encode(row.description or "")
        if len(ids) == 0:
            failures.add(row.sample_id, row.row_index, "empty description", "no token to read")
        elif len(ids) > encoder.max_tokens:
            detail = f"{len(ids)} tokens, the model takes {encoder.max_tokens}; shorten it"
            failures.add(row.sample_id, row.row_index, "description too long", detail)
        else:
            texts.append((row, ids))
    for number, states in encoder.read([ids for _, ids in texts], layers):
        row, ids = texts[number]
        if states is None:
            detail = f"{len(ids)} tokens do not fit, read alone"
            failures.add(row.sample_id, row.row_index, "out of memory", detail)
            continue
        place = hidden_row(row.sample_id, AUDIO_ROW, "text", (0, 0), ids, None)
        try:
            writer.add({}, [(place, states)])
        except RowError as error:
            failures.add(row.sample_id, row.row_index, "signals", str(error))
        del states  # it holds its forward pass's memory, and the next pass begins
