"""Training from a URL against training from disk: the trainer's own steps, the same batches.

The tape lies behind two servers on the loopback, each a process of its own: Python's HTTP server,
and S3's API (moto). Warm, its files are in the local cache, compared with their checksums once a
process, as files on disk are; runs take turns of ``BLOCK`` steps, so that a loader which reads two
steps ahead is waited for. Cold, a run begins with an empty cache, and the time is that of opening,
and of the steps of one epoch; beside it is the same from disk. On the loopback that tells the cost
of the requests (every file is one), not of a network.

The time is by the clock, loaders and students on the same cores; the note has the processor's time
of this process, all threads, which other work on the machine changes less.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import fsspec
import torch
from acoustic import keep_memory
from figures import Figure, ratio
from trainer import spread
from trainer_runs import CE, CUDA, Size, Stepper, World

from cache_schema.remote.cache import FOLDER_VARIABLE

LOOPBACK = "127.0.0.1"
SHARD_SAMPLES = 8
BLOCK, ROUNDS, FIRST_PASSES = 5, 7, 3
EPOCH_STEPS = 10
SMALL = Size(width=192, layers=4, vocabulary=8_000, batch_tokens=900, vocab_chunk=256, rows=48)
"""On a CPU: a step that takes so little shows what loading costs."""

WARM_BAR = 1.10
BUCKET = "tapes"


@contextmanager
def serving(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a server until left; it answers when entered."""
    with (folder / f"server-{port}.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + 60
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((LOOPBACK, port)).close()
                break
            assert server.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < until_s, f"{command[0]} does not answer"
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.create_server((LOOPBACK, 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def urls(world: World, folder: Path) -> Iterator[dict[str, str]]:
    """Serve the tape; yield protocol -> its URL."""
    http, s3 = free_port(), free_port()
    address = ["--bind", LOOPBACK, "--directory", str(world.tape), "-p", "HTTP/1.1", str(http)]
    with ExitStack() as stack:
        stack.enter_context(serving(["http.server", *address], http, folder))
        stack.enter_context(serving(["moto.server", "-H", LOOPBACK, "-p", str(s3)], s3, folder))
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{s3}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        there = fsspec.filesystem("s3")
        there.mkdir(BUCKET)
        there.put(str(world.tape), f"{BUCKET}/tape", recursive=True)
        yield {"HTTP": f"http://{LOOPBACK}:{http}", "S3": f"s3://{BUCKET}/tape"}


def first_pass_s(world: World, terms: dict[str, dict[str, object]], location: str) -> float:
    """Return the seconds of opening a tape and of an epoch's steps, nothing of it cached."""
    with tempfile.TemporaryDirectory() as cache:
        kept, os.environ[FOLDER_VARIABLE] = os.environ[FOLDER_VARIABLE], cache
        try:
            began_s = time.perf_counter()
            with closing(Stepper(world.run(terms, location))) as stepper:
                for _ in range(EPOCH_STEPS):
                    stepper()
            return time.perf_counter() - began_s
        finally:
            os.environ[FOLDER_VARIABLE] = kept


def cold(
    world: World, terms: dict[str, dict[str, object]], places: dict[str, str]
) -> Iterator[Figure]:
    """First passes, in turns."""
    taken_s: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(FIRST_PASSES):
        for name, location in places.items():
            taken_s[name].append(first_pass_s(world, terms, location))
    files = [path for path in world.tape.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    for name in places:
        if name != "disk":
            lost_s = statistics.median(taken_s[name]) - statistics.median(taken_s["disk"])
            yield Figure(
                name=f"cold: opening and {EPOCH_STEPS} steps, {name}",
                value=1 / ratio(taken_s["disk"], taken_s[name]), unit="x the time from disk",
                note=f"{lost_s:.2f} s more, for {len(files)} files, {size:.0f} MiB",
            )  # fmt: skip


def warm(
    world: World, terms: dict[str, dict[str, object]], places: dict[str, str]
) -> Iterator[Figure]:
    """Blocks of steps, in turns, after one block each that is not measured."""
    steppers = {name: Stepper(world.run(terms, location)) for name, location in places.items()}
    clocks: dict[str, Callable[[], float]] = {
        "clock": time.perf_counter,
        "processor": time.process_time,
    }
    taken_s: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in places} for clock in clocks
    }
    for number in range(ROUNDS + 1):
        for name, stepper in steppers.items():
            began_s = {clock: now() for clock, now in clocks.items()}
            for _ in range(BLOCK):
                stepper()
            if number:
                for clock, now in clocks.items():
                    taken_s[clock][name].append(now() - began_s[clock])
    for stepper in steppers.values():
        stepper.close()
    for name in places:
        if name != "disk":
            of_processor = 1 / ratio(taken_s["processor"]["disk"], taken_s["processor"][name])
            yield Figure(
                name=f"warm: steps from {name}",
                value=1 / ratio(taken_s["clock"]["disk"], taken_s["clock"][name]),
                unit="x the time from disk", bar=WARM_BAR, at_least=False,
                note=f"{spread(taken_s['clock'], 'disk', name)}; processor {of_processor:.3f}",
            )  # fmt: skip


def measure() -> Iterator[Figure]:
    """First passes, then steps from the cache."""
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), CUDA if torch.cuda.is_available() else SMALL, SHARD_SAMPLES)
        terms: dict[str, dict[str, object]] = {"text_kl": {"weight": 1.0}, **world.hidden()}
        terms |= CE
        os.environ[FOLDER_VARIABLE] = str(Path(folder) / "cache")
        with urls(world, Path(folder)) as there:
            places = {"disk": "", **there}
            yield from cold(world, terms, places)
            for location in there.values():  # fills the cache
                with closing(Stepper(world.run(terms, location))) as stepper:
                    for _ in range(EPOCH_STEPS):
                        stepper()
            yield from warm(world, terms, places)
