"""Loading ahead into host memory that is used again and again, by threads of this process.

```
free buffers ──> loader thread: finds rows, makes inputs ──> results ──> the training step
     ^                      └──> readers fill the buffer ───────┘              │
     └─────────────────── handed back when the next step is asked for ─────────┘
```
No queue ever blocks who fills it: the number of buffers bounds what is loaded ahead. Readers go
from one step's reads to the next one's without meeting; a step is waited for where it is taken.
Threads and not processes: reading releases the interpreter's lock, while a worker process would
have to send every byte through shared memory (measured 9 to 12 times slower).
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

READERS = 2
"""Threads that read states. On 2 cores with other work, of a memcpy by 2 threads: 1 thread 0.60 to
0.74, 2 threads 0.65 to 0.81, 4 threads 0.67 to 0.85, part of which they take from the other work.
"""

ALIGNMENT = 64
_CPU = torch.device("cpu")


class HostBuffer:
    """Memory of one step's states: filled, used, filled again; as large as its largest content.

    Args:
        device: where its content goes; for CUDA the memory is page-locked, so that copies to the
            device are asynchronous. torch then takes the next power of two of bytes, and keeps what
            was outgrown for later tensors of this process.
    """

    def __init__(self, device: torch.device = _CPU) -> None:
        self._device = device
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._readings: list[Reading] = []
        self._copied: torch.cuda.Event | None = None

    @property
    def capacity(self) -> int:
        """Bytes it occupies."""
        return len(self._memory)

    def reserve(self, sizes: Sequence[int]) -> None:
        """Forget the content and make room for tensors of so many bytes.

        What was here is freed before more is allocated: there are never two copies of a step.
        """
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        self._used = 0
        needed = sum(_aligned(size) for size in sizes)
        if needed <= self.capacity:
            return
        self._memory = torch.empty(0, dtype=torch.uint8)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._memory = torch.empty(needed, dtype=torch.uint8, pin_memory=True)
        else:
            self._memory = torch.empty(needed, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor of the reserved memory, not yet filled, valid until ``reserve``."""
        end = self._used + math.prod(shape) * dtype.itemsize
        assert end <= self.capacity, "reserve before taking"
        taken = self._memory[self._used : end].view(dtype).view(*shape)
        self._used = _aligned(end)
        return taken

    def fill(self, readers: Readers, reads: Sequence[Callable[[], None]]) -> None:
        """Begin reads into tensors taken from here; ``wait`` ends them."""
        self._readings.append(readers.start(reads))

    def wait(self) -> None:
        """Wait until everything is read.

        Raises:
            BaseException: that of the first read, in their order, that failed.
        """
        readings, self._readings = self._readings, []
        errors = [reading.wait() for reading in readings]
        for error in errors:
            if error is not None:
                raise error

    def hand_back(self) -> None:
        """Note that its last use was enqueued; ``reserve`` waits until it has happened."""
        if self._device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(self._device))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


Failed = tuple[int, BaseException]
"""Number of a read, and how it failed."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Reads under way: one future a thread, each with the read that failed in it, if one did."""

    threads: Sequence[Future[Failed | None]]

    def wait(self) -> BaseException | None:
        """Wait for the reads; return how the first that failed did, in the reads' order."""
        failed = [found for thread in self.threads if (found := thread.result()) is not None]
        return min(failed, key=lambda found: found[0])[1] if failed else None


class Readers:
    """Threads that carry out reads, one batch of reads after another; use as a context manager."""

    def __init__(self, count: int = READERS) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "reader")

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        """End the reads under way; those not begun are left."""
        self._pool.shutdown(cancel_futures=True)

    def start(self, reads: Sequence[Callable[[], None]]) -> Reading:
        """Begin reads, after those begun before."""
        left = deque(enumerate(reads))
        return Reading(threads=[self._pool.submit(_read, left) for _ in range(self._count)])


def _read(left: deque[tuple[int, Callable[[], None]]]) -> Failed | None:
    """Carry out reads until none is left; return the one that failed, and how.

    After a failure nothing new is begun. Reads before it have begun and run to their end: which
    failure comes first does not depend on the threads.
    """
    while left:
        try:
            number, read = left.popleft()
        except IndexError:  # another thread was faster
            break
        try:
            read()
        except BaseException as error:  # noqa: BLE001 - raised again where the reads are awaited
            left.clear()
            return number, error
    return None


def prefetch(
    jobs: Iterator[Callable[[HostBuffer], T]], buffers: Sequence[HostBuffer]
) -> Generator[T, None, None]:
    """Run jobs in one thread, in order, each with a buffer of its own, ahead of who takes results.

    A result is valid until the next one is asked for: its buffer is then filled anew. The thread
    computes on one core: a second team of OpenMP threads would spin against the training step's. An
    error in a job, or in a read that fills its buffer, is raised where its result is taken; leaving
    the iterator ends the thread.
    """
    results: queue.SimpleQueue[_Result[T]] = queue.SimpleQueue()
    free: queue.SimpleQueue[HostBuffer | None] = queue.SimpleQueue()
    ended = threading.Event()
    for buffer in buffers:
        free.put(buffer)

    def work() -> None:
        torch.set_num_threads(1)
        try:
            for job in jobs:
                buffer = free.get()
                if buffer is None or ended.is_set():
                    return
                results.put(_Result(value=job(buffer), buffer=buffer))
            results.put(_Result(last=True))
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            results.put(_Result(error=error))

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        while not (result := results.get()).last:
            if result.error is not None:
                raise result.error
            assert result.value is not None
            assert result.buffer is not None
            result.buffer.wait()
            yield result.value
            result.buffer.hand_back()
            free.put(result.buffer)
    finally:
        ended.set()
        free.put(None)
        thread.join()


@dataclass(frozen=True, kw_only=True)
class _Result(Generic[T]):
    value: T | None = None
    buffer: HostBuffer | None = None
    error: BaseException | None = None
    last: bool = False
