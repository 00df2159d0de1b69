"""The folder that keeps files of remote tapes: its bound, its locks, and what goes wrong there."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import xxhash

from cache_schema.errors import OutputError, UsageError
from cache_schema.remote import cache as module
from cache_schema.remote.cache import FileCache

LIMIT = 20_000
SIZE = 1_000


def content_of(number: int, size: int = SIZE) -> bytes:
    return bytes([number % 256]) * size


def record_of(number: int, size: int = SIZE) -> dict[str, Any]:
    content = content_of(number, size)
    return {"bytes": size, "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


def bringing(number: int, diary: Path | None = None, size: int = SIZE) -> Callable[[Path], None]:
    """What fetches a file; it takes a moment, and is noted."""

    def fetch(path: Path) -> None:
        if diary is not None:
            with diary.open("a") as file:
                file.write(f"{number}\n")
        path.write_bytes(content_of(number, size // 2))
        time.sleep(0.001)
        path.write_bytes(content_of(number, size))

    return fetch


def cache_in(folder: Path, limit: int = LIMIT) -> FileCache:
    return FileCache("http://somewhere/tape", folder, limit)


def kept(folder: Path) -> int:
    """Bytes of the files, the small ones of locks aside."""
    total = 0
    for part in ("files", "parts"):
        for path in (folder / part).rglob("*-*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
    return total


def test_the_bound_holds_at_any_moment_for_any_number_of_processes(tmp_path: Path) -> None:
    """Each has a cache object of its own, as processes have; all fetch other files at once."""
    many, most = [cache_in(tmp_path) for _ in range(8)], 0

    def work(worker: int) -> None:
        nonlocal most
        for number in range(worker, 200, 4):  # pairs of workers want the same ones
            path = many[worker].take(record_of(number), bringing(number))
            with many[worker]._locked("lock"):  # nothing leaves while it is counted
                most = max(most, kept(tmp_path))
            assert path.name.endswith(f"-{SIZE}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert LIMIT // 2 < most <= LIMIT
    assert list((tmp_path / "parts").iterdir()) == []


def test_what_was_used_longest_ago_leaves_first(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 4 * SIZE + SIZE // 2)
    for number in range(4):
        cache.take(record_of(number), bringing(number))
        time.sleep(0.01)
    cache.take(record_of(0), bringing(0))
    cache.take(record_of(4), bringing(4))
    assert cache.path(record_of(0)).exists()
    assert not cache.path(record_of(1)).exists()


def _take(folder: str, diary: str, number: int) -> None:
    path = cache_in(Path(folder)).take(record_of(number), bringing(number, Path(diary)))
    assert path.read_bytes() == content_of(number)


def test_processes_fetch_a_file_once(tmp_path: Path) -> None:
    diary, fork = tmp_path / "diary", get_context("fork")
    for number in range(3):
        arguments = (str(tmp_path / "cache"), str(diary), number)
        running = [fork.Process(target=_take, args=arguments) for _ in range(4)]
        for process in running:
            process.start()
        for process in running:
            process.join()
            assert process.exitcode == 0
    assert diary.read_text().split() == ["0", "1", "2"]


def test_an_open_file_stays_readable(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 2 * SIZE)
    with cache.take(record_of(1), bringing(1)).open("rb") as file:
        for number in range(2, 6):
            cache.take(record_of(number), bringing(number))
        assert not cache.path(record_of(1)).exists()
        assert file.read() == content_of(1)


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Its half of a file counts, until it is old; what it said was taken is looked up."""
    cache = cache_in(tmp_path, 4 * SIZE)
    cache.take(record_of(0), bringing(0))
    left = tmp_path / "parts" / f"{'0' * 32}-{2 * SIZE}.{'0' * 16}"
    left.write_bytes(b"half")
    (tmp_path / "lock").write_text("rubbish")
    for number in range(1, 4):
        cache.take(record_of(number), bringing(number))
    assert kept(tmp_path) <= 2 * SIZE + 4
    assert left.exists()
    os.utime(left, (1, 1))
    for number in range(4, 9):
        cache.take(record_of(number), bringing(number))
    assert not left.exists()
    assert kept(tmp_path) >= 3 * SIZE


def test_files_that_someone_removed(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 4 * SIZE)
    for round_ in range(4):
        for number in range(3):
            cache.take(record_of(number), bringing(number))
            if round_ % 2:
                cache.path(record_of(number)).unlink()
    assert kept(tmp_path) <= 4 * SIZE


def test_a_file_larger_than_the_bound(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"TEACHERTAPE_CACHE_GB: 2e-05 GB are less than one file"):
        cache_in(tmp_path).take(record_of(1, LIMIT + 1), bringing(1, None, LIMIT + 1))
    assert kept(tmp_path) == 0
    cache_in(tmp_path).take(record_of(1, LIMIT), bringing(1, None, LIMIT))
    assert kept(tmp_path) == LIMIT


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match=r"cache: .*name a folder .* in TEACHERTAPE_CACHE"):
        cache_in(tmp_path / "cache").take(record_of(1), bringing(1))


def test_a_full_disk(tmp_path: Path) -> None:
    def no_room(path: Path) -> None:
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = cache_in(tmp_path)
    with pytest.raises(OutputError, match=r"No space left on device.*make room"):
        cache.take(record_of(1), no_room)
    assert kept(tmp_path) == 0
    assert cache.take(record_of(1), bringing(1)).read_bytes() == content_of(1)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes may then fetch one file, each into a part of its own."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    one, two = cache_in(tmp_path), cache_in(tmp_path)

    def fetch(path: Path) -> None:
        two.take(record_of(1), bringing(1))
        bringing(1)(path)

    assert one.take(record_of(1), fetch).read_bytes() == content_of(1)
    for number in range(40):
        one.take(record_of(number), bringing(number))
    assert kept(tmp_path) <= LIMIT


def test_who_stalls_with_a_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.1)
    one, two = cache_in(tmp_path), cache_in(tmp_path)

    def fetch(path: Path) -> None:
        assert two.take(record_of(1), bringing(1)).exists()
        bringing(1)(path)

    assert one.take(record_of(1), fetch).read_bytes() == content_of(1)
