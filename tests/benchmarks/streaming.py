"""Memory of stage one by the number of rows: what each step holds for a row of the data set.

Every step runs in a process of its own on data sets of growing size, whose rows share one recording
of 16 samples (``--audio reference``). What is counted is the peak of anonymous memory above that at
the step's start, read every two milliseconds; pages of mapped files are the system's to take back.
Bytes a row are the growth between two sizes, so that what does not grow drops out. The index, which
a writer brings up to date now and then and when it ends, is counted apart, made from nothing.

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

    soundfile.write(folder / "a.wav", np.full(16, 0.5, np.float32), 16_000, subtype="FLOAT")
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
    from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe
    from pipeline.rows import open_rows
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


def measure_all(num_rows: int) -> dict[str, dict[str, float]]:
    """Run every step on a data set of this size, each in its own process."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), num_rows)
        for name in steps(Path(folder)):
            command = [sys.executable, __file__, "--one", folder, name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=_quiet())
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def _quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def figures_of(sizes: tuple[int, ...]) -> list[Figure]:
    """Return the growth of each step's memory from the smallest size to the largest."""
    all_found = {num_rows: measure_all(num_rows) for num_rows in sizes}
    few, many = min(sizes), max(sizes)
    figures = []
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
    else:
        for figure in figures_of(tuple(map(int, sys.argv[1:])) or SIZES):
            print(f"{figure.name:<44} {figure.value:>8.1f} {figure.unit}  {figure.note}")
