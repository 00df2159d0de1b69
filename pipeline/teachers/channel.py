"""The way signals take from an engine's worker to us: a socket without a file.

A worker sends one message a step: int64 [n, 3] with (row, first position, count), then the records
of these positions, one after the other (see ``pipeline.teachers.records``). A message without spans
is a failure, in words. The socket lives in Linux's abstract namespace, so nothing is left on disk
however either side dies, and only a peer that knows the key is heard. What is sent are plain bytes:
nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError
from pipeline.teachers.records import Records

_WAIT_S = 120.0
"""A step's records are sent about when its tokens are, so they are at most a copy away."""


_CLOSING_S = 5.0
"""How long closing waits for the thread that takes in connections; it ends with us anyway."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """An expected row: its first position, room for T records, and which of the T have come."""

    first: int
    records: Records
    seen: NDArray[np.bool_]


class Receiver:
    """Our end: takes in the records of the rows that are expected, in any order."""

    def __init__(self, record: np.dtype[np.void]) -> None:
        """Listen.

        Args:
            record: type of one position's record.
        """
        self._record = record
        self._key = secrets.token_bytes(32)
        self._address = f"\0teachertape-{secrets.token_hex(16)}"
        self._listener = Listener(self._address, "AF_UNIX", authkey=self._key)
        self._changed = threading.Condition()
        self._rows: dict[int, _Row] = {}
        self._next_row = 0
        self._failure = ""
        self._closed = False
        self._connections: list[Connection] = []
        self._accepting = threading.Thread(target=self._accept, name="signals-accept", daemon=True)
        self._accepting.start()

    @property
    def contact(self) -> tuple[str, str]:
        """What a sender must know: its arguments."""
        return self._address[1:], self._key.hex()

    def expect(self, first: int, count: int) -> int:
        """Make room for positions ``first`` to ``first + count`` (exclusive); return the row."""
        records = np.empty(count, self._record)
        with self._changed:
            row = self._next_row
            self._next_row += 1
            self._rows[row] = _Row(first=first, records=records, seen=np.zeros(count, np.bool_))
        return row

    def take(self, row: int, count: int) -> Records:
        """Return the records of a row's first ``count`` expected positions, and forget the row.

        Raises:
            ModelError: some position never came, or the worker said what is wrong.
        """
        with self._changed:
            expected = self._rows[row]
            seen = expected.seen[:count]
            arrived = self._changed.wait_for(
                lambda: bool(self._failure) or bool(seen.all()), _WAIT_S
            )
            if self._failure:
                raise ModelError(self._failure)
            if not arrived or len(seen) != count:
                raise ModelError(
                    f"the engine reported signals for {int(seen.sum())} of {count} positions"
                )
            del self._rows[row]
        # A short trace must not hold the room of the longest.
        return (
            expected.records if count == len(expected.records) else expected.records[:count].copy()
        )

    def close(self) -> None:
        """Stop listening, and let the senders go."""
        self._closed = True
        # The thread is woken by another one: it may have seen that we close, and answer nobody.
        threading.Thread(target=self._wake, name="signals-wake", daemon=True).start()
        self._accepting.join(_CLOSING_S)
        self._listener.close()
        for connection in list(self._connections):
            self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        """Close a connection, once, whoever comes first."""
        with self._changed:
            ours = connection in self._connections
            if ours:
                self._connections.remove(connection)
        if ours:
            connection.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            Client(self._address, "AF_UNIX", authkey=self._key).close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except (EOFError, AuthenticationError, ConnectionError):  # a stranger, who left
                continue
            except OSError:  # closed
                return
            self._connections.append(connection)
            threading.Thread(
                target=self._receive, args=(connection,), name="signals-receive", daemon=True
            ).start()

    def _receive(self, connection: Connection) -> None:
        try:
            while True:
                spans = np.frombuffer(connection.recv_bytes(), np.int64).reshape(-1, 3)
                payload = connection.recv_bytes()
                if len(spans):
                    self._store(spans, payload)
                else:
                    self._fail(payload.decode())
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - also memory that runs out: told, or all wait
            if not self._closed:
                self._fail(f"signals were lost on their way: {type(error).__name__}: {error}")
        finally:
            self._let_go(connection)  # a sender that nobody reads would wait for ever

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failure = why
            self._changed.notify_all()

    def _store(self, spans: NDArray[np.int64], payload: bytes) -> None:
        records = np.frombuffer(payload, self._record)
        at = 0
        with self._changed:
            for number, position, count in spans.tolist():
                row = self._rows.get(number)
                if row is not None:
                    start = position - row.first
                    row.records[start : start + count] = records[at : at + count]
                    row.seen[start : start + count] = True
                at += count
            self._changed.notify_all()


class Sender:
    """The worker's end."""

    def __init__(self, address: str, key: str) -> None:
        self._connection = Client("\0" + address, "AF_UNIX", authkey=bytes.fromhex(key))

    def send(self, spans: NDArray[np.int64], records: Records) -> None:
        """Send records [sum of counts] of the spans, int64 [n, 3]."""
        self._connection.send_bytes(spans.tobytes())
        self._connection.send_bytes(records.view(np.uint8).data)

    def fail(self, why: str) -> None:
        """Say that there will be no signals, and why."""
        self._connection.send_bytes(b"")
        self._connection.send_bytes(why.encode())
