"""Files in the form in which benchmarks are published, and what is made of their rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cache_schema.types import Sample
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.types import Response


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(name: str, path: Path) -> list[dict[str, Any]]:
    return list(BENCHMARKS[name].rows(path))


def sample(row: dict[str, Any]) -> Sample:
    """What stage one makes of a row, without its recording."""
    ours = ("id", "audio", "question", "choices", "answer")
    return Sample(
        sample_id=row["id"],
        row_index=0,
        audio=None,
        question=row["question"],
        choices=tuple(row["choices"]),
        answer=row["answer"],
        metadata={key: value for key, value in row.items() if key not in ours},
    )


def judged(name: str, row: dict[str, Any], text: str) -> list[float | None]:
    """What both rules say of a text as the whole answer; ``None`` is not counted."""
    benchmark = BENCHMARKS[name]
    item = item_of(sample(row), benchmark)
    response = Response(
        sample_id=item.sample_id, text=text, answer=text, num_tokens=1, finish="stop"
    )
    verdicts = [rule.judge(item, response) for rule in benchmark.rules]
    return [verdict.value if verdict.counted else None for verdict in verdicts]
