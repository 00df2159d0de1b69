"""A user's own questions, in the form datasets have for stage one.

``pipeline ingest`` reads such a file by itself, and knows more of it (names of columns, recordings
as bytes, hub ids): give it the file. The rows here are the same rows, untouched but for relative
paths of recordings, which become absolute; they serve where files must be looked at beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks.files import absolute, read_table
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.own import OFFICIAL
from train.evaluate.types import Benchmark

RECORDING_KEYS = ("audio", "audio_path", "audio_filepath", "path", "file", "wav", "file_name")
"""Keys that may hold a recording's path, as stage one looks for them."""


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file.

    Raises:
        DatasetError: the file is missing or unreadable.
    """
    for row in read_table(path):
        key = next((name for name in RECORDING_KEYS if name in row), None)
        if key is not None and isinstance(row[key], str):
            row[key] = absolute(row[key], path.parent)
        elif key is not None and isinstance(row[key], dict) and not row[key].get("bytes"):
            place = row[key].get("path")
            row[key] = absolute(place, path.parent) if isinstance(place, str) else row[key]
        yield row


OWN = Benchmark(
    name="own",
    ability="reasoning",
    rows=rows,
    groups=("task", "category", "language"),
    rules=(OFFICIAL, STRICT),
    measures=(ACCURACY,),
)
