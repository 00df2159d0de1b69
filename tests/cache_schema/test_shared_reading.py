"""A tape read by threads, forked children and workers at once, and one that is cut or linked."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from forked_reading import TABLE, record_of
from forks import Ended, Forks
from whole_tape import content, make

from cache_schema import open_tape, takeover
from cache_schema.codecs.files import write_exclusive
from cache_schema.committed import Shard
from cache_schema.errors import OutputError, TapeError
from cache_schema.files import TapeFiles

THREADS = 4
UNLOCKED = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]
UNLINKED = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("whole_tape", "forked_reading", "pandas") as made:
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("shared") / "tape", groups=("samples",))


@pytest.fixture
def remote(whole: Path) -> Iterator[str]:
    yield upload(whole, "shared")
    fsspec.filesystem("memory").rm("/shared", recursive=True)


def upload(root: Path, name: str) -> str:
    fsspec.filesystem("memory").put(str(root), f"/{name}", recursive=True)
    return f"memory://{name}"


def together(call: Callable[[], Any]) -> list[Any]:
    """Call a function in several threads at the same moment."""
    start = threading.Barrier(THREADS)

    def one(_: int) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def test_threads_fetch_a_remote_file_once(
    whole: Path, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHERTAPE_CACHE", str(tmp_path))
    record, files = record_of(whole), TapeFiles(remote)
    calls = []

    def slowly(_remote: str, local: str, **_: Any) -> None:
        calls.append(local)
        data = (whole / TABLE).read_bytes()
        with Path(local).open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(0.1)
            file.write(data[len(data) // 2 :])

    monkeypatch.setattr(files._remote.fs, "get_file", slowly)
    paths = together(lambda: files.local(TABLE, record))
    assert {path.read_bytes() for path in paths} == {(whole / TABLE).read_bytes()}
    assert len(calls) == 1
    assert [path.name for path in paths[0].parent.iterdir()] == [paths[0].name]
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_damaged_download_is_not_kept(
    whole: Path, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHERTAPE_CACHE", str(tmp_path))
    monkeypatch.setattr("cache_schema.remote.files.PAUSE_S", 0.01)
    record, files = record_of(whole), TapeFiles(remote)
    with monkeypatch.context() as patch:
        patch.setattr(
            files._remote.fs, "get_file", lambda _, local, **__: Path(local).write_bytes(b"short")
        )
        with pytest.raises(TapeError, match="has 5 bytes"):
            files.local(TABLE, record)
    assert [path for path in tmp_path.rglob("*-*") if path.is_file()] == []
    assert files.local(TABLE, record).read_bytes() == (whole / TABLE).read_bytes()


def test_threads_hash_a_local_file_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_schema.remote import files as module

    record, files = record_of(whole), TapeFiles(str(whole))
    real, calls = module.checksum, []

    def slowly(path: Path) -> str:
        calls.append(path)
        time.sleep(0.05)
        return real(path)

    monkeypatch.setattr(module, "checksum", slowly)
    assert set(together(lambda: files.local(TABLE, record))) == {whole / TABLE}
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["gone", "shards/gone.arrow"])
def test_a_missing_remote_file_is_named(whole: Path, remote: str, name: str) -> None:
    files = TapeFiles(remote)
    for read in (files.read, files.content, lambda name: files.local(name, record_of(whole))):
        with pytest.raises(TapeError, match=f"{name} is missing"):
            read(name)
    with pytest.raises(FileNotFoundError):
        files.size(name)


def test_first_touches_do_not_wait_for_each_other(whole: Path) -> None:
    """One shard's line takes long to read; another's is read meanwhile."""
    record = open_tape(whole).shards["samples"][0].record
    files, asked, go_on = TapeFiles(str(whole)), threading.Event(), threading.Event()

    def slowly() -> Any:
        asked.set()
        assert go_on.wait(20)
        return record

    with ThreadPoolExecutor(2) as pool:
        try:
            slow = pool.submit(lambda: Shard(files, slowly).record)
            assert asked.wait(20)
            assert pool.submit(lambda: Shard(files, lambda: record).record).result(5) == record
        finally:
            go_on.set()
        assert slow.result(20) == record


def test_a_child_forked_while_threads_read_reads(forks: Forks, whole: Path) -> None:
    ended = forks.run("forked_reading:fork_while_held", str(whole), timeout_s=110)
    assert (ended.value, ended.trace) == ([0, 0, 0, 0], "")


@pytest.mark.parametrize("kept", [0, 5])
def test_a_table_cut_while_open_is_named(forks: Forks, tmp_path: Path, kept: int) -> None:
    root = make(tmp_path / "tape", groups=("samples",))
    ended: Ended = forks.run("forked_reading:read_cut", str(root), kept)
    assert (ended.status, ended.trace) == (0, "")
    assert len(ended.value) == 5
    assert all("was cut while open" in said for said in ended.value)


def test_pickled_files_and_rows_are_found_again(whole: Path, remote: str) -> None:
    for location in (str(whole), remote):
        files = TapeFiles(location)
        again = ForkingPickler.loads(ForkingPickler.dumps(files))
        assert again.location == location
        assert again.read("dataset.json") == files.read("dataset.json")
    row = open_tape(whole)["s1"]
    find, where = row.__reduce__()
    assert find(*where).sample_id == "s1"


@pytest.mark.parametrize("number", UNLOCKED)
def test_without_locks_a_tape_can_be_read_only(
    whole: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no)
    held = whole / "manifest/w0.lock"
    assert held.exists()
    assert not takeover.is_held(held)
    with pytest.raises(TapeError, match="this file system has no locks"):
        takeover.lock(held)
    assert len(content(whole)["rows"]) == 3


@pytest.mark.parametrize("number", UNLINKED)
def test_without_hard_links_a_file_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no)
    with pytest.raises(OutputError, match="no hard links"):
        write_exclusive(tmp_path / "groups/samples.json", b"{}", "w0")
    assert [path.name for path in tmp_path.rglob("*")] == ["groups"]


@pytest.mark.parametrize(
    "linked",
    ["shards", "shards/descriptions", "shards/descriptions/000", "manifest", "manifest/w0.jsonl"],
)
def test_recovery_refuses_links(tmp_path: Path, linked: str) -> None:
    root, outside = tmp_path / "tape", tmp_path / "outside"
    for name in ("w0-thesis", "000/w0-thesis", "descriptions/000/w0-thesis"):
        (outside / name).mkdir(parents=True)
        (outside / name / "text").write_text("precious")
    (outside / "w0.jsonl").write_text("cut line")
    before = sorted(outside.rglob("*"))
    (root / linked).parent.mkdir(parents=True)
    target = outside / "w0.jsonl" if linked.endswith(".jsonl") else outside
    (root / linked).symlink_to(target)
    leftover = root / "shards/descriptions/.w0-000000"
    if "shards" not in (linked, Path(linked).parent.name):
        leftover.mkdir(parents=True, exist_ok=True)
    with pytest.raises(TapeError, match=f"{linked} is a link"):
        takeover.recover(root, "descriptions", "w0")
    assert sorted(outside.rglob("*")) == before
    assert (outside / "w0.jsonl").read_text() == "cut line"
    assert leftover.exists() == ("shards" not in (linked, Path(linked).parent.name))


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "tape", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "manifest").symlink_to(outside)
    with pytest.raises(TapeError, match="manifest is a link"):
        takeover.lock(root / "manifest/w0.lock")
    assert list(outside.iterdir()) == []


def test_a_tape_may_be_reached_through_a_link(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole)
    takeover.refuse_links(tmp_path / "link", TABLE, "shards/not/there")
