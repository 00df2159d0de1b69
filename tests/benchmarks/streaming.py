"""Memory of stage one by the number of rows: what each step holds for a row of the data set.

Every step runs in a process of its own on data sets of growing size, whose rows share one recording
of 16 samples (``--audio reference``). What is counted is the peak of anonymous memory above that at
the step's start, read every two milliseconds; pages of mapped files are the system's to take back.
Bytes a row are the growth between two sizes, so that what does not grow drops out. The index, which
a writer brings up to date now and then and when it ends, is counted apart, made from nothing.

The index of a tape with traces is counted by table rows, also in a process of its own: a sample
has ``TRACES`` rows in each of ``TRACE_TABLES``; the tables' id columns are made up in memory.

Before rows were streamed, from 5,000 to 40,000 rows: opening 976 bytes a row, ingest
1,303, textualize 852, samples left 243, the index 622.

``python tests/benchmarks/streaming.py 10000 100000 1000000`` measures other sizes than
``run.py streaming`` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from figures import Figure

SIZES = (20_000, 100_000)
BAR_BYTES = 64
"""Bytes a row that a step may hold beyond a constant."""

INDEX_BAR_BYTES = 256
"""Its content is 50 bytes a row and table; it is sorted in memory."""

INDEX = "the index, made anew"
TRACED = "the index with traces"
TRACES, TRACE_TABLES = 8, ("trace", "topk", "hidden", "sampled")
SHARD_SAMPLES = 512
_PAUSE_S = 0.002


class Peak:
    """The peak of this process's anonymous memory while the block runs, above its beginning."""

    def __enter__(self) -> Peak:
        self._first = self._most = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.bytes = max(self._most, anonymous_bytes()) - self._first

    def _watch(self) -> None:
        while not self._ended.wait(_PAUSE_S):
            self._most = max(self._most, anonymous_bytes())


def anonymous_bytes() -> int:
    """Return the process's resident memory that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def write_rows(folder: Path, num_rows: int) -> Path:
    """Write the data set."""
    import numpy as np
    import soundfile

    ramp = np.linspace(-0.5, 0.5, 16, dtype=np.float32)
    soundfile.write(folder / "a.wav", ramp, 16_000, subtype="FLOAT")
    row = {"audio": "a.wav", "question": "What is said?", "transcript": "three plus four"}
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            file.write(json.dumps({"id": f"recording-{number:08d}", **row}) + "\n")
    return path


def steps(folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is measured, in order; each goes on from the tape the one before left."""
    from cache_schema import open_tape
    from cache_schema.maker import GroupInfo
    from cache_schema.writer import complete_index
    from pipeline import ingest, textualize
    from pipeline.dataset.rows import open_rows
    from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe
    from pipeline.step import pending

    dataset = DatasetRecipe(path=str(folder / "rows.jsonl"), audio="reference")
    recipe = ExtractRecipe(dataset=dataset, tape=TapeRecipe(out=str(folder / "tape")))

    def wait() -> object:
        """Hold what a step holds: the samples left, walked through batch by batch."""
        todo = pending(open_tape(folder / "tape"), GroupInfo(group="new", kind="acoustic"), recipe)
        for start in range(0, len(todo), 4096):
            for row in todo[start : start + 4096 : 512]:
                assert row.description
        return todo

    def index() -> None:
        for path in (folder / "tape" / "index").glob("*.arrow"):
            path.unlink()
        complete_index(folder / "tape")

    return {
        "opening the data set": lambda: open_rows(dataset),
        "ingest": lambda: ingest.run(recipe),
        "textualize": lambda: textualize.run(recipe),
        "samples left": wait,
        INDEX: index,
    }


def measure_one(folder: Path, name: str) -> dict[str, float]:
    """Run one step in this process."""
    from cache_schema.writer import complete_index

    job = steps(folder)[name]
    with mock.patch("cache_schema.writer.complete_index"):
        began_s = time.perf_counter()
        with Peak() as peak:
            held = job()
        seconds = time.perf_counter() - began_s
    del held
    if (folder / "tape").exists():
        complete_index(folder / "tape")
    return {"bytes": peak.bytes, "seconds": seconds}


def measure_traced(num_samples: int, folder: Path) -> dict[str, float]:
    """Make and write the index of a tape with traces in this process."""
    import numpy as np
    import pyarrow as pa

    from cache_schema.codecs.arrow_file import write_table
    from cache_schema.index.arrays import to_arrow
    from cache_schema.index.build import Found

    began_s = time.perf_counter()
    with Peak() as peak:
        found = Found()
        for start in range(0, num_samples, SHARD_SAMPLES):
            numbers = range(start, min(start + SHARD_SAMPLES, num_samples))
            ids = pa.array([f"recording-{number:08d}" for number in numbers])
            table = pa.table({"sample_id": ids, "row_index": pa.array(numbers, pa.int64())})
            line = found.add_line("manifest/w0.jsonl", start, 1, 0, "samples")
            found.add_table("samples", "samples", line, table, "here")
            many = ids.take(pa.array(np.repeat(np.arange(len(ids)), TRACES)))
            traces = pa.array(np.tile(np.arange(TRACES, dtype=np.int32), len(ids)))
            table = pa.table({"sample_id": many, "trace_index": traces})
            line = found.add_line("manifest/w0.jsonl", start + 1, 1, 0, "textual")
            for name in TRACE_TABLES:
                found.add_table("textual", name, line, table, "here")
        index = found.index(lambda *_: True, last=True)
        del found
        write_table(folder / "index.arrow", to_arrow(index))
    assert len(index.row_key) == rows_of(num_samples)
    return {"bytes": peak.bytes, "seconds": time.perf_counter() - began_s}


def rows_of(num_samples: int) -> int:
    """Return the table rows of a tape with traces."""
    return num_samples * (1 + TRACES * len(TRACE_TABLES))


def measure_all(num_rows: int) -> dict[str, dict[str, float]]:
    """Run every step on a data set of this size, each in its own process."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), num_rows)
        for name in steps(Path(folder)):
            command = [sys.executable, __file__, "--one", folder, name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=_quiet())
            found[name] = json.loads(done.stdout.splitlines()[-1])
        command = [sys.executable, __file__, "--traced", folder, str(num_rows)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=_quiet())
        found[TRACED] = json.loads(done.stdout.splitlines()[-1])
    return found


def _quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def figures_of(sizes: tuple[int, ...]) -> list[Figure]:
    """Return the growth of each step's memory from the smallest size to the largest."""
    all_found = {num_rows: measure_all(num_rows) for num_rows in sizes}
    few, many = min(sizes), max(sizes)
    figures = []
    traced = {num_rows: found.pop(TRACED) for num_rows, found in all_found.items()}
    figures.append(
        Figure(
            name=f"{TRACED}, {rows_of(few):,} to {rows_of(many):,} table rows",
            value=(traced[many]["bytes"] - traced[few]["bytes"]) / (rows_of(many) - rows_of(few)),
            unit="bytes a table row",
            note=f"peak {traced[many]['bytes'] / 2**20:.1f} MiB, {traced[many]['seconds']:.1f} s",
        )
    )
    for name, most in all_found[many].items():
        peaks = ", ".join(f"{all_found[n][name]['bytes'] / 2**20:.1f}" for n in sizes)
        figures.append(
            Figure(
                name=f"{name}, {few:,} to {many:,} rows",
                value=(most["bytes"] - all_found[few][name]["bytes"]) / (many - few),
                unit="bytes a row",
                bar=INDEX_BAR_BYTES if name == INDEX else BAR_BYTES,
                at_least=False,
                note=f"peaks {peaks} MiB, the last in {most['seconds']:.1f} s",
            )
        )
    return figures


def measure() -> list[Figure]:
    return figures_of(SIZES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure_one(Path(sys.argv[2]), sys.argv[3])))
    elif sys.argv[1:2] == ["--traced"]:
        print(json.dumps(measure_traced(int(sys.argv[3]), Path(sys.argv[2]))))
    else:
        for figure in figures_of(tuple(map(int, sys.argv[1:])) or SIZES):
            print(f"{figure.name:<44} {figure.value:>8.1f} {figure.unit}  {figure.note}")
