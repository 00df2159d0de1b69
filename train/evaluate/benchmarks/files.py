"""Reading the published files: tables in four forms, found in a folder, with absolute paths."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Forms that ``read_table`` reads."""

RECORDINGS = (".wav", ".flac", ".mp3", ".ogg")
"""Recordings that stage one decodes."""


def find_file(path: Path, names: Sequence[str], what: str) -> Path:
    """Return the file itself, or the one of these names in the folder.

    Args:
        path: a file, or a folder to look in.
        names: file names, perhaps below the folder (``question/mmsu.jsonl``).
        what: the benchmark, for the message.

    Raises:
        DatasetError: nothing is there, none of the names is, or several are.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DatasetError(f"{path}: no such file or folder; give {what}'s {' or '.join(names)}")
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) == 1:
        return found[0]
    there = " and ".join(str(file) for file in found)
    raise DatasetError(
        f"{path}: holds {there}; name the one to be used"
        if found
        else f"{path}: {what} is read from {' or '.join(names)}, and none is there"
    )


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file: ``.jsonl``, ``.json`` (a list), ``.csv`` or ``.parquet``.

    Raises:
        DatasetError: the file is missing, of another form, or a row is not an object.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file. If it is data of a hub, make a tape of it (pipeline ingest "
            f"--dataset {path} --out TAPE) and give that as --data"
        )
    readers = {".jsonl": _lines, ".json": _list, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: expected a file of {', '.join(SUFFIXES)}")
    try:
        for number, row in enumerate(reader(path)):
            if not isinstance(row, dict):
                raise DatasetError(f"{path}, row {number}: expected an object, got {row!r:.80}")
            yield row
    except (ValueError, csv.Error) as error:  # no UTF-8, no table, no Parquet
        raise DatasetError(f"{path}: cannot be read ({error})") from error


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if line.strip():
                yield _parsed(line, f"{path}, row {number}")


def _list(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip()[:1] == "{":  # lines, whatever the name says: MMSU's, older MMAR's
        yield from _lines(path)
        return
    rows = _parsed(text, str(path))
    if not isinstance(rows, list):
        raise DatasetError(f"{path}: expected a list of rows, got {type(rows).__name__}")
    yield from rows


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{where}: not JSON ({error})") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def required(row: Row, keys: Sequence[str], path: Path, what: str) -> None:
    """Check that a row is of the published form.

    Raises:
        DatasetError: a key is missing; names it and the keys that are there.
    """
    missing = [key for key in keys if key not in row]
    if missing:
        raise DatasetError(
            f"{path}: a row of {what} has {', '.join(keys)}; here {', '.join(missing)} is missing "
            f"(keys: {', '.join(sorted(row))})"
        )


def absolute(name: str, *folders: Path) -> str:
    """Return a recording's absolute path: in the first folder that has it, else in the first."""
    places = [(folder / name).absolute() for folder in folders]
    return str(next((place for place in places if place.is_file()), places[0]))


def others(row: Row, *used: str) -> dict[str, Any]:
    """Return the keys of a row that are neither used nor empty: they become metadata."""
    return {key: value for key, value in row.items() if key not in used and value is not None}


def text(value: Any) -> str:
    """Return a cell as text, empty where there is none."""
    return "" if value is None else str(value)
