"""MMAU (arXiv 2410.19168): general audio, speech and music, multiple choice.

Published (github.com/Sakshi113/MMAU at 110127f54c0d): ``mmau-test-mini.json`` (1,000 questions) and
``mmau-test.json`` (9,000, answers withheld): lists of ``id, audio_id, question, choices, answer,
dataset, task, split, category, sub-category, difficulty``; ``audio_id`` is a path beside the file.
The keys were read in test-mini; the test file could not be read (a large object the copy lacks), so
a missing ``answer`` is taken as withheld. Its responses can be made and its scores are not counted:
``submission.json`` goes to the authors' scorer. Their README names the key ``model_prediction``,
their script reads ``model_output``: the file has both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks.files import absolute, find_file, others, read_table, required, text
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.token_sets import MMAU_OFFICIAL
from train.evaluate.types import Benchmark, Submission

NAMES = ("mmau-test-mini.json", "mmau-test.json")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions of a split.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    file = find_file(path, NAMES, "MMAU")
    for row in read_table(file):
        required(row, ("id", "audio_id", "question", "choices"), file, "MMAU")
        yield {
            "id": text(row["id"]),
            "audio": absolute(text(row["audio_id"]), file.parent),
            "question": text(row["question"]),
            "choices": [text(choice) for choice in row["choices"]],
            "answer": text(row.get("answer")),
            **others(row, "id", "audio_id", "question", "choices", "answer"),
        }


MMAU = Benchmark(
    name="mmau",
    ability="reasoning",
    rows=rows,
    groups=("task", "difficulty", "category", "sub-category"),
    rules=(MMAU_OFFICIAL, STRICT),
    measures=(ACCURACY,),
    submission=Submission(names=NAMES, keys=("model_output", "model_prediction"), suffix=".json"),
)
