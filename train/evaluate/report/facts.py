"""What was evaluated, as rows of a table: any JSON, flattened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from train.evaluate.report.page import Table
from train.evaluate.report.words import clipped

VALUE_LETTERS = 600


def facts_table(about: Mapping[str, Any], caption: str, folded: bool = False) -> Table:
    """Return what ``evaluation.json`` says, a row a value: ``decoding.temperature``."""
    rows = [(name, clipped(value, VALUE_LETTERS)) for name, value in _flat(about, "")]
    return Table(caption=caption, head=("", "value"), rows=rows, words=(0, 1), folded=folded)


def _flat(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{where}[{number}]")
    elif isinstance(value, list):
        yield where, ", ".join(map(str, value)) or "none"
    elif isinstance(value, Mapping) or value in (None, ""):
        yield where, "none"
    elif isinstance(value, bool):
        yield where, "yes" if value else "no"
    else:
        yield where, str(value)
