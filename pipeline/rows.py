"""The dataset: a hub id, a directory or a file becomes rows; a row becomes a Sample."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cache_schema.codecs.pcm import audio_sha256
from cache_schema.errors import AudioError, DatasetError, nearest
from cache_schema.fingerprint import digest_files, fingerprint
from cache_schema.types import FloatArray, Sample
from pipeline.audio import load_audio
from pipeline.json_rows import read_json
from pipeline.recipe import DatasetRecipe
from pipeline.row_ids import first_repeat

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "audio_path", "audio_filepath", "path", "file", "wav", "audio_id"),
    "id": ("id", "sample_id", "uid", "utt_id"),
    "question": ("question", "instruction", "prompt"),
    "choices": ("choices", "options"),
    "answer": ("answer", "label_text", "output"),
}
"""Our column -> the dataset's names for it, the first one present is taken."""

REQUIRED = ("audio", "question")
FILE_FORMS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


_HALVES = re.compile("[\\ud800-\\udfff]")
"""Halves of characters, which JSON can escape and UTF-8 has not."""


class CellError(DatasetError):
    """A cell of one row cannot be used; other rows can."""


class FirstRows(Sequence[Mapping[str, Any]]):
    """The first ``count`` rows."""

    def __init__(self, rows: Any, count: int) -> None:
        self._rows, self._count = rows, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def cells(self, column: str) -> Iterator[Any]:
        """Yield one column's cells, leaving the others unread where the form allows it."""
        if hasattr(self._rows, "select_columns"):  # of `datasets`: recordings may lie beside
            blocks = self._rows.select_columns([column]).iter(batch_size=1000)
            yield from islice((cell for block in blocks for cell in block[column]), self._count)
        else:
            yield from (self[index].get(column) for index in range(self._count))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A dataset open for reading.

    Attributes:
        name: as the user gave it.
        rows: random access to rows as mappings.
        folder: where relative audio paths start.
        columns: our column -> the dataset's, only those present.
        question: asked of every sample when there is no question column.
        digest: identity of the content.
    """

    name: str
    rows: FirstRows
    folder: Path | None
    columns: Mapping[str, str]
    question: str
    digest: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def sample(self, row_index: int) -> Sample:
        """Read one row.

        Raises:
            AudioError: its recording cannot be used.
            CellError: a cell has the wrong type, or holds what no tape can.
            DatasetError: the dataset cannot be read any more.
        """
        row = self.rows[row_index]
        try:
            return self._sample(row, row_index)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise CellError(f"{type(error).__name__}: {error}") from error

    def audio(self, row_index: int) -> FloatArray:
        """Read the recording of one row, float32 [num_samples], mono, 16 kHz.

        Raises:
            AudioError: it cannot be used.
            DatasetError: the dataset cannot be read any more.
        """
        return self._audio(self.rows[row_index])

    def _audio(self, row: Mapping[str, Any]) -> FloatArray:
        value = row.get(self.columns["audio"])
        if value is None:
            raise AudioError(f"column {self.columns['audio']!r} is empty")
        return load_audio(value, self.folder)

    def _sample(self, row: Mapping[str, Any], row_index: int) -> Sample:
        cells = {ours: row.get(theirs) for ours, theirs in self.columns.items()}
        audio = self._audio(row)
        choices = cells.get("choices") or ()
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            column = self.columns["choices"]
            raise CellError(f"column {column!r}: choices must be a list, got {choices!r:.80}")
        question = str(cells.get("question") or self.question)
        answer = cells.get("answer")
        given = cells.get("id")
        used = set(self.columns.values())
        content = {"question": question, "choices": _plain(choices), "answer": _plain(answer)}
        texts = {"id": given, "question": question, "answer": answer}
        for ours, value in [*texts.items(), *(("choices", choice) for choice in choices)]:
            self._check_utf8(ours, str(value))
        identity = fingerprint({**content, "audio": audio_sha256(audio)})[:20]
        return Sample(
            sample_id=_id_text(given) or identity,
            row_index=row_index,
            audio=audio,
            question=question,
            choices=tuple(str(choice) for choice in choices),
            answer="" if answer is None else str(answer),
            metadata={k: _plain(v) for k, v in row.items() if k not in used and v is not None},
        )

    def _check_utf8(self, ours: str, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            column = self.columns.get(ours, ours)
            raise CellError(f"column {column!r} holds half a character ({error})") from error

    def given_id(self, row_index: int) -> str:
        """Return the row's own id; empty where ids come from the content, or it cannot be one."""
        return _usable(_id_text(self.rows[row_index].get(self.columns.get("id", ""))))


def _id_text(value: Any) -> str:
    return "" if value is None else str(value)


def _usable(given: str) -> str:
    """Return an id, or an empty text for one that is not UTF-8: its row fails by itself."""
    return given if given.isascii() or not _HALVES.search(given) else ""


def _plain(value: Any) -> Any:
    """Return a JSON value; bytes are named by their length, other objects by their text."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def open_rows(recipe: DatasetRecipe) -> Rows:
    """Open the dataset and settle its columns.

    Raises:
        DatasetError: not found, unreadable, empty, ambiguous split, or a column is missing.
    """
    path = Path(recipe.path)
    if path.suffix in (".jsonl", ".json") and path.is_file():
        if recipe.split:
            raise DatasetError(f"{path}: a file has no splits, so --split means nothing")
        rows: Any
        rows, names, digest = read_json(path)
        folder: Path | None = path.parent
    else:
        rows, names, digest = _read_datasets(recipe)
        folder = (path if path.is_dir() else path.parent) if path.exists() else None
    if len(rows) == 0:
        raise DatasetError(f"{recipe.path}: the dataset is empty; nothing was written")
    columns = _settle_columns(recipe, names)
    count = len(rows) if recipe.limit is None else min(recipe.limit, len(rows))
    opened = Rows(
        name=recipe.path,
        rows=FirstRows(rows, count),
        folder=folder,
        columns=columns,
        question=recipe.question,
        digest=digest,
    )
    _refuse_equal_ids(opened)
    return opened


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
    ids = (_usable(_id_text(cell)) for cell in rows.rows.cells(rows.columns["id"]))
    repeat = first_repeat(ids, rows.given_id)
    if repeat is not None:
        first, again = repeat
        raise DatasetError(
            f"{rows.name}: rows {first} and {again} have the same id {rows.given_id(again)!r}"
        )


def _read_datasets(recipe: DatasetRecipe) -> tuple[Any, list[str], str]:
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
        elif path.suffix in FILE_FORMS or recipe.path.startswith((".", "/", "~")):
            raise DatasetError(f"{recipe.path}: no such file or directory")
        else:
            loaded = datasets.load_dataset(recipe.path, recipe.config or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"{recipe.path}: {type(error).__name__}: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _choose_split(recipe, loaded)
    elif recipe.split:
        raise DatasetError(f"{recipe.path}: has no splits, so --split {recipe.split} means nothing")
    for name, feature in loaded.features.items():
        if isinstance(feature, datasets.Audio):
            loaded = loaded.cast_column(name, datasets.Audio(decode=False))
    # What `datasets` calls a fingerprint changes with a file's date; the bytes do not.
    digest = digest_files([path]) if path.is_file() else str(loaded._fingerprint)
    return loaded, list(loaded.column_names), digest


def _choose_split(recipe: DatasetRecipe, loaded: Any) -> Any:
    splits = list(loaded)
    if recipe.split:
        if recipe.split not in splits:
            raise DatasetError(
                f"{recipe.path}: no split {recipe.split!r}; it has {', '.join(splits)}"
            )
        return loaded[recipe.split]
    if len(splits) > 1:
        raise DatasetError(f"{recipe.path}: has splits {', '.join(splits)}; choose with --split")
    return loaded[splits[0]]
