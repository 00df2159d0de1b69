"""Writing hot states with checksums, fsync and commits, against writing the same bytes plainly.

``TapeWriter`` writes traces and four layers of states, 2,048 wide in bfloat16, into shards of the
default size: hashed while streaming, fsynced, renamed, named in the manifest, indexed. The plain
writer appends the same states to one file a layer and shard with ``write`` alone: no table, hash,
fsync or manifest; its bytes are in memory, not on the disk. With one fsync a file they are on the
disk: what is durable cannot be written faster. The bar is held against both. Each writes two
shards a turn; what was written is removed unmeasured after each turn, so that none writes back
another's pages.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import xxhash
from figures import Figure, ratio
from numpy.typing import NDArray
from reading import LAYERS, lengths, pool, states_of, write_textual

from cache_schema.writer import SHARD_BYTES

ROUND_BYTES = 2 * SHARD_BYTES
ROUNDS = 7
Job = Callable[[Path], None]


def write_plainly(
    root: Path, counts: dict[str, int], rows: NDArray, sync: bool = False, hashed: bool = False
) -> None:
    """The same states to one file a layer and shard."""
    root.mkdir()
    files, hashes, filled, shard = {}, {}, 0, 0

    def close() -> None:
        for file in files.values():
            file.flush()
            if sync:
                os.fsync(file.fileno())
            file.close()

    for number, (_, count) in enumerate(counts.items()):
        if not files:
            files = {layer: (root / f"{shard}-{layer}").open("wb") for layer in LAYERS}
            hashes = {layer: xxhash.xxh3_128() for layer in LAYERS}
        for layer, states in states_of(rows, number, count).items():
            if hashed:
                hashes[layer].update(states.data)
            files[layer].write(states.data)
            filled += states.nbytes
        if filled >= SHARD_BYTES:
            close()
            files, filled, shard = {}, 0, shard + 1
    close()


def turns(folder: Path, jobs: dict[str, Job]) -> dict[str, list[float]]:
    """Return each job's seconds, in an order that changes from round to round."""
    taken_s: dict[str, list[float]] = {name: [] for name in jobs}
    order = random.Random(0)
    for number in range(ROUNDS + 1):
        for name in order.sample(list(jobs), len(jobs)):
            root = folder / name
            began_s = time.perf_counter()
            jobs[name](root)
            if number:
                taken_s[name].append(time.perf_counter() - began_s)
            shutil.rmtree(root)
            os.sync()
    return taken_s


def measure() -> list[Figure]:
    counts, rows = lengths(ROUND_BYTES, seed=2), pool()

    def unsynced(root: Path) -> None:
        """What it costs where fsync is free; its durability is gone."""
        with mock.patch("os.fsync"), mock.patch("os.fdatasync"):
            write_textual(root, counts, rows)

    with tempfile.TemporaryDirectory() as folder:
        taken_s = turns(
            Path(folder),
            {
                "plain": lambda root: write_plainly(root, counts, rows),
                "disk": lambda root: write_plainly(root, counts, rows, sync=True),
                "hashed": lambda root: write_plainly(root, counts, rows, hashed=True),
                "unsynced": unsynced,
                "tape": lambda root: write_textual(root, counts, rows),
            },
        )
    num_bytes = sum(counts.values()) * rows.shape[1] * 2 * len(LAYERS)
    speed = {
        name: f"{num_bytes / statistics.median(each) / 1e9:.2f} GB/s"
        for name, each in taken_s.items()
    }
    pairs = [
        ("tape, of writing into memory", "plain", "tape", 0.8, f"plain {speed['plain']}"),
        ("tape, of writing to the disk", "disk", "tape", 0.8, f"plain + fsync {speed['disk']}"),
        (
            "tape without fsync, of writing into memory",
            "plain",
            "unsynced",
            None,
            "hash, commit, index",
        ),
        ("plain + xxh3, of writing into memory", "plain", "hashed", None, "the hash alone"),
    ]
    about = f"; {num_bytes >> 20} MiB a turn, {ROUNDS} turns"
    return [
        Figure(
            name=name,
            value=ratio(taken_s[base], taken_s[measured]),
            unit="x",
            bar=bar,
            note=note + about * (base == "plain" and measured == "tape"),
        )
        for name, base, measured, bar, note in pairs
    ]
