"""Layer states by profile: bytes an element, error, speed of reading against memcpy, of writing.

Synthetic states, 2048 wide, bfloat16, as a language model has them: unequal channels with means, a
few of them 50-100 times as large, 32 directions shared by all. Reads are of whole samples of 100 to
900 positions, from the page cache, each into its place in a buffer of the layer's size; memcpy
copies the same samples between two such buffers. Writing hashes and fsyncs.

``hot`` copies out of a mapping, whose bare speed is told beside it ("mapped"), as is that of the
system call it could make instead ("bare preadv"), half as fast where this was written.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from figures import Figure, interleaved, ratio

from cache_schema.codecs import bfloat16
from cache_schema.codecs.states_profiles import (
    StatesReader,
    open_states_reader,
    open_states_writer,
)
from cache_schema.signals import STATES_PROFILES as PROFILES

WIDTH = 2048
POSITIONS = 16_384
LOGICAL = "bfloat16"
LAYER = "hidden.zarr/L012"
BYTES_BARS = {"hot": 2.001, "archive": None, "lossy2x": 1.05}
HOT_BAR = {"hot": 0.9}
Span = tuple[int, int]
Read = Callable[[list[Span], np.ndarray], None]


def synthetic(num_rows: int) -> np.ndarray:
    """States [num_rows, WIDTH] as bfloat16 bits."""
    rng = np.random.default_rng(12)
    std = np.exp(rng.normal(0, 0.4, WIDTH)).astype(np.float32)
    mean = (rng.normal(0, 0.3, WIDTH) * std).astype(np.float32)
    outliers = rng.choice(WIDTH, 8, replace=False)
    std[outliers] *= rng.uniform(5, 20, 8)
    mean[outliers] = rng.choice([-1, 1], 8) * rng.uniform(50, 100, 8)
    shared = rng.standard_normal((32, WIDTH), dtype=np.float32) * np.float32(0.6 / 32**0.5)
    parts = []
    for start in range(0, num_rows, 1024):
        count = min(1024, num_rows - start)
        standard = rng.standard_normal((count, 32), dtype=np.float32) @ shared
        standard += np.float32(0.8) * rng.standard_normal((count, WIDTH), dtype=np.float32)
        parts.append(bfloat16.from_float32(mean + std * standard))
    return np.concatenate(parts)


def samples(num_rows: int) -> list[Span]:
    """Cut the positions into samples, [start, stop)."""
    rng = np.random.default_rng(3)
    cuts = [0]
    while cuts[-1] < num_rows:
        cuts.append(min(num_rows, cuts[-1] + int(rng.integers(100, 900))))
    return list(pairwise(cuts))


def write(folder: Path, rows: np.ndarray, profile: str) -> tuple[int, dict[str, float]]:
    """Record the layer in pieces; return its bytes and the error report."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        return record(Path(scratch), rows, profile)


def record(folder: Path, rows: np.ndarray, profile: str) -> tuple[int, dict[str, float]]:
    """Record the layer in pieces of 512 positions; return its bytes and the error report."""
    writer = open_states_writer(folder, LAYER, WIDTH, LOGICAL, profile)
    for start in range(0, len(rows), 512):
        writer.append(rows[start : start + 512])
    files, report = writer.close()
    return sum(int(entry["bytes"]) for entry in files.values()), report


def read_all(reader: StatesReader, spans: list[Span], out: np.ndarray) -> None:
    """Read samples, each into its place."""
    for start, stop in spans:
        reader.read_into(start, out[start:stop])


def copy_all(source: np.ndarray, spans: list[Span], out: np.ndarray) -> None:
    """Copy samples, each into its place."""
    for start, stop in spans:
        np.copyto(out[start:stop], source[start:stop])


def preadv_all(descriptor: int, spans: list[Span], out: np.ndarray) -> None:
    """Read samples, each into its place, with nothing around the system call."""
    for start, stop in spans:
        count = os.preadv(descriptor, [out[start:stop].data], start * WIDTH * 2)
        assert count == (stop - start) * WIDTH * 2


def in_two_threads(
    pool: ThreadPoolExecutor,
    read: Callable[[list[Span], np.ndarray], None],
    spans: list[Span],
    out: np.ndarray,
) -> None:
    """Read halves of the samples at once."""
    half = len(spans) // 2
    list(pool.map(read, (spans[:half], spans[half:]), (out, out)))


def measure() -> list[Figure]:
    """Measure every profile on one synthetic layer."""
    rows = synthetic(POSITIONS)
    spans = samples(POSITIONS)
    shuffled = [spans[i] for i in np.random.default_rng(5).permutation(len(spans))]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        readers: dict[str, StatesReader] = {}
        for profile in PROFILES:
            num_bytes, report = record(folder / profile, rows, profile)
            readers[profile] = open_states_reader(
                (folder / profile).joinpath, LAYER, profile, POSITIONS, WIDTH, LOGICAL
            )
            figures.append(
                Figure(
                    name=f"{profile}: size, every file counted",
                    value=num_bytes / rows.size,
                    unit="bytes an element",
                    bar=BYTES_BARS[profile],
                    at_least=False,
                )
            )
            figures += errors(report)
        data_file = folder / "hot" / LAYER / "c/0/0"
        mapped = np.memmap(data_file, dtype=np.uint16, mode="r", shape=rows.shape)
        with data_file.open("rb") as file:
            jobs: dict[str, Read] = {
                "memcpy": partial(copy_all, rows),
                "bare preadv": partial(preadv_all, file.fileno()),
                "mapped": partial(copy_all, mapped),
                **{profile: partial(read_all, reader) for profile, reader in readers.items()},
            }
            out = np.ones_like(rows)
            figures += reading(jobs, rows.nbytes, "read in order", spans, out, HOT_BAR)
            figures += reading(jobs, rows.nbytes, "read shuffled", shuffled, out, HOT_BAR)
            both = {name: partial(in_two_threads, pool, job) for name, job in jobs.items()}
            figures += reading(both, rows.nbytes, "read by two threads", shuffled, out, {})
        figures += writing(folder, rows)
        for reader in readers.values():
            reader.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [*figures, Figure(name="peak memory of the benchmark", value=peak, unit="MiB")]


def errors(report: dict[str, float]) -> list[Figure]:
    """Say what ``lossy2x`` reported."""
    if not report:
        return []
    relative = Figure(
        name="lossy2x: relative error, standardised",
        value=report["standardised_relative_error"],
        unit="|error| / |value|",
        bar=0.015,
        at_least=False,
    )
    cosines = [
        Figure(name=f"lossy2x: {which}", value=report[which], unit="decoded, source", bar=0.999)
        for which in ("cosine_mean", "cosine_min")
    ]
    return [relative, *cosines]


def reading(
    reads: dict[str, Read],
    num_bytes: int,
    what: str,
    spans: list[Span],
    out: np.ndarray,
    bars: dict[str, float],
) -> list[Figure]:
    """Run the reads in turn; one figure each, against memcpy."""
    jobs = {name: partial(read, spans, out) for name, read in reads.items()}
    taken_s = interleaved(jobs)
    speed = {name: num_bytes / statistics.median(s) / 1e6 for name, s in taken_s.items()}
    return [
        Figure(
            name=f"{name}: {what}",
            value=ratio(taken_s["memcpy"], taken_s[name]),
            unit="x of memcpy",
            bar=bars.get(name),
            note=f"{speed[name]:,.0f} MB/s decoded, memcpy {speed['memcpy']:,.0f}",
        )
        for name in reads
        if name != "memcpy"
    ]


def writing(folder: Path, rows: np.ndarray) -> list[Figure]:
    """Say how fast each profile is written, in bytes of the source."""
    jobs = {profile: partial(write, folder, rows, profile) for profile in PROFILES}
    taken_s = interleaved(jobs, rounds=3)
    return [
        Figure(
            name=f"{profile}: write, hashed and fsynced",
            value=rows.nbytes / statistics.median(taken_s[profile]) / 1e6,
            unit="MB/s of source",
        )
        for profile in PROFILES
    ]
