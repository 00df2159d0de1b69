"""The rows of an index while it is built: their order, and the memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from cache_schema.index import table_rows
from cache_schema.index.arrays import TRACE_BITS
from cache_schema.index.build import Found
from cache_schema.index.table_rows import TableRows, leave_out, room_for, sort_rows


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_come_out_by_key_of_equal_ones_the_oldest(
    monkeypatch: pytest.MonkeyPatch, shuffled: bool
) -> None:
    monkeypatch.setattr(table_rows, "_BLOCK", 3)
    rng = np.random.default_rng(0)
    numbers = np.array_split(rng.permutation(20) if shuffled else np.arange(20), 4)
    if shuffled:
        numbers.append(np.array([3, 17]))  # recorded again
    age, place = np.array([4, 2, 1, 3, 0, 5]), np.arange(20)[::-1].copy()
    if not shuffled:
        place = np.arange(20)
    first = (numbers[0] << TRACE_BITS).astype(np.uint64)
    order = np.arange(len(first), dtype=np.int32)
    rows = TableRows((first, np.full(len(first), 5, np.int32), order))
    expected = [(int(place[n]), 5, at) for at, n in enumerate(numbers[0])]
    for line, some in enumerate(numbers[1:]):
        rows.add((some << TRACE_BITS).astype(np.uint64), line)
        expected += [(int(place[n]), line, at) for at, n in enumerate(some)]
    found = room_for(len(rows))
    rows.write(found, place)
    again = sort_rows(found, age)
    assert len(again) == (2 if shuffled else 0)
    leave_out(found, again)
    best: dict[int, tuple[int, int]] = {}
    for number, line, row in sorted(expected, key=lambda one: (one[0], age[one[1]])):
        best.setdefault(number, (line, row))
    keys, lines, places = (values[: len(found[0]) - len(again)].tolist() for values in found)
    assert [key >> TRACE_BITS for key in keys] == sorted(best)
    assert list(zip(lines, places, strict=True)) == [best[number] for number in sorted(best)]


def test_a_row_takes_few_bytes_while_the_index_is_made() -> None:
    """It has 16 in the index; a copy of all of them would be 32."""
    shards, samples, traces, tables = 10, 500, 8, ("trace", "topk", "hidden", "sampled")
    num_rows = shards * samples * traces * len(tables)
    found = Found()
    for shard in range(shards):
        ids = [f"r{shard:03d}-{n:04d}" for n in range(samples) for _ in range(traces)]
        numbers = np.tile(np.arange(traces, dtype=np.int32), samples)
        table = pa.table({"sample_id": ids, "trace_index": numbers})
        line = found.add_line("manifest/w0.jsonl", shard, 1, 0, "textual")
        for name in tables:
            found.add_table("textual", name, line, table, "here")
    tracemalloc.start()
    try:
        index = found.index(lambda *_: True, last=True)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(index.row_key), found.rows) == (num_rows, {})
    assert most < 24 * num_rows
