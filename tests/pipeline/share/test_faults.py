"""Servers that stall, reset and lie; transfers killed in the middle; a cache that is too small."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from share_servers import LOOPBACK, Faults, http_server
from test_push_and_pull import bring, send, sound
from whole_tape import content, make

from cache_schema import open_tape
from cache_schema.errors import TapeError, TransferError, UsageError
from cache_schema.remote.files import TRIES
from pipeline.share.open_store import open_store

KINDS = ["stall", "reset", "cut", "garbage", "500"]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def url(tape: Path, faults: Faults) -> Iterator[str]:
    with http_server(tape, faults) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_fails_now_and_then_gives_the_same_values(
    tape: Path, url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TEACHERTAPE_STALL_S", "0.3")
    faults.kind, faults.times = kind, 1 if kind == "stall" else 2
    if kind == "stall":
        faults.only = lambda path: "samples" in path or ("w0" in path and "/topk" in path)
    assert content(url) == content(tape)
    assert max(faults.asked.values()) > faults.times


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_fails_for_ever_is_named(
    url: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TEACHERTAPE_STALL_S", "0.2")
    faults.kind, faults.times = kind, -1
    faults.only = lambda path: path.endswith("000/trace.arrow") or "w0-000000/trace" in path
    with pytest.raises(TapeError, match=r"w0-000000/trace\.arrow") as told:
        _ = open_tape(url)["s0"].traces
    assert kind == "garbage" or isinstance(told.value, TransferError)
    with pytest.raises(TapeError, match=r"w0-000000/trace\.arrow"):
        bring(url, tmp_path / "out")
    most = 4 * TRIES  # of two readers; aiohttp itself asks again where a kept connection is cut
    assert all(count <= most for path, count in faults.asked.items() if "trace" in path)
    faults.kind = ""
    bring(url, tmp_path / "out")
    sound(tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("part", ["dataset.json", "groups/", "manifest/", "index/"])
def test_metadata_that_does_not_arrive_is_no_empty_tape(
    url: str, faults: Faults, kind: str, part: str
) -> None:
    faults.kind, faults.times, faults.only = kind, -1, lambda path: part in path
    if kind == "garbage" and part.endswith("/"):
        faults.only = lambda path: path.rstrip("/").endswith(part.rstrip("/"))
    with pytest.raises(TapeError, match=part.rstrip("/")):
        _ = open_tape(url)


def test_facts_that_do_not_arrive_are_no_absence(tape: Path, url: str, faults: Faults) -> None:
    """Neither HEAD nor GET: fsspec says of any failure of both that there is no such file."""
    faults.kind, faults.times, faults.heads = "500", 1, True
    faults.only = lambda path: path.endswith("dataset.json")
    assert content(url) == content(tape)
    assert faults.asked["HEAD /dataset.json"] > 1
    faults.times = -1
    with pytest.raises(TransferError, match=r"dataset\.json: ClientResponseError: 503"):
        open_tape(url)


@pytest.mark.parametrize("part", ["dataset.json", "manifest/w0.jsonl", "/topk.arrow"])
def test_a_server_that_never_stops_sending(
    url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str
) -> None:
    """No more is taken than there can be: neither the memory nor the disk fills up."""
    monkeypatch.setattr("cache_schema.remote.files.MAX_CONTENT", 1 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    faults.kind, faults.times, faults.only = "endless", -1, lambda path: path.endswith(part)
    largest = 0

    def sent(count: int) -> None:
        nonlocal largest
        for path in tmp_path.rglob("*"):
            with suppress(FileNotFoundError):
                largest = max(largest, path.stat().st_size)

    monkeypatch.setattr(faults, "sent", sent)
    with pytest.raises(TapeError, match=part):
        _ = open_tape(url)["s0"].signal("textual/topk", 0)
    assert largest < 32 << 20


def test_an_s3_server_that_is_silent_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tries of the client's own would multiply with ours: 125 of them, of a minute each."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{LOOPBACK}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("TEACHERTAPE_STALL_S", "0.2")
        began_s = time.monotonic()
        with pytest.raises(TransferError, match=f"tried {TRIES} times"):
            open_tape("s3://silent/tape")
        assert time.monotonic() - began_s < 15


def test_wrong_settings_are_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEACHERTAPE_STALL_S", "TEACHERTAPE_CACHE_GB"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "-1")
            with pytest.raises(UsageError, match=f"{name}='-1'"):
                open_tape(url)
    with pytest.raises(UsageError, match="nowhere"):
        open_tape("nowhere://tape")
    with pytest.raises(TapeError, match="no tape here"):
        open_tape(url + "/gone")


def _read(url: str) -> dict[str, object]:
    return content(url)


def test_a_small_cache_stays_small_for_several_processes(
    tmp_path: Path, tape: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 20_000  # the tape has three times as much
    monkeypatch.setenv("TEACHERTAPE_CACHE_GB", str(limit / 1e9))
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        found = list(pool.map(_read, [url] * 3))
    assert found == [content(tape)] * 3
    kept = [path for path in (tmp_path / "remote-files/files").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in kept) <= limit
    assert list((tmp_path / "remote-files/parts").iterdir()) == []


def test_a_second_run_asks_for_no_file_again(tape: Path, url: str, faults: Faults) -> None:
    first = content(url)
    before = faults.asked.copy()
    assert content(url) == first
    assert [
        path for path, n in faults.asked.items() if "shards/" in path and n > before[path]
    ] == []


def test_a_cached_file_that_was_damaged_is_fetched_again(
    tape: Path, url: str, tmp_path: Path
) -> None:
    first = content(url)
    for path in (tmp_path / "remote-files/files").rglob("*-*"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert content(url) == first


def _killed(arguments: list[str], ready: Callable[[], bool]) -> None:
    """Start a command and kill it when something has happened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until_s = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < until_s:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_pull_is_continued(tape: Path, url: str, faults: Faults, tmp_path: Path) -> None:
    out, faults.pause_s = tmp_path / "out", 0.05
    _killed(
        ["pull", url, str(out), "--jobs", "2"],
        lambda: sum("shards/" in path for path in faults.served) > 20,
    )
    faults.pause_s = 0.0
    at_once = open_tape(out)
    assert all(row.sample_id for row in at_once)
    before = faults.served.copy()
    plan = bring(url, out)
    assert plan.kept > 0
    again = [path for path in before if "shards/" in path and faults.served[path] > before[path]]
    assert len(again) <= 4  # those that were on their way
    sound(out)
    assert content(out) == content(tape)


def test_a_killed_push_is_continued(tmp_path: Path, s3: str) -> None:
    tape, url = make(tmp_path / "tape", indexes=range(12)), f"{s3}/tape"
    store = open_store(url)
    _killed(
        ["push", str(tape), url, "--jobs", "2"],
        lambda: sum(name.startswith("shards/") for name in store.listing()) > 15,
    )
    there = store.listing()
    assert "dataset.json" not in there
    with pytest.raises(TapeError, match="no tape here"):
        open_tape(url)
    plan = send(tape, url)
    assert plan.kept > 0
    assert plan.files < len(plan.sent)
    assert content(url) == content(tape)
