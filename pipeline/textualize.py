"""Step two, textualize: a sample's columns, and what models hear in it, become its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cache_schema import Tape, TapeRow, layout
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.errors import DatasetError
from cache_schema.maker import (
    GroupInfo,
    refuse_other_maker,
)
from cache_schema.prepare import RowError
from cache_schema.signals import HEARD
from cache_schema.types import Heard
from cache_schema.writer import TapeWriter
from pipeline.cluster.work import Part, job_of, parts
from pipeline.describe.template import as_text, columns_of, fill, silent_fields
from pipeline.describe.timed import silent_entries
from pipeline.recipe import ExtractRecipe
from pipeline.step import Pending, notes, open_for, pending, writer_for
from pipeline.textualize_recipe import TextualizeRecipe

if TYPE_CHECKING:
    from pipeline.listen.plan import Listening

KNOWN_COLUMNS: dict[str, str] = {
    "caption": "Caption",
    "transcript": "Transcript",
    "segments": "Segments",
    "turns": "Turns",
    "utterances": "Utterances",
    "events": "Events",
    "speaker": "Speaker",
    "gender": "Gender",
    "emotion": "Emotion",
    "language": "Language",
}
"""Columns used when no template is given, in this order, and how each line begins."""

_UNDESCRIBED = (DatasetError, ValueError, OverflowError, RecursionError)
"""Errors of one sample's values; the next sample has others."""


def describe(
    metadata: Mapping[str, Any], template: str = "", heard: Mapping[str, Heard] | None = None
) -> str:
    """Return the description of one sample.

    Args:
        metadata: the sample's columns.
        template: text with ``{column}`` fields; if empty, one ``Name: value`` line a known column
            and a heard one, lines of their own for timed metadata.
        heard: further columns, filled by listening.

    Returns:
        The description; empty when no known or heard column holds anything.

    Raises:
        DatasetError: the template names a column the sample does not have, a column is both the
            dataset's and heard, or timed metadata is malformed.
    """
    heard = heard or {}
    taken = sorted(heard.keys() & metadata.keys())
    if taken:
        raise DatasetError(f"column {taken[0]!r} is the dataset's, and heard too")
    columns = {**metadata, **heard}
    if template:
        return fill(template, columns)
    others = {column: _title(column) for column in sorted(heard) if column not in KNOWN_COLUMNS}
    lines = []
    for column, title in {**KNOWN_COLUMNS, **others}.items():
        text = as_text(columns.get(column), column)
        if text:
            lines.append(f"{title}:\n{text}" if "\n" in text else f"{title}: {text}")
    return "\n".join(lines)


def silent(metadata: Mapping[str, Any], template: str, heard: Mapping[str, Heard]) -> int:
    """Return how many entries of lists of entries get no line in a description: they say nothing.

    Raises:
        DatasetError: as ``describe``.
    """
    if template:
        return silent_fields(template, {**metadata, **heard})
    return sum(silent_entries(metadata.get(column), column) for column in KNOWN_COLUMNS)


def _title(column: str) -> str:
    name = column.replace("_", " ").strip()
    return name[:1].upper() + name[1:]


def run(recipe: ExtractRecipe) -> None:
    """Listen to this worker's samples, if models are named for it, and describe them.

    Raises:
        DatasetError: a column to be filled by listening is one of the dataset's.
        ModelError: a listener cannot be used.
        ProvenanceError: the tape has heard columns or descriptions made otherwise.
        QuarantineError: too many samples could not be heard, lack a column the template names, or
            have nothing to describe them by.
    """
    tape = open_for(recipe)
    listenings = _plan(recipe.textualize)
    used = [one for one in listenings if _is_used(recipe.textualize, one.column)]
    info = group_info(recipe.textualize, used)
    for offered in [*(one.info for one in listenings), info]:  # before hours of listening
        if offered.group in tape.groups:
            refuse_other_maker(tape.groups[offered.group], offered)
    _say_unused(recipe.textualize, tape)
    if listenings:
        from pipeline.listen.record import listen_all

        listen_all(recipe, listenings)
    _describe_all(recipe, info, [one.column for one in used])


def _plan(textualize: TextualizeRecipe) -> list[Listening]:
    """Settle the listeners; without any, no model framework is imported."""
    if not textualize.listen:
        return []
    from pipeline.listen.plan import plan

    return [plan(column, listener) for column, listener in textualize.listen.items()]


def _is_used(textualize: TextualizeRecipe, column: str) -> bool:
    return not textualize.template or column in columns_of(textualize.template)


def _say_unused(textualize: TextualizeRecipe, tape: Tape) -> None:
    for column in textualize.listen:
        if not _is_used(textualize, column):
            say(f"textualize: {column} is recorded, and the template does not name it")
    for name, group in tape.groups.items():
        column = layout.heard_column(name)
        if group.kind == HEARD and column not in textualize.listen:
            say(f"textualize: {column} was heard earlier; without textualize.listen.{column} it is "
                "left out")  # fmt: skip


def group_info(textualize: TextualizeRecipe, used: list[Listening]) -> GroupInfo:
    """Return who makes the descriptions; the listeners they are made from are told by hash."""
    heard = {one.column: one.info.fingerprint for one in used}
    return GroupInfo(
        group="descriptions",
        kind="descriptions",
        identity={
            "method": "columns.v2",
            "template": textualize.template,
            "columns": [] if textualize.template else list(KNOWN_COLUMNS),
            **({"heard": heard} if heard else {}),
        },
        notes=notes({}),
    )


def _describe_all(recipe: ExtractRecipe, info: GroupInfo, used: list[str]) -> None:
    tape = open_for(recipe)
    todo = pending(tape, info, recipe)
    if not todo:
        say(f"textualize: all {len(tape)} samples are described")
        return
    job = job_of(recipe, "textualize", info.group, lambda now: pending(now, info, recipe))
    lineless = 0
    with writer_for(recipe, info) as writer:
        for part in parts(job, tape, todo, writer):
            with Counter("textualize", len(part.left)) as progress, part:
                template = recipe.textualize.template
                lineless += _describe_part(template, used, part, writer, progress)
    if lineless:
        say(f"textualize: entries of timed metadata that say nothing, so have no line: {lineless}")


def _describe_part(
    template: str, used: list[str], part: Part[Pending], writer: TapeWriter, progress: Counter
) -> int:
    """Describe samples; return how many entries of timed metadata have no line."""
    unheard = _unheard(part.left.tape, used)
    failures = part.failures
    lineless = 0
    for row in part.left:
        progress.advance()
        if row.sample_id in unheard:
            failures.add(row.sample_id, row.row_index, "not heard", unheard[row.sample_id])
            continue
        try:
            metadata, heard = row.metadata, _heard(row, used)
            description = describe(metadata, template, heard)
            lineless += silent(metadata, template, heard)
        except _UNDESCRIBED as error:
            failures.add(row.sample_id, row.row_index, "description", str(error))
            continue
        if not description.strip():
            failures.add(row.sample_id, row.row_index, "empty description", _hint(row, used))
            continue
        described = {"sample_id": row.sample_id, "description": description}
        try:
            writer.add({"descriptions": [described]})
        except RowError as error:
            failures.add(row.sample_id, row.row_index, "description", str(error))
    return lineless


def _heard(row: TapeRow, used: list[str]) -> dict[str, Heard]:
    if not used:
        return {}
    found = row.heard
    return {column: found[column] for column in used}


def _unheard(tape: Tape, used: list[str]) -> dict[str, str]:
    """Return the samples that a listener failed on, with its reasons."""
    groups = {layout.heard_group(column): column for column in used}
    return {
        item.sample_id: f"{groups[item.group]}: {item.reason}: {item.detail}"
        for item in tape.catalog.each_quarantined()
        if item.group in groups
    }


def _hint(row: TapeRow, used: list[str]) -> str:
    """Return why there is nothing to describe a sample by, and what to do."""
    has = ", ".join(sorted(row.metadata)) or "no other columns"
    nothing = f"; nothing was heard ({', '.join(used)})" if used else ""
    return f"{has}{nothing}; give --set textualize.template='...{{column}}...'"
