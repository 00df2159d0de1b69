"""Textualize: turn a sample's metadata columns into the description a textual teacher reads."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from cache_schema.console import say
from cache_schema.errors import DatasetError, nearest
from cache_schema.maker import (
    GroupInfo,
)
from cache_schema.prepare import RowError
from pipeline.progress import Counter
from pipeline.recipe import ExtractRecipe
from pipeline.step import failures_of, notes, open_for, pending, writer_for

KNOWN_COLUMNS: dict[str, str] = {
    "caption": "Caption",
    "transcript": "Transcript",
    "speaker": "Speaker",
    "gender": "Gender",
    "emotion": "Emotion",
    "language": "Language",
}
"""Columns used when no template is given, in this order, and how each line begins."""


def describe(metadata: Mapping[str, Any], template: str = "") -> str:
    """Return the description of one sample.

    Args:
        metadata: the sample's columns.
        template: text with ``{column}`` fields; if empty, one ``Name: value`` line a known column.

    Returns:
        The description; empty when no known column holds anything.

    Raises:
        DatasetError: the template names a column the sample does not have.
    """
    if template:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        except ValueError as error:
            raise DatasetError(f"description template {template!r}: {error}") from error
        missing = [name for name in fields if name not in metadata]
        if missing:
            raise DatasetError(
                f"description template names column {missing[0]!r}, which the sample lacks"
                f"{nearest(missing[0], metadata)} (it has: {', '.join(sorted(metadata)) or 'none'})"
            )
        try:
            return template.format_map(metadata)
        except (ValueError, TypeError) as error:
            raise DatasetError(f"description template {template!r}: {error}") from error
    lines = [
        f"{title}: {metadata[column]}"
        for column, title in KNOWN_COLUMNS.items()
        if metadata.get(column) not in (None, "")
    ]
    return "\n".join(lines)


def run(recipe: ExtractRecipe) -> None:
    """Describe this worker's samples.

    Raises:
        QuarantineError: too many samples lack a column the template names, or have nothing to
            describe them by.
    """
    tape = open_for(recipe)
    info = GroupInfo(
        group="descriptions",
        kind="descriptions",
        identity={
            "method": "columns",
            "template": recipe.textualize.template,
            "columns": [] if recipe.textualize.template else list(KNOWN_COLUMNS),
        },
        notes=notes({}),
    )
    todo = pending(tape, info, recipe)
    if not todo:
        say(f"textualize: all {len(tape)} samples are described")
        return
    failures = failures_of("textualize", "descriptions", tape, recipe)
    with writer_for(recipe, info) as writer, Counter("textualize", len(todo)) as progress:
        for row in todo:
            progress.advance()
            try:
                description = describe(row.metadata, recipe.textualize.template)
            except DatasetError as error:
                failures.add(row.sample_id, row.row_index, "description", str(error))
                continue
            if not description:
                has = ", ".join(sorted(row.metadata)) or "no other columns"
                hint = "give --set textualize.template='...{column}...'"
                failures.add(row.sample_id, row.row_index, "empty description", f"{has}; {hint}")
                continue
            described = {"sample_id": row.sample_id, "description": description}
            try:
                writer.add({"descriptions": [described]})
            except RowError as error:
                failures.add(row.sample_id, row.row_index, "description", str(error))
        writer.seal()
        failures.settle(writer)
