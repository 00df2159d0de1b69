"""A benchmark's rows as a dataset for stage one: a JSONL, recordings held in a table as files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cache_schema.codecs.files import write_atomic
from cache_schema.commands.console import say


def write_rows(rows: Iterable[dict[str, Any]], rows_file: Path) -> None:
    """Write rows, a line each.

    A recording that is bytes (``{"bytes": ..., "path": ...}``, as hubs keep them in Parquet) is
    written to a file in ``recordings/`` beside the rows. Other bytes are left out, which is said,
    and what JSON has no form for (times, decimals) becomes text.

    Args:
        rows: with the recording in ``audio``.
        rows_file: the file.

    Raises:
        DatasetError: as the rows' reader says.
    """
    left_out: dict[str, int] = {}
    lines = []
    for number, row in enumerate(rows):
        kept = {**row, "audio": _recording(row.get("audio"), rows_file, number)}
        for key in [key for key, value in kept.items() if _holds_bytes(value)]:
            left_out[key] = left_out.get(key, 0) + 1
            del kept[key]
        lines.append(f"{json.dumps(kept, default=str)}\n".encode())
    for key, count in left_out.items():
        say(f"the column {key} holds bytes, which are left out of {count} rows")
    write_atomic(rows_file, b"".join(lines))


def drop_recordings(rows_file: Path) -> None:
    """Remove the files of recordings; the tape has them."""
    shutil.rmtree(_folder(rows_file), ignore_errors=True)


def _folder(rows_file: Path) -> Path:
    return rows_file.with_name("recordings")


def _recording(audio: Any, rows_file: Path, number: int) -> Any:
    content = audio.get("bytes") if isinstance(audio, dict) else audio
    if not isinstance(content, bytes):
        return audio
    path = _folder(rows_file).absolute() / str(number)
    write_atomic(path, content)
    return str(path)


def _holds_bytes(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value
    parts = inside if isinstance(value, dict | list) else [value]
    return any(isinstance(part, bytes) for part in parts)
