"""Opening a tape: ``open_tape``, its length, and one row's fields, by the number of samples.

Tapes are written by ``TapeWriter``, 100 samples a shard. The page cache is warm and the libraries
are imported; everything else is done anew each time, the checksum of the index included. Without
the index file (a cache, written when a writer ends) every shard's table is read.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from figures import Figure

from cache_schema import layout, open_tape
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import sample_rows
from cache_schema.types import Sample
from cache_schema.writer import TapeWriter

SHARD_SAMPLES = 100
SIZES = (10_000, 100_000)
LARGEST = SIZES[-1]
ROUNDS = 9


def write_tape(root: Path, num_samples: int) -> None:
    info = GroupInfo(group="samples", kind="samples")
    with TapeWriter(root, info, shard_samples=SHARD_SAMPLES) as writer:
        for number in range(num_samples):
            sample = Sample(
                sample_id=f"recording-{number:07d}",
                row_index=number,
                audio=None,
                question="What is said?",
                choices=("yes", "no"),
                answer="yes",
                metadata={"transcript": "three plus four"},
            )
            writer.add(sample_rows(sample, "0" * 64, 16_000 + number))


def touch(root: Path, num_samples: int) -> None:
    """Open, count, and read the fields of one row."""
    tape = open_tape(root)
    assert len(tape) == num_samples
    number = num_samples * 2 // 3
    row = tape[f"recording-{number:07d}"]
    assert row.num_audio_samples == 16_000 + number
    assert (row.question, row.choices, row.answer) == ("What is said?", ("yes", "no"), "yes")
    assert row.metadata == {"transcript": "three plus four"}
    assert row.row_index == number


def median_ms(root: Path, num_samples: int, rounds: int) -> float:
    touch(root, num_samples)
    taken_s = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        touch(root, num_samples)
        taken_s.append(time.perf_counter() - began_s)
    return statistics.median(taken_s) * 1e3


def measure() -> list[Figure]:
    figures = []
    indexed_ms: list[float] = []
    for num_samples in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "tape"
            write_tape(root, num_samples)
            indexed_ms.append(median_ms(root, num_samples, ROUNDS))
            shutil.rmtree(root / layout.INDEX_DIR)
            without_ms = median_ms(root, num_samples, 3)
        about = f"{num_samples // SHARD_SAMPLES:,} shards, {num_samples:,} samples"
        figures += [
            Figure(
                name=f"open, count and one row, {about}",
                value=indexed_ms[-1],
                unit="ms",
                bar=50.0 if num_samples == LARGEST else None,
                at_least=False,
            ),
            Figure(
                name=f"without the index file, {about}",
                value=without_ms,
                unit="ms",
                note="every table of samples read",
            ),
        ]
    growth = Figure(
        name="with 10 times the samples",
        value=indexed_ms[-1] / indexed_ms[0],
        unit="x of the time",
        note="the index is hashed and checked whole",
    )
    return [*figures, growth]
