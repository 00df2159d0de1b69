"""MMAR (arXiv 2505.13032): deep reasoning over speech, sound, music and their mixes.

Published (github.com/ddlBoJack/MMAR at 3bce090a967d): ``MMAR-meta.jsonl``, 1,000 rows of ``id,
audio_path, question, choices, answer, modality, category, sub-category, language, source, url,
timestamp, thinking, cue, rubric``; ``audio_path`` is a path beside the file. The last three tell
the answer, so they are left out of the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks.files import absolute, find_file, others, read_table, required, text
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.token_sets import MMAR_OFFICIAL
from train.evaluate.types import Benchmark, Submission

NAMES = ("MMAR-meta.jsonl", "MMAR-meta.json")
_USED = ("id", "audio_path", "question", "choices", "answer")
_TELLS = ("thinking", "cue", "rubric")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    file = find_file(path, NAMES, "MMAR")
    for row in read_table(file):
        required(row, _USED, file, "MMAR")
        yield {
            "id": text(row["id"]),
            "audio": absolute(text(row["audio_path"]), file.parent),
            "question": text(row["question"]),
            "choices": [text(choice) for choice in row["choices"]],
            "answer": text(row["answer"]),
            **others(row, *_USED, *_TELLS),
        }


MMAR = Benchmark(
    name="mmar",
    ability="reasoning",
    rows=rows,
    groups=("modality", "category", "sub-category", "language"),
    rules=(MMAR_OFFICIAL, STRICT),
    measures=(ACCURACY,),
    submission=Submission(names=NAMES, keys=("answer_prediction",), suffix=".jsonl"),
)
