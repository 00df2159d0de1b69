"""Hot hidden states from the tape into the caller's memory, against memcpy and against safetensors.

One thread, page cache warm, checksums compared before. An example is a trace of 20 to 1,483 tokens
(half of them below 190); its four layers, 2,048 wide in bfloat16, go to their place in a batch's
memory, which is used again and again. memcpy is ``np.copyto`` of the same pieces from an array as
large as the tape into the same memory. The safetensors layout is that of systems which keep one
file a sample with all layers, [tokens, layers, width], named by a number; reading it is
``load_file`` or ``safe_open``, which map the file, and one copy into the same memory.

A place is found once, when a batch is planned; what that costs is a figure of its own. Times are
the thread's processor time, which other work on the machine changes least; nothing here waits.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from figures import Figure, ratio
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cache_schema import Tape, open_tape
from cache_schema.hidden import HiddenPlace
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, trace_row
from cache_schema.types import Sample, Trace
from cache_schema.writer import TapeWriter

WIDTH = 2048
LAYERS = (7, 14, 21, 28)
TAPE_BYTES = 320 << 20
SHORTEST, LONGEST = 20, 1483
ROOM_BYTES = 96 << 20
ROUNDS = 15
SIGNAL = "textual/hidden"
Layers = tuple[int, ...]


def textual(layers: Layers) -> GroupInfo:
    """Who makes the states of these layers."""
    facts = {"layers": list(layers), "width": WIDTH}
    return GroupInfo(group="textual", kind="textual", signals={"trace": {}, "hidden": facts})


def lengths(num_bytes: int, seed: int = 0) -> dict[str, int]:
    """Sample id -> tokens of its trace, log-normal, of about so many bytes together."""
    order = random.Random(seed)
    found: dict[str, int] = {}
    while sum(found.values()) * WIDTH * len(LAYERS) * 2 < num_bytes:
        count = int(min(max(order.lognormvariate(5.25, 0.9), SHORTEST), LONGEST))
        found[f"sample-{len(found):05d}"] = count
    return found


def pool() -> NDArray[np.uint16]:
    """Normal states [4096, WIDTH] as bfloat16 bits, to take rows from."""
    values = np.random.default_rng(0).standard_normal((4096, WIDTH), dtype=np.float32)
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def states_of(
    rows: NDArray[np.uint16], number: int, count: int, layers: Layers = LAYERS
) -> dict[int, NDArray[np.uint16]]:
    """Layer -> states [count, WIDTH] of one example."""
    starts = [(number * 977 + layer * 131) % (len(rows) - count) for layer in layers]
    return {layer: rows[start : start + count] for layer, start in zip(layers, starts, strict=True)}


def trace_of(count: int) -> Trace:
    ids = np.arange(count, dtype=np.int64)
    return Trace(
        text="", token_ids=ids, prompt_token_ids=ids[:1], finish_reason="stop", answer="",
        correct=None, logprob=0.0,
    )  # fmt: skip


def write_textual(
    root: Path, counts: dict[str, int], rows: NDArray[np.uint16], layers: Layers = LAYERS
) -> None:
    """Write traces and hot states, shards of the default size."""
    with TapeWriter(root, textual(layers)) as writer:
        for number, (name, count) in enumerate(counts.items()):
            trace = trace_of(count)
            place = hidden_row(name, 0, "token", (0, 0), trace.token_ids, None)
            states = states_of(rows, number, count, layers)
            writer.add({"trace": [trace_row(name, 0, trace)]}, [(place, states)])


def write_tape(root: Path, counts: dict[str, int], layers: Layers = LAYERS) -> Tape:
    """Write a tape of samples, traces and hot states; read all of it once."""
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for number, name in enumerate(counts):
            sample = Sample(sample_id=name, row_index=number, audio=None, question="?")
            writer.add(sample_rows(sample, "0" * 64, 16_000))
    write_textual(root, counts, pool(), layers)
    tape = open_tape(root)
    buffer = np.empty((LONGEST, WIDTH), dtype=np.uint16)
    for name, count in counts.items():
        for layer in layers:
            tape[name].hidden_place(SIGNAL).read_into(layer, buffer[:count])
    return tape


def write_files(root: Path, counts: dict[str, int]) -> dict[str, Path]:
    """Write one safetensors file a sample: all layers [tokens, layers, width], and ids."""
    root.mkdir()
    rows = pool()
    paths = {}
    for number, (name, count) in enumerate(counts.items()):
        states = np.stack(list(states_of(rows, number, count).values()), axis=1)
        tensors = {
            "hidden_states": torch.from_numpy(states.view(np.int16)).view(torch.bfloat16),
            "token_ids": torch.arange(count),
        }
        paths[name] = root / f"{number}.safetensors"
        save_file(tensors, paths[name])
    return paths


def measure() -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = lengths(TAPE_BYTES)
        tape = write_tape(Path(folder) / "tape", counts)
        paths = write_files(Path(folder) / "files", counts)
        os.sync()
        return _measure(tape, paths, counts)


class Room:
    """A batch's memory, filled one example after another and then anew, aligned as the loader's."""

    def __init__(self, num_bytes: int) -> None:
        self._bytes = torch.zeros(num_bytes, dtype=torch.uint8)  # 64-byte aligned, NumPy's is not
        self._words = self._bytes.numpy().view(np.uint16)
        self._used = 0

    def take(self, *shape: int) -> NDArray[np.uint16]:
        size = math.prod(shape)
        if self._used + size > len(self._words):
            self._used = 0
        self._used += size
        return self._words[self._used - size : self._used].reshape(shape)


class Source:
    """As many bytes as the tape's states, in memory."""

    def __init__(self, counts: dict[str, int]) -> None:
        total = sum(counts.values())
        self.array = Room(total * len(LAYERS) * WIDTH * 2).take(len(LAYERS), total, WIDTH)
        ends = np.cumsum(list(counts.values()))
        self._spans = {
            name: slice(end - count, end)
            for (name, count), end in zip(counts.items(), ends, strict=True)
        }

    def copy(self, name: str, number: int, out: NDArray[np.uint16]) -> None:
        np.copyto(out, self.array[number, self._spans[name]])


def copy(source: Source, counts: dict[str, int], order: list[str], room: Room) -> None:
    for name in order:
        out = room.take(len(LAYERS), counts[name], WIDTH)
        for number in range(len(LAYERS)):
            source.copy(name, number, out[number])


def find(tape: Tape, order: list[str], layers: Layers = LAYERS) -> list[HiddenPlace]:
    return [tape[name].hidden_place(SIGNAL, 0, layers) for name in order]


def read(places: list[HiddenPlace], room: Room, layers: Layers = LAYERS) -> None:
    for place in places:
        out = room.take(len(layers), place.count, WIDTH)
        for number, layer in enumerate(layers):
            place.read_into(layer, out[number])


def load_files(paths: list[Path], room: Room) -> None:
    for path in paths:
        _take(load_file(path)["hidden_states"], room)


def load_one_layer(paths: list[Path], room: Room) -> None:
    for path in paths:
        _take(load_file(path)["hidden_states"][:, :1], room)


def open_files(paths: list[Path], room: Room) -> None:
    for path in paths:
        with safe_open(path, "pt") as file:
            _take(file.get_tensor("hidden_states"), room)


def _take(states: torch.Tensor, room: Room) -> None:
    out = torch.from_numpy(room.take(*states.shape).view(np.int16))
    out.copy_(states.view(torch.int16))


def _interleaved_cpu(jobs: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Return each job's seconds of this thread, round by round, after one unmeasured round."""
    taken_s: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(ROUNDS + 1):
        for name, job in jobs.items():
            began_s = time.thread_time()
            job()
            if number:
                taken_s[name].append(time.thread_time() - began_s)
    return taken_s


def _measure(tape: Tape, paths: dict[str, Path], counts: dict[str, int]) -> list[Figure]:
    sequential = list(counts)
    shuffled = random.Random(1).sample(sequential, len(sequential))
    files = [paths[name] for name in shuffled]
    source, room = Source(counts), Room(ROOM_BYTES)
    places, places_shuffled = find(tape, sequential), find(tape, shuffled)
    taken_s = _interleaved_cpu(
        {
            "memcpy": lambda: copy(source, counts, sequential, room),
            "tape": lambda: read(places, room),
            "memcpy random": lambda: copy(source, counts, shuffled, room),
            "tape random": lambda: read(places_shuffled, room),
            "found": lambda: read(find(tape, shuffled), room),
            "finding": lambda: find(tape, shuffled),
            "load_file": lambda: load_files(files, room),
            "safe_open": lambda: open_files(files, room),
            "tape layer": lambda: read(places_shuffled, room, LAYERS[:1]),
            "load_file layer": lambda: load_one_layer(files, room),
        }
    )
    num_bytes = source.array.nbytes
    about = f"memcpy {num_bytes / statistics.median(taken_s['memcpy']) / 1e9:.1f} GB/s"
    about += f"; {len(counts)} examples, {num_bytes >> 20} MiB"
    of_memcpy, of_files = "x of memcpy", "x of safetensors"
    one = "one file a sample"
    pairs = [
        ("states, in the tape's order", "memcpy", "tape", of_memcpy, 0.9, about),
        ("states, in random order", "memcpy random", "tape random", of_memcpy, 0.9, ""),
        ("states, random, finding them too", "memcpy random", "found", of_memcpy, None, ""),
        (
            "load_file, random",
            "memcpy random",
            "load_file",
            of_memcpy,
            None,
            "1 / this is the limit of",
        ),
        (
            "states, random, against load_file",
            "load_file",
            "tape random",
            of_files,
            1.4,
            f"this; {one}",
        ),
        ("states, random, against safe_open", "safe_open", "tape random", of_files, 1.4, one),
        ("the same, finding them too", "load_file", "found", of_files, None, "against load_file"),
        ("one layer of four, random", "load_file layer", "tape layer", of_files, None, one),
    ]
    finding_us = statistics.median(taken_s["finding"]) / len(counts) * 1e6
    return [
        *(
            Figure(name=name, value=ratio(taken_s[a], taken_s[b]), unit=unit, bar=bar, note=note)
            for name, a, b, unit, bar, note in pairs
        ),
        Figure(name="finding a row's states", value=finding_us, unit="us"),
    ]
