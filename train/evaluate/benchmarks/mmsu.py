"""MMSU (arXiv 2506.04779): spoken language, 47 tasks of perception and reasoning.

Published (huggingface.co/datasets/ddwang2000/MMSU, ``question/mmsu.jsonl``; the keys are those that
github.com/dingdongwang/MMSU reads at 217d1d3f5ad5): ``id, task_name, audio_path, question,
choice_a..d, answer_gt, category, sub-category, sub-sub-category, linguistics_sub_discipline``. The
file itself was not seen: ``audio_path`` is looked up beside it and in the folder above.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks.files import absolute, find_file, others, read_table, required, text
from train.evaluate.benchmarks.lettered import KEYS, lettered
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.letters import MMSU_OFFICIAL
from train.evaluate.types import Benchmark

NAMES = ("question/mmsu.jsonl", "mmsu.jsonl", "mmsu.json")
_NEEDED = ("id", "audio_path", "question", "choice_a", "choice_b", "answer_gt")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    file = find_file(path, NAMES, "MMSU")
    for row in read_table(file):
        required(row, _NEEDED, file, "MMSU")
        choices, answer = lettered(row)
        name = text(row["audio_path"]).lstrip("/")
        yield {
            "id": text(row["id"]),
            "audio": absolute(name, file.parent, file.parent.parent),
            "question": text(row["question"]),
            "choices": choices,
            "answer": answer,
            **others(row, *_NEEDED, *KEYS.values()),
        }


MMSU = Benchmark(
    name="mmsu",
    ability="reasoning",
    rows=rows,
    groups=("category", "sub-category", "sub-sub-category", "task_name"),
    rules=(MMSU_OFFICIAL, STRICT),
    measures=(ACCURACY,),
)
