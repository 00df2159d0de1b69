"""The way hidden states take from an engine's worker process to ours: a socket without a file.

A worker sends one message a step: int64 [n, 3] with (row, first position, count), then the states of
these positions, one after the other, [sum of counts, L, D]. The socket lives in Linux's abstract
namespace, so nothing is left on disk however either side dies, and only a peer that knows the key is
heard. What is sent are plain bytes: nothing is unpickled.

Shapes: T wanted positions of a row, L layers, D width.
"""

from __future__ import annotations

import secrets
import threading
from multiprocessing.connection import Client, Connection, Listener

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError

_WAIT_S = 120.0


class StatesReceiver:
    """Our end: takes in the states of the rows that are expected, in any order."""

    def __init__(self, num_layers: int, width: int, dtype: np.dtype[np.generic]) -> None:
        self._shape = (num_layers, width)
        self._dtype = dtype
        self._key = secrets.token_bytes(32)
        self._address = f"\0teachertape-{secrets.token_hex(16)}"
        self._listener = Listener(self._address, "AF_UNIX", authkey=self._key)
        self._changed = threading.Condition()
        self._states: dict[int, NDArray[np.generic]] = {}
        self._first: dict[int, int] = {}
        self._seen: dict[int, NDArray[np.bool_]] = {}
        self._failure = ""
        threading.Thread(target=self._accept, name="states-accept", daemon=True).start()

    @property
    def contact(self) -> dict[str, str]:
        """What a sender must know, as JSON values."""
        return {"address": self._address[1:], "key": self._key.hex()}

    def expect(self, row: int, first: int, count: int) -> None:
        """Make room for positions ``first`` to ``first + count`` of a row."""
        with self._changed:
            self._states[row] = np.empty((count, *self._shape), self._dtype)
            self._first[row] = first
            self._seen[row] = np.zeros(count, np.bool_)

    def take(self, row: int) -> NDArray[np.generic]:
        """Return the states of a row, [T, L, D], and forget them.

        Raises:
            ModelError: some position never came.
        """
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: bool(self._failure) or bool(self._seen[row].all()), _WAIT_S
            )
            if self._failure:
                raise ModelError(f"hidden states were lost on their way: {self._failure}")
            if not arrived:
                missing = int((~self._seen[row]).sum())
                raise ModelError(
                    f"the engine reported no hidden states for {missing} of "
                    f"{len(self._seen[row])} positions"
                )
            del self._seen[row], self._first[row]
            return self._states.pop(row)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(
                target=self._receive, args=(connection,), name="states-receive", daemon=True
            ).start()

    def _receive(self, connection: Connection) -> None:
        try:
            while True:
                spans = np.frombuffer(connection.recv_bytes(), np.int64).reshape(-1, 3)
                self._store(spans, connection.recv_bytes())
        except EOFError:
            return
        except (OSError, ValueError) as error:
            with self._changed:
                self._failure = f"{type(error).__name__}: {error}"
                self._changed.notify_all()

    def _store(self, spans: NDArray[np.int64], payload: bytes) -> None:
        states = np.frombuffer(payload, self._dtype).reshape(-1, *self._shape)
        at = 0
        with self._changed:
            for row, position, count in spans.tolist():
                if row in self._states:
                    start = position - self._first[row]
                    self._states[row][start : start + count] = states[at : at + count]
                    self._seen[row][start : start + count] = True
                at += count
            self._changed.notify_all()


class StatesSender:
    """The worker's end."""

    def __init__(self, address: str, key: str) -> None:
        self._connection = Client("\0" + address, "AF_UNIX", authkey=bytes.fromhex(key))

    def send(self, spans: NDArray[np.int64], states: NDArray[np.generic]) -> None:
        """Send states, [sum of counts, L, D], of the spans, int64 [n, 3]."""
        self._connection.send_bytes(spans.tobytes())
        self._connection.send_bytes(np.ascontiguousarray(states).reshape(-1).view(np.uint8).data)
