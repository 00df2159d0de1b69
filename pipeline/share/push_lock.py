"""One push into a URL at a time: a small file says who is at work, and is renewed while it is."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

from cache_schema.errors import OutputError
from pipeline.share.store import Store

NAME = ".push.tmp"
RENEW_S = 30.0
STALE_S = 600.0
"""A push that said nothing for so long has ended; one of this machine is asked for instead."""

SETTLE_S = 0.2
"""Two that begin at once both write, then both look whose file is there."""


class PushLock:
    """The file; ``check`` it before everything that replaces something."""

    def __init__(self, store: Store, take_over: bool) -> None:
        self._store = store
        self._id = uuid.uuid4().hex
        other = self._read()
        if other is not None and not take_over and _lives(other):
            raise OutputError(
                f"{store.location}: another push is at work there (process {other.get('pid')} on "
                f"{other.get('host')}); wait for it, or give --take-over if it has ended"
            )
        self._write()
        time.sleep(SETTLE_S)
        self.check()

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._store.read(NAME))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write(self) -> None:
        self._renewed_s = time.monotonic()
        told = {
            "id": self._id, "pid": os.getpid(), "host": socket.gethostname(), "at": time.time()
        }  # fmt: skip
        self._store.put_bytes(NAME, json.dumps(told).encode())

    def check(self) -> None:
        """See that nobody took over.

        Raises:
            OutputError: another push did.
        """
        other = self._read()
        if other is None or other.get("id") != self._id:
            who = (
                "nobody" if other is None else f"process {other.get('pid')} on {other.get('host')}"
            )
            raise OutputError(
                f"{self._store.location}: another push began there meanwhile (now at work: {who}); "
                "this one stopped, and named nothing more"
            )

    def renew(self) -> None:
        """Say that this push goes on, now and then."""
        if time.monotonic() - self._renewed_s > RENEW_S:
            self.check()
            self._write()

    def release(self) -> None:
        """Remove the file."""
        self._store.remove(NAME)


@contextlib.contextmanager
def push_lock(store: Store, *, take_over: bool) -> Iterator[PushLock | None]:
    """Hold the file; nothing where the store notices two pushes by itself.

    Raises:
        OutputError: another push is at work.
    """
    if not store.needs_lock:
        yield None
        return
    lock = PushLock(store, take_over)
    try:
        yield lock
    finally:
        with contextlib.suppress(OutputError):
            lock.check()
            lock.release()


def _lives(other: dict[str, Any]) -> bool:
    """Whether a push goes on: its process, on this machine; elsewhere whether it renews."""
    if other.get("host") == socket.gethostname() and isinstance(other.get("pid"), int):
        try:
            os.kill(other["pid"], 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            return True
        return True
    at = other.get("at")
    return not isinstance(at, int | float) or time.time() - at < STALE_S
