"""States through the training loader against memcpy, and against a DataLoader over safetensors.

Measured is the part of the loader that brings states: rows found, memory reserved in the ring,
two threads reading, steps handed over by ``prefetch``, as ``train.steps.loads`` does; steps are
those of ``plan_epoch``, 8,192 tokens each with a prompt of 150. Left out are traces, top-k, audio
and its features, whose cost depends on the student. The consumer takes steps and does nothing.

memcpy is the limit: ``np.copyto`` of the same pieces by as many threads into as many buffers. The
peers' way is a ``DataLoader`` with as many worker processes; each reads safetensors files of one
sample and concatenates them; the batch is taken in the training process.
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from figures import Figure, interleaved, ratio
from reading import (
    LAYERS,
    SIGNAL,
    TAPE_BYTES,
    WIDTH,
    Room,
    Source,
    lengths,
    write_files,
    write_tape,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cache_schema import Tape
from train.batch.states import StatesPlan, plan_states, start_states
from train.data import Example
from train.steps.loads import STEPS_AHEAD
from train.steps.order import divide_step, plan_epoch
from train.steps.ring import READERS, HostBuffer, Readers, prefetch

BATCH_TOKENS = 8192
PROMPT_TOKENS = 150
ROUNDS = 7
EPOCHS = 3
Rows = list[tuple[str, int]]


def plan_rows(counts: dict[str, int]) -> list[list[Rows]]:
    """The rows of every micro-batch of every step of one epoch."""
    examples = [
        Example(sample_id=name, trace_index=0, num_tokens=PROMPT_TOKENS + count)
        for name, count in counts.items()
    ]
    return [
        [[(e.sample_id, 0) for e in micro] for micro in divide_step(step, 0, 1, BATCH_TOKENS)]
        for step in plan_epoch(examples, BATCH_TOKENS, 0, 0)
    ]


def plan_rows_states(tape: Tape, rows: Rows) -> StatesPlan:
    places = [tape[name].hidden_place(SIGNAL, trace, LAYERS) for name, trace in rows]
    return plan_states(places, LAYERS, SIGNAL)


def load_step(tape: Tape, readers: Readers, step: list[Rows], buffer: HostBuffer) -> list[Tensor]:
    """What the loader does with a step, its states only."""
    plans = [plan_rows_states(tape, rows) for rows in step]
    buffer.reserve([plan.num_bytes for plan in plans])
    return [start_states(plan, buffer, readers) for plan in plans]


def take_epochs(
    tape: Tape, steps: list[list[Rows]], buffers: list[HostBuffer], threads: int = READERS
) -> int:
    with Readers(threads) as readers:
        jobs = (functools.partial(load_step, tape, readers, step) for step in steps * EPOCHS)
        return sum(states.nbytes for step in prefetch(jobs, buffers) for states in step)


def take_found(found: list[list[StatesPlan]], buffers: list[HostBuffer]) -> int:
    """The same of rows whose places are known: what finding them costs while others copy."""

    def load(readers: Readers, plans: list[StatesPlan], buffer: HostBuffer) -> list[Tensor]:
        buffer.reserve([plan.num_bytes for plan in plans])
        return [start_states(plan, buffer, readers) for plan in plans]

    with Readers() as readers:
        jobs = (functools.partial(load, readers, plans) for plans in found * EPOCHS)
        return sum(states.nbytes for step in prefetch(jobs, buffers) for states in step)


def copy_epochs(source: Source, counts: dict[str, int], steps: list[list[Rows]]) -> None:
    """The same pieces by as many threads, each into memory of its own as large as a ring."""

    def work(thread: int, room: Room) -> None:
        names = [name for step in steps * EPOCHS for rows in step for name, _ in rows]
        for name in names:
            for number in range(thread, len(LAYERS), READERS):
                source.copy(name, number, room.take(counts[name], WIDTH))

    with ThreadPoolExecutor(READERS) as pool:
        for done in [pool.submit(work, thread, room) for thread, room in enumerate(ROOMS)]:
            done.result()


ROOMS: list[Room] = []


class FilePerSample(Dataset[Tensor]):
    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = list(paths.values())

    def __getitem__(self, index: int) -> Tensor:
        return load_file(self._paths[index])["hidden_states"]

    def __len__(self) -> int:
        return len(self._paths)


def peers_loader(paths: dict[str, Path], steps: list[list[Rows]]) -> DataLoader[Tensor]:
    numbers = {name: number for number, name in enumerate(paths)}
    batches = [[numbers[name] for name, _ in rows] for step in steps for rows in step]
    return DataLoader(
        FilePerSample(paths),
        batch_sampler=batches,
        num_workers=READERS,
        collate_fn=torch.cat,
        persistent_workers=True,
    )


def drain(loader: DataLoader[Tensor]) -> int:
    return sum(batch.nbytes for batch in loader)


def private_bytes() -> int:
    """Anonymous memory of this process: what it allocated, without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no RssAnon in /proc/self/status")


def peak_of(job: Callable[[], int]) -> tuple[int, int]:
    """Return by how much private memory grew at most while a job ran, and its result."""
    before = private_bytes()
    peak = before
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.001):
            peak = max(peak, private_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    found = job()
    ended.set()
    thread.join()
    return max(peak, private_bytes()) - before, found


def host_memory(tape: Tape, steps: list[list[Rows]]) -> Iterator[Figure]:
    largest = max(steps, key=lambda step: sum(tape_bytes(tape, rows) for rows in step))

    def one() -> int:
        with Readers() as readers:
            buffer = HostBuffer()
            loaded = load_step(tape, readers, largest, buffer)
            buffer.wait()
            return sum(states.nbytes for states in loaded)

    grown, held = peak_of(one)
    yield Figure(
        name="host memory of loading a step, of what it holds",
        value=grown / held,
        unit="x of the payload",
        bar=1.5,
        at_least=False,
        note=f"largest step, {held >> 20} MiB, memory fresh",
    )
    ring = [HostBuffer() for _ in range(STEPS_AHEAD + 1)]
    grown, total = peak_of(lambda: take_epochs(tape, steps, ring))
    mean = total / EPOCHS / len(steps)
    yield Figure(
        name=f"host memory of the ring over {EPOCHS} epochs",
        value=grown / (len(ring) * mean),
        unit="x of mean steps",
        note=f"{len(ring)} buffers, each as large as its largest step of {len(steps)}",
    )


def tape_bytes(tape: Tape, rows: Rows) -> int:
    return plan_rows_states(tape, rows).num_bytes


def measure() -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = lengths(TAPE_BYTES)
        tape = write_tape(Path(folder) / "tape", counts)
        paths = write_files(Path(folder) / "files", counts)
        os.sync()
        steps = plan_rows(counts)
        memory = list(host_memory(tape, steps))
        return [*_speed(tape, paths, counts, steps), *memory]


def _speed(
    tape: Tape, paths: dict[str, Path], counts: dict[str, int], steps: list[list[Rows]]
) -> Iterator[Figure]:
    source = Source(counts)
    ROOMS[:] = [Room(128 << 20) for _ in range(READERS)]
    ring = [HostBuffer() for _ in range(STEPS_AHEAD + 1)]
    found = [[plan_rows_states(tape, rows) for rows in step] for step in steps]
    peers = peers_loader(paths, steps)
    spent_s: dict[str, list[float]] = {}

    def counted(name: str, job: Callable[[], object]) -> Callable[[], None]:
        """Also note the processor time of all threads."""

        def run() -> None:
            began_s = time.process_time()
            job()
            spent_s.setdefault(name, []).append(time.process_time() - began_s)

        return run

    taken_s = interleaved(
        {
            "memcpy": counted("memcpy", lambda: copy_epochs(source, counts, steps)),
            "loader": counted("loader", lambda: take_epochs(tape, steps, ring)),
            "found": lambda: take_found(found, ring),
            "1": lambda: take_epochs(tape, steps, ring, 1),
            "4": lambda: take_epochs(tape, steps, ring, 4),
            "peers": lambda: drain(peers),
        },
        ROUNDS,
    )
    taken_s["peers"] = [EPOCHS * each for each in taken_s["peers"]]
    speed = EPOCHS * source.array.nbytes / statistics.median(taken_s["memcpy"]) / 1e9
    by = f"memcpy by {READERS} threads"
    pairs = [
        (f"{READERS} reading threads", "memcpy", "loader", 0.75, f"{by} {speed:.1f} GB/s"),
        ("places known before", "memcpy", "found", None, "what finding rows costs is left out"),
        ("1 reading thread", "memcpy", "1", None, by),
        ("4 reading threads", "memcpy", "4", None, by),
        ("against worker processes", "peers", "loader", 5.0, f"{READERS} workers, safetensors"),
    ]
    for name, base, measured, bar, note in pairs:
        yield Figure(
            name=f"states of whole steps, {name}",
            value=ratio(taken_s[base], taken_s[measured]),
            unit="x of a DataLoader" if base == "peers" else "x of memcpy",
            bar=bar,
            note=note,
        )
    yield Figure(
        name="processor time of the same",
        value=ratio(spent_s["memcpy"], spent_s["loader"]),
        unit="x of memcpy",
        note="all threads; what other work on the machine changes least",
    )
