"""AIR-Bench Foundation (arXiv 2402.07729): 19 tasks of speech, sound and music, single choice.

Published (the keys are those that github.com/OFA-Sys/AIR-Bench reads at 983247666e2a):
``Foundation_meta.json``, a list of ``uniq_id, path, question, choice_a..d, answer_gt, task_name,
dataset_name``; a recording is ``<task_name>_<dataset_name>/<path>`` beside the file, of the task
Audio_Grounding with the suffix ``flac``. The file itself was not seen. Two rows of one ``uniq_id``
are refused by stage one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks.files import absolute, find_file, others, read_table, required, text
from train.evaluate.benchmarks.lettered import KEYS, lettered
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.letters import AIR_BENCH_OFFICIAL
from train.evaluate.types import Benchmark

NAMES = ("Foundation_meta.json", "Foundation/Foundation_meta.json")
_NEEDED = ("uniq_id", "path", "question", "choice_a", "choice_b", "answer_gt")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    file = find_file(path, NAMES, "AIR-Bench Foundation")
    for row in read_table(file):
        required(row, (*_NEEDED, "task_name", "dataset_name"), file, "AIR-Bench Foundation")
        choices, answer = lettered(row)
        task, data = text(row["task_name"]), text(row["dataset_name"])
        name = text(row["path"])
        if task == "Audio_Grounding":
            name = f"{name[:-3]}flac"
        yield {
            "id": text(row["uniq_id"]),
            "audio": absolute(f"{task}_{data}/{name}", file.parent),
            "question": text(row["question"]),
            "choices": choices,
            "answer": answer,
            "task": f"{task}_{data}",  # what the script prints an accuracy for
            **others(row, *_NEEDED, *KEYS.values()),
        }


AIR_BENCH = Benchmark(
    name="air_bench",
    ability="hearing",
    rows=rows,
    groups=("task", "task_name"),
    rules=(AIR_BENCH_OFFICIAL, STRICT),
    measures=(ACCURACY,),
)
