"""Textualize: turn a sample's metadata columns into the description a textual teacher reads."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from cache_schema.errors import DatasetError, nearest

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
        template: text with ``{column}`` fields; empty for one ``Name: value`` line per known column.

    Returns:
        The description; empty when no known column holds anything.

    Raises:
        DatasetError: the template names a column the sample does not have.
    """
    if template:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        missing = [name for name in fields if name not in metadata]
        if missing:
            raise DatasetError(
                f"description template names column {missing[0]!r}, which the sample lacks"
                f"{nearest(missing[0], metadata)} (it has: {', '.join(sorted(metadata)) or 'none'})"
            )
        return template.format_map(metadata)
    lines = [
        f"{title}: {metadata[column]}"
        for column, title in KNOWN_COLUMNS.items()
        if metadata.get(column) not in (None, "")
    ]
    return "\n".join(lines)
