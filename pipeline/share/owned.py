"""The recordings someone has: of a data set, or of a folder of files of any names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache_schema.errors import UsageError
from cache_schema.types import FloatArray
from pipeline.audio.recordings import load_audio
from pipeline.dataset.rows import FOLDER_TABLES, open_rows
from pipeline.dataset.samples import Rows
from pipeline.recipe import DatasetRecipe

SUFFIXES = frozenset(
    f".{form}"
    for form in (
        "aif", "aifc", "aiff", "au", "caf", "flac", "m4a", "mp3", "mp4", "oga", "ogg", "opus",
        "sph", "w64", "wav", "wave", "webm",
    )
)  # fmt: skip
"""Files of a folder that are tried; others are left aside, and counted."""


@dataclass(frozen=True, kw_only=True)
class Owned:
    """Recordings that can be read by number.

    Attributes:
        location: as the user gave it.
        count: how many there are.
        name: number -> what one is called.
        read: number -> one, float32 [num_samples], mono, 16 kHz; raises ``AudioError``.
        by_row: whether their numbers are those of the rows of a data set.
        aside: files that were left aside: their names say that they are no recordings.
    """

    location: str
    count: int
    name: Callable[[int], str]
    read: Callable[[int], FloatArray]
    by_row: bool
    aside: int = 0


def open_owned(recipe: DatasetRecipe, made: Mapping[str, Any]) -> Owned:
    """Open a data set, or a folder of recordings.

    Args:
        recipe: where; a directory with recordings and without a table of them is a folder.
        made: the identity of the tape's samples: which rows of several recordings it joined, how.

    Raises:
        DatasetError: nothing is there.
        UsageError: a folder, and the tape's recordings are joined from several.
    """
    path = Path(recipe.path)
    joined = {key: made[key] for key in ("several", "gap_s") if key in made}
    is_table = any((path / name).is_file() for name in FOLDER_TABLES)
    folder = _files_of(path) if path.is_dir() and not is_table else None
    if folder is not None and folder.count:
        if joined:
            raise UsageError(
                f"{path}: the tape's recordings are joined from several; give the data set that "
                "says which"
            )
        return folder
    # No question is read, and the column of questions may be missing.
    asked = replace(recipe, **joined, question=recipe.question or "?", limit=None)
    return _rows_of(open_rows(asked))


def _rows_of(rows: Rows) -> Owned:
    def name(number: int) -> str:
        given = rows.given_id(number)
        return f"row {number}" + (f" ({given})" if given else "")

    return Owned(location=rows.name, count=len(rows), name=name, read=rows.audio, by_row=True)


def _files_of(folder: Path) -> Owned:
    files, aside = [], 0
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            if path.suffix.lower() in SUFFIXES:
                files.append(name)
            else:
                aside += 1
    files.sort()
    return Owned(
        location=str(folder),
        count=len(files),
        name=files.__getitem__,
        read=lambda number: load_audio(files[number], folder, whole=False),
        by_row=False,
        aside=aside,
    )
