"""From a sample on the tape to the item that is judged."""

from __future__ import annotations

from cache_schema.row import TapeRow
from cache_schema.types import Sample
from train.evaluate.types import Benchmark, Item


def item_of(row: TapeRow | Sample, benchmark: Benchmark) -> Item:
    """Return the item a sample is, with the benchmark's groupings of its metadata.

    A grouping that a sample lacks is left out; its value is taken as text.
    """
    metadata = row.metadata
    return Item(
        sample_id=row.sample_id,
        question=row.question,
        choices=row.choices,
        answer=row.answer,
        groups={
            name: str(metadata[name])
            for name in benchmark.groups
            if metadata.get(name) not in (None, "")
        },
    )
