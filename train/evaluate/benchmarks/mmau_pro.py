"""MMAU-Pro (arXiv 2508.13992): long, several, spatial recordings; the parts scored without a model.

Published (huggingface.co/datasets/gamma-lab-umd/MMAU-Pro; the keys are those that
github.com/sonalkum/MMAUPro reads at 960e93a415e2, and that public loaders list): ``test.parquet``
with ``id, audio_path`` (a list), ``question, answer, choices, category, sub-cat, length_type,
transcription, task_identifier, kwargs``. The file itself was not seen. Of 5,305 questions some 215
are open and are judged by a model: they are asked, answered and not counted. Rows with several
recordings keep the list, which ``train evaluate`` has stage one join (``dataset.several=join``),
half a second of silence between them; the publication leaves to each model how it takes several.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.benchmarks.files import absolute, find_file, others, read_table, required, text
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.instructions import constraint_text
from train.evaluate.rules.mmau_pro import INSTRUCTIONS, OFFICIAL, STRICT
from train.evaluate.types import Benchmark

NAMES = ("test.parquet",)
_USED = ("id", "audio_path", "question", "choices", "answer", "kwargs")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions; the answer of an instruction is its constraint, as JSON.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    file = find_file(path, NAMES, "MMAU-Pro")
    for row in read_table(file):
        required(row, ("id", "audio_path", "question", "answer", "category"), file, "MMAU-Pro")
        choices = row.get("choices")
        yield {
            "id": text(row["id"]),
            "audio": _recordings(row["audio_path"], file.parent),
            "question": text(row["question"]),
            "choices": [text(choice) for choice in choices] if choices is not None else [],
            "answer": _answer(row, file),
            **others(row, *_USED),
        }


def _recordings(names: Any, folder: Path) -> str | list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    paths = [absolute(text(name), folder) for name in listed]
    return paths[0] if len(paths) == 1 else paths


def _answer(row: Mapping[str, Any], file: Path) -> str:
    if row["category"] != INSTRUCTIONS:
        return text(row["answer"])
    settings = row.get("kwargs") or {}
    if isinstance(settings, str):
        settings = _parsed(settings, f"{file}, row {row['id']}")
    return constraint_text(text(row.get("task_identifier")), settings, text(row["question"]))


def _parsed(settings: str, where: str) -> dict[str, Any]:
    """Return what ``kwargs`` says in JSON or as Python writes a dictionary."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(settings)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, dict):
            return found
    raise DatasetError(f"{where}: kwargs must be an object, got {settings!r:.80}")


MMAU_PRO = Benchmark(
    name="mmau_pro",
    ability="reasoning",
    rows=rows,
    groups=("category", "length_type"),
    rules=(OFFICIAL, STRICT),
    measures=(ACCURACY,),
)
