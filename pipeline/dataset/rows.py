"""The dataset: a hub id, a directory or a file is opened and its columns are settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError, UsageError, nearest
from pipeline.dataset.hub_rows import read_datasets
from pipeline.dataset.json_rows import read_json
from pipeline.dataset.row_ids import first_repeat
from pipeline.dataset.samples import FirstRows, Rows, id_text, usable_id
from pipeline.describe.timed import SPANS_COLUMN
from pipeline.recipe import DatasetRecipe

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio",
        "audio_path",
        "audio_filepath",
        "path",
        "file",
        "wav",
        "audio_id",
        "file_name",
    ),
    "id": ("id", "sample_id", "uid", "utt_id"),
    "question": ("question", "instruction", "prompt"),
    "choices": ("choices", "options"),
    "answer": ("answer", "label_text", "output"),
}
"""Our column -> the dataset's names for it, the first one present is taken."""

REQUIRED = ("audio", "question")
FOLDER_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def open_rows(recipe: DatasetRecipe) -> Rows:
    """Open the dataset and settle its columns.

    Raises:
        DatasetError: not found, unreadable, empty, ambiguous split, or a column is missing or
            in the way.
        UsageError: none is named.
    """
    if not recipe.path:
        raise UsageError("--dataset is needed; see 'pipeline extract-teachers --help'")
    recipe = _of_folder(recipe)
    path = Path(recipe.path)
    if path.suffix in (".jsonl", ".json") and path.is_file():
        if recipe.split:
            raise DatasetError(f"{path}: a file has no splits, so --split means nothing")
        rows: Any
        rows, names, digest = read_json(path)
        split = ""
        folder: Path | None = path.parent
    else:
        rows, names, digest, split = read_datasets(recipe)
        folder = (path if path.is_dir() else path.parent) if path.exists() else None
    if len(rows) == 0:
        raise DatasetError(f"{recipe.path}: the dataset is empty; nothing was written")
    columns = _settle_columns(recipe, names)
    if recipe.several == "join" and SPANS_COLUMN in names:
        raise DatasetError(
            f"{recipe.path}: has a column {SPANS_COLUMN!r}, and dataset.several=join puts the "
            "seconds of joined recordings there; rename the column"
        )
    count = len(rows) if recipe.limit is None else min(recipe.limit, len(rows))
    opened = Rows(
        name=recipe.path,
        rows=FirstRows(rows, count),
        folder=folder,
        columns=columns,
        question=recipe.question,
        digest=digest,
        split=split,
        several=recipe.several,
        gap_s=recipe.gap_s,
    )
    _refuse_equal_ids(opened)
    return opened


def _of_folder(recipe: DatasetRecipe) -> DatasetRecipe:
    """Name the table in a folder of recordings with one (``file_name`` and other columns).

    `datasets` has a loader for such folders, which needs a decoder of its own to list them.
    """
    for name in FOLDER_TABLES:
        if (Path(recipe.path) / name).is_file():
            return replace(recipe, path=str(Path(recipe.path) / name))
    return recipe


def _settle_columns(recipe: DatasetRecipe, names: Sequence[str]) -> dict[str, str]:
    unknown = [ours for ours in recipe.columns if ours not in COLUMN_NAMES]
    if unknown:
        raise DatasetError(
            f"dataset.columns names {unknown[0]!r}; known: {', '.join(COLUMN_NAMES)}"
        )
    columns = {
        ours: next(name for name in known if name in names)
        for ours, known in COLUMN_NAMES.items()
        if any(name in names for name in known)
    }
    columns |= recipe.columns
    for ours, theirs in columns.items():
        if theirs not in names:
            raise DatasetError(
                f"{recipe.path}: no column {theirs!r} for {ours}{nearest(theirs, names)} "
                f"(columns: {', '.join(names)})"
            )
    for ours in REQUIRED:
        if ours not in columns and not (ours == "question" and recipe.question):
            fixed = ", or one question for all with --set dataset.question='...'"
            raise DatasetError(
                f"{recipe.path}: no {ours} column (columns: {', '.join(names)}). "
                f"Name it with --set dataset.columns.{ours}=COLUMN"
                f"{fixed if ours == 'question' else ''}"
            )
    return columns


def _refuse_equal_ids(rows: Rows) -> None:
    if "id" not in rows.columns:
        return
    ids = (usable_id(id_text(cell)) for cell in rows.rows.cells(rows.columns["id"]))
    repeat = first_repeat(ids, rows.given_id)
    if repeat is not None:
        first, again = repeat
        raise DatasetError(
            f"{rows.name}: rows {first} and {again} have the same id {rows.given_id(again)!r}"
        )
