"""Readings for a clean process to make: forked while threads read, and cut while open."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whole_tape import content

from cache_schema import open_tape
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.row import TapeRow

TABLE = "shards/samples/000/w0-000000/samples.arrow"


def record_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = open_tape(root).shards["samples"][0].record.files["samples.arrow"]
    return found


def ended_in(pid: int, timeout_s: float = 20) -> int | None:
    """Return a child's exit status, ``None`` if it had to be killed."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def child(call: Callable[[], Any]) -> int | None:
    """Fork, call a function in the child; return how the child ended."""
    if not (pid := os.fork()):
        try:
            call()
        except BaseException:  # noqa: BLE001 - told by the status
            os._exit(1)
        os._exit(0)
    return ended_in(pid)


def fork_while_held(root: str) -> list[int | None]:
    """Fork while a thread reads a row's id, while one reads a line and while one checks a file."""
    tape, row = open_tape(root), next(iter(open_tape(root)))
    record, files = record_of(Path(root)), TapeFiles(root)
    ended = []
    for hold, use in (
        (lambda wait: TapeRow(_Slow(wait), 0).sample_id, lambda: row.sample_id),  # type: ignore[arg-type]
        (lambda wait: Shard(files, wait).record, lambda: content(root)),
        (lambda wait: files.opened("held", wait), lambda: next(iter(tape)).audio),
        (lambda wait: files.local(TABLE, _Waiting(wait)), lambda: files.local(TABLE, record)),
    ):
        asked, go_on = threading.Event(), threading.Event()

        def wait(asked: threading.Event = asked, go_on: threading.Event = go_on) -> Any:
            asked.set()
            go_on.wait(60)

        def held(hold: Callable[[Any], Any] = hold, wait: Any = wait) -> None:
            with contextlib.suppress(TapeError, TypeError, AttributeError):  # it reads nonsense
                hold(wait)

        thread = threading.Thread(target=held)
        thread.start()
        assert asked.wait(20)
        ended.append(child(use))
        go_on.set()
        thread.join()
    return ended


class _Slow:
    """A tape whose catalog takes long."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._wait = wait

    @property
    def catalog(self) -> Any:
        return self._wait()


class _Waiting(dict[str, Any]):
    """A file's record that takes long."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._wait = wait

    def __missing__(self, key: str) -> Any:
        return self._wait()


def read_cut(root: str, kept: int) -> list[str]:
    """Read a tape whose tables are cut while it is open."""
    tape = open_tape(root)
    rows = list(tape)
    assert rows[0].audio.size
    (shard, *_) = tape.shards["samples"]
    for path in Path(root).rglob("*.arrow"):
        if "shards" in path.parts:
            os.truncate(path, kept)
    said = []
    for read in (
        lambda: rows[0].question,
        lambda: rows[1].audio,
        lambda: shard.row("samples", 0),
        lambda: shard.table("samples").to_pylist(),
        lambda: shard.key("samples", 0),
    ):
        try:
            read()
        except TapeError as error:
            said.append(str(error))
    return said
