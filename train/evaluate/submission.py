"""The published file with what the model said to each question: what leaderboards are sent.

MMAU withholds the answers of its test split, so only its authors can score that: they take the
published file with one key more (github.com/Sakshi113/MMAU, README). With answers the same file is
what the published script reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cache_schema.codecs.files import write_atomic
from train.evaluate.benchmarks.files import find_file, read_table
from train.evaluate.rules.common import said
from train.evaluate.types import Benchmark, Response


def write_submission(
    data: Path, benchmark: Benchmark, responses: Iterable[Response], folder: Path
) -> Path | None:
    """Write ``submission.json``: every row as published, and what ``official`` judges of it.

    Lines of JSON (``.jsonl``) where the benchmark's scorer reads lines, as MMAR's does.
    A response that was never made is an empty prediction, which the published script counts as
    wrong where it skips a row without one. Rows that were not asked (``--limit``) get none.

    Args:
        data: the benchmark's file, or the folder it is in.
        benchmark: which.
        responses: to its items.
        folder: gets the file.

    Returns:
        The file; ``None`` where nothing of the kind is published.

    Raises:
        DatasetError: the file is not there or not of the published form.
    """
    form = benchmark.submission
    if form is None:
        return None
    given = {one.sample_id: "" if one.finish == "error" else said(one) for one in responses}
    source = find_file(data, form.names, benchmark.name)
    rows = []
    for row in read_table(source):
        name = str(row["id"])
        more = dict.fromkeys(form.keys, given[name]) if name in given else {}
        rows.append({**row, **more})
    path = folder / f"submission{form.suffix}"
    if form.suffix == ".jsonl":
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    else:
        text = json.dumps(rows, indent=2) + "\n"
    write_atomic(path, text.encode())
    return path
