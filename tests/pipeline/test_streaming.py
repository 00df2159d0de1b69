"""What stage one holds does not grow with the rows, but for a few bytes of each."""

from __future__ import annotations

import gc
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cache_schema import Tape, open_tape
from cache_schema.errors import DatasetError, QuarantineError
from cache_schema.index.arrays import hash_of
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import sample_rows
from cache_schema.types import Sample
from cache_schema.writer import TapeWriter
from pipeline import ingest
from pipeline.dataset import row_ids
from pipeline.dataset.row_ids import SeenIds, first_repeat
from pipeline.dataset.rows import open_rows
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.step import Failures, pending

FEW, MANY = 1_000, 10_000
BYTES_A_ROW = 64


def growth(job: Callable[[int], object]) -> float:
    """Return the bytes a row that the peak of a job grows by from ``FEW`` rows to ``MANY``."""
    job(FEW)  # what is made once
    peaks = []
    for count in (FEW, MANY):
        gc.collect()
        tracemalloc.start()
        held = job(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del held
    return (peaks[1] - peaks[0]) / (MANY - FEW)


def save_rows(folder: Path, count: int, **cells: Any) -> Path:
    path = folder / f"{count}.jsonl"
    row = {"audio": "a.wav", "question": "What?", **cells}
    lines = (json.dumps({"id": f"row-{number}", **row}) + "\n" for number in range(count))
    path.write_text("".join(lines))
    return path


def test_opening_rows_holds_few_bytes_of_each(tmp_path: Path) -> None:
    paths = {count: save_rows(tmp_path, count) for count in (FEW, MANY)}
    assert growth(lambda n: open_rows(DatasetRecipe(path=str(paths[n])))) < BYTES_A_ROW


def save_tape(root: Path, count: int) -> Path:
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for number in range(count):
            sample = Sample(
                sample_id=f"row-{number}",
                row_index=number,
                audio=None,
                question="What?",
                choices=(),
                answer="",
                metadata={},
            )
            writer.add(sample_rows(sample, "0" * 64, 16))
    info = GroupInfo(group="descriptions", kind="descriptions")
    with TapeWriter(root, info, writer="w1") as writer:
        for number in range(0, count, 2):
            writer.add({"descriptions": [{"sample_id": f"row-{number}", "description": "words"}]})
        writer.quarantine("row-1", 1, "empty description", "")
    return root


def test_pending_samples_are_numbers(tmp_path: Path) -> None:
    roots = {count: save_tape(tmp_path / str(count), count) for count in (FEW, MANY)}
    info = GroupInfo(group="descriptions", kind="descriptions")

    def todo(count: int) -> Any:
        recipe = ExtractRecipe(
            dataset=DatasetRecipe(path="-"), tape=TapeRecipe(out=str(roots[count]))
        )
        return pending(open_tape(roots[count]), info, recipe)

    assert growth(lambda count: len(todo(count))) < BYTES_A_ROW
    left = todo(FEW)
    assert [row.sample_id for row in left] == [f"row-{n}" for n in range(3, FEW, 2)]
    assert len(left) == FEW // 2 - 1
    assert [row.row_index for row in left[1:3]] == [5, 7]
    assert left[-1].sample_id == f"row-{FEW - 1}"
    with pytest.raises(IndexError):
        left[len(left)]


def test_workers_and_limit_share_what_is_pending(tmp_path: Path) -> None:
    tape = open_tape(save_tape(tmp_path / "tape", 20))
    info = GroupInfo(group="descriptions", kind="descriptions")
    recipe = ExtractRecipe(
        dataset=DatasetRecipe(path="-", limit=11), tape=TapeRecipe(out="-"), worker="1/3"
    )
    assert [row.row_index for row in pending(tape, info, recipe)] == [7]
    mine = pending(tape, GroupInfo(group="acoustic", kind="acoustic"), recipe)
    assert mine.numbers.tolist() == [1, 4, 7, 10]
    assert mine.among(tape.recorded_mask("descriptions")).numbers.tolist() == [4, 10]


def test_masks_say_what_the_sets_say(tmp_path: Path) -> None:
    tape: Tape = open_tape(save_tape(tmp_path / "tape", 20))
    for group in ("samples", "descriptions", "nobody"):
        marked = {tape.sample_ids[n] for n in np.flatnonzero(tape.recorded_mask(group))}
        assert marked == tape.recorded(group)
    assert np.flatnonzero(tape.quarantined_mask("descriptions")).tolist() == [1]
    assert not tape.quarantined_mask("samples").any()


def test_lines_are_found_as_they_were_split(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "question": f"é {n}?"} for n in range(5)]
    text = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        f"\n{text[0]}\r\n  \n{text[1]}\r{text[2]}\n\n{text[3]}\r\r\n{text[4]}".encode()
    )
    opened = open_rows(DatasetRecipe(path=str(path)))
    assert [opened.rows[number] for number in range(len(opened))] == rows
    path.write_bytes(f"{text[0]}\r\n\r{text[1]}\r{{oops\n".encode())
    with pytest.raises(DatasetError, match=r"rows.jsonl, line 4: "):
        open_rows(DatasetRecipe(path=str(path)))


def test_a_file_that_changes_is_named(tmp_path: Path) -> None:
    path = save_rows(tmp_path, 10)
    opened = open_rows(DatasetRecipe(path=str(path)))
    os.truncate(path, 5)
    with pytest.raises(DatasetError, match="changed while it was read"):
        opened.given_id(3)


def test_equal_hashes_are_no_equal_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_ids, "hash_of", lambda given: hash_of(given) % 4)
    ids = [f"id-{n}" for n in range(50)]
    assert first_repeat(ids, ids.__getitem__) is None
    repeated = [*ids[:30], "", "id-7", "", "id-3", "id-7"]
    assert first_repeat(repeated, repeated.__getitem__) == (7, 31)

    monkeypatch.setattr(row_ids, "RECENT", 3)
    seen = SeenIds(ids.__getitem__)
    assert all(seen.add(given, row) for row, given in enumerate(ids))
    assert not any(seen.add(given, 99) for given in ids)


def test_seen_ids_hold_few_bytes_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_ids, "RECENT", 100)

    def fill(count: int) -> SeenIds:
        seen = SeenIds(lambda row: f"row-{row}")
        for row in range(count):
            assert seen.add(f"row-{row}", row)
        return seen

    assert growth(fill) < BYTES_A_ROW


def test_failures_wait_in_a_file() -> None:
    def fail(count: int) -> Failures:
        failures = Failures("textual", 0.5, 10 * count, 0)
        for number in range(count):
            failures.add(f"row-{number}", number, "audio", "words " * 50)
        return failures

    assert growth(fail) < 256, "the first MiB stays in memory"
    failures = Failures("textual", 0.5, 12, 0)
    for number in range(10):
        failures.add(f"row-{number}", number, "audio", "words")
    with pytest.raises(QuarantineError, match=r"(?s)10 of 12 .*row-0 .row 0.: audio.*and 5 more"):
        failures.settle(None)  # type: ignore[arg-type]


def test_equal_content_is_one_sample(tmp_path: Path) -> None:
    """Ids made from content: what is on the tape and what this run met are both looked at."""
    for name, level in (("a", 0.5), ("b", 0.25)):
        soundfile.write(tmp_path / f"{name}.wav", np.linspace(0, level, 16), 16_000)
    rows = [{"audio": f"{name}.wav", "question": "What?"} for name in "aabab"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = tmp_path / "tape"

    def run(limit: int) -> None:
        ingest.run(
            ExtractRecipe(
                dataset=DatasetRecipe(path=str(path), limit=limit),
                tape=TapeRecipe(out=str(root)),
                failures=FailureRecipe(max_fraction=1.0),
            )
        )

    run(2)
    run(5)
    tape = open_tape(root)
    assert [row.row_index for row in tape] == [0, 2]
    failed = [(q.row_index, q.reason) for q in tape.quarantined]
    assert failed == [(1, "duplicate"), (3, "duplicate"), (4, "duplicate")]
    before = (root / "manifest/w0of1.jsonl").read_bytes()
    run(3)
    assert (root / "manifest/w0of1.jsonl").read_bytes() == before
