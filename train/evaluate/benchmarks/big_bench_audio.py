"""Big Bench Audio: 1,000 spoken questions of Big Bench Hard, four categories of 250.

Published (huggingface.co/datasets/ArtificialAnalysis/big_bench_audio; the form is given in
github.com/huggingface/blog, big-bench-audio-release.md at 110f24815a21): ``metadata.jsonl`` with
``category, official_answer, file_name, id``, recordings beside it. The file itself was not seen.
The question is in the recording, so what is asked in text is only to answer it; choices are not
given, as they are not in the published protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks.files import absolute, find_file, others, read_table, required, text
from train.evaluate.measures import ACCURACY
from train.evaluate.rules.big_bench import OFFICIAL, STRICT
from train.evaluate.types import Benchmark

QUESTION = "Answer the question that is asked in the recording."
_USED = ("id", "file_name", "official_answer")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    file = find_file(path, ("metadata.jsonl",), "Big Bench Audio")
    for row in read_table(file):
        required(row, (*_USED, "category"), file, "Big Bench Audio")
        yield {
            "id": text(row["id"]),
            "audio": absolute(text(row["file_name"]), file.parent),
            "question": QUESTION,
            "choices": [],
            "answer": text(row["official_answer"]),
            **others(row, *_USED),
        }


BIG_BENCH_AUDIO = Benchmark(
    name="big_bench_audio",
    ability="reasoning",
    rows=rows,
    groups=("category",),
    rules=(OFFICIAL, STRICT),
    measures=(ACCURACY,),
)
