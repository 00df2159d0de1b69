from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from cache_schema.errors import TapeError
from train.steps.ring import HostBuffer, Readers, prefetch


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(("loader", "reader"))]


def fail(*_: object) -> int:
    raise TapeError("broken shard")


def give(value: int) -> Callable[[HostBuffer], int]:
    return lambda _: value


def buffers(count: int = 2) -> list[HostBuffer]:
    return [HostBuffer() for _ in range(count)]


def test_results_keep_their_order_and_the_thread_ends() -> None:
    assert list(prefetch(iter([give(1), give(2), give(3)]), buffers())) == [1, 2, 3]
    assert list(prefetch(iter([give(n) for n in range(50)]), buffers(1))) == list(range(50))
    assert not loader_threads()


def test_an_error_is_raised_where_its_result_is_taken() -> None:
    results = prefetch(iter([give(1), fail, give(3)]), buffers(3))
    assert next(results) == 1
    with pytest.raises(TapeError, match="broken shard"):
        next(results)
    assert not loader_threads()

    def jobs():
        yield give(1)
        raise TapeError("no plan")

    results = prefetch(jobs(), buffers())
    assert next(results) == 1
    with pytest.raises(TapeError, match="no plan"):
        next(results)


def test_who_stops_early_is_not_waited_for() -> None:
    endless = prefetch((give(1) for _ in iter(int, 1)), buffers())
    assert next(endless) == 1
    endless.close()
    never_begun = prefetch((give(1) for _ in iter(int, 1)), buffers())
    never_begun.close()
    assert not loader_threads()


def test_no_more_is_loaded_ahead_than_there_are_buffers() -> None:
    begun: list[int] = []

    def job(number: int) -> Callable[[HostBuffer], int]:
        def run(_: HostBuffer) -> int:
            begun.append(number)
            return number

        return run

    results = prefetch((job(number) for number in range(100)), buffers(3))
    for expected in range(4):
        assert next(results) == expected
    time.sleep(0.05)
    assert len(begun) <= 4 + 2
    results.close()


def test_a_result_stays_as_it_is_until_the_next_is_asked_for() -> None:
    def job(number: int) -> Callable[[HostBuffer], torch.Tensor]:
        def run(buffer: HostBuffer) -> torch.Tensor:
            buffer.reserve([4 * (1 + number % 7)])
            return buffer.take((1 + number % 7,), torch.float32).fill_(number)

        return run

    kept = buffers(2)
    for expected, taken in enumerate(prefetch((job(n) for n in range(60)), kept)):
        time.sleep(0.0005)
        assert (taken == expected).all()
    assert sum(buffer.capacity for buffer in kept) <= 2 * 64


def test_a_buffer_grows_to_what_it_holds_and_is_used_again() -> None:
    buffer = HostBuffer()
    buffer.reserve([100, 60])
    first = buffer.take((5, 10), torch.bfloat16)
    second = buffer.take((15,), torch.float32)
    assert buffer.capacity == 128 + 64
    assert (first.shape, second.shape) == ((5, 10), (15,))
    address = first.data_ptr()
    buffer.reserve([8, 0])
    assert buffer.take((2, 2), torch.float16).data_ptr() == address
    assert buffer.take((3, 0), torch.float32).shape == (3, 0)
    buffer.reserve([1000])
    assert buffer.capacity == 1024
    with pytest.raises(AssertionError, match="reserve"):
        buffer.take((2000,), torch.uint8)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_readers_do_all_of_it_and_name_the_first_failure(count: int) -> None:
    done: list[int] = []

    def read(number: int) -> None:
        if number % 10 == 3:
            time.sleep(0.002 if number == 3 else 0)
            raise TapeError(f"read {number}")

    buffer = HostBuffer()
    with Readers(count) as readers:
        for start in (0, 50):
            buffer.fill(readers, [lambda n=n: done.append(n) for n in range(start, start + 50)])
        buffer.fill(readers, [])
        buffer.wait()
        assert sorted(done) == list(range(100))
        for _ in range(5):
            buffer.fill(readers, [lambda n=n: read(n) for n in range(100)])
            buffer.fill(readers, [lambda n=n: read(n) for n in range(10, 100)])
            with pytest.raises(TapeError, match=r"read 3$"):
                buffer.wait()
        buffer.wait()
    assert not loader_threads()


def test_a_read_that_fails_is_raised_where_its_step_is_taken() -> None:
    with Readers(2) as readers:

        def job(number: int) -> Callable[[HostBuffer], int]:
            def run(buffer: HostBuffer) -> int:
                buffer.fill(readers, [fail if number == 2 else lambda: time.sleep(0.001)] * 9)
                return number

            return run

        results = prefetch((job(number) for number in range(9)), buffers(3))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(TapeError, match="broken shard"):
            next(results)
    assert not loader_threads()


def test_no_reader_outlives_an_error_or_a_consumer_that_stops() -> None:
    running: list[int] = []

    def read() -> None:
        running.append(1)
        time.sleep(0.005)
        running.pop()

    def job(buffer: HostBuffer) -> int:
        buffer.fill(readers, [read] * 4)
        return 1

    def late(buffer: HostBuffer) -> int:
        buffer.fill(readers, [read] * 20)
        raise TapeError("no audio")

    with Readers(2) as readers:
        results = prefetch(iter([job, late]), buffers(2))
        assert next(results) == 1
        with pytest.raises(TapeError, match="no audio"):
            next(results)
    assert not running
    with Readers(2) as readers:
        endless = prefetch((job for _ in iter(int, 1)), buffers(3))
        assert next(endless) == 1
        endless.close()
    assert not running
    assert not loader_threads()
