"""Rows of whatever `datasets` can load: a hub id, a directory, CSV, Parquet or Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from cache_schema.fingerprint import digest_files
from pipeline.recipe import DatasetRecipe

FILE_FORMS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


def read_datasets(recipe: DatasetRecipe) -> tuple[Any, list[str], str, str]:
    """Open a dataset; its recordings are left encoded.

    Returns:
        The rows, the names of their columns, a digest of the content, and the split that was read,
        empty where there are none.

    Raises:
        DatasetError: not found, unreadable, or which split is meant cannot be told.
    """
    import datasets

    path = Path(recipe.path)
    builder = {".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}.get(path.suffix)
    try:
        if path.is_dir() and any((path / n).is_file() for n in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(path))
        elif path.is_file():
            if builder is None:
                raise DatasetError(
                    f"{path}: expected .jsonl, .json, .csv, .parquet, .arrow, a directory or "
                    "a hub id"
                )
            loaded = datasets.load_dataset(builder, data_files=str(path))
        elif not path.is_dir() and _is_path(recipe.path):
            raise DatasetError(f"{recipe.path}: no such file or directory")
        else:
            loaded = datasets.load_dataset(recipe.path, recipe.config or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = error.__cause__ or error  # "an error occurred while generating" tells nothing
        raise DatasetError(f"{recipe.path}: {type(why).__name__}: {why}") from error
    split = ""
    if isinstance(loaded, datasets.DatasetDict):
        split = _choose_split(recipe, list(loaded))
        loaded = loaded[split]
    elif recipe.split:
        raise DatasetError(f"{recipe.path}: has no splits, so --split {recipe.split} means nothing")
    for name, feature in loaded.features.items():
        encoded = _encoded(feature)
        if encoded is not None:
            loaded = loaded.cast_column(name, encoded)
    # What `datasets` calls a fingerprint changes with a file's date; the bytes do not.
    digest = digest_files([path]) if path.is_file() else str(loaded._fingerprint)
    return loaded, list(loaded.column_names), digest, split


def _is_path(given: str) -> bool:
    """Whether a name is that of a file or directory, and no hub id."""
    return Path(given).suffix in FILE_FORMS or given.startswith((".", "/", "~"))


def _encoded(feature: Any) -> Any:
    """Return a column's type with its recordings left encoded; ``None`` if it holds none.

    Recordings may be within lists and structures: `datasets` would decode those as well.
    """
    import datasets

    if isinstance(feature, datasets.Audio):
        return datasets.Audio(decode=False)
    if isinstance(feature, datasets.List):
        inner = _encoded(feature.feature)
        return None if inner is None else datasets.List(inner, length=feature.length)
    if isinstance(feature, datasets.LargeList):
        inner = _encoded(feature.feature)
        return None if inner is None else datasets.LargeList(inner)
    if isinstance(feature, dict):
        inner = {name: _encoded(field) for name, field in feature.items()}
        if any(field is not None for field in inner.values()):
            return {name: inner[name] or field for name, field in feature.items()}
    return None


def _choose_split(recipe: DatasetRecipe, splits: list[str]) -> str:
    if recipe.split:
        if recipe.split not in splits:
            raise DatasetError(
                f"{recipe.path}: no split {recipe.split!r}; it has {', '.join(splits)}"
            )
        return recipe.split
    if len(splits) > 1:
        raise DatasetError(f"{recipe.path}: has splits {', '.join(splits)}; choose with --split")
    return splits[0]
