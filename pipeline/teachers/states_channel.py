"""The way hidden states take from an engine's worker to us: a socket without a file.

A worker sends one message a step: int64 [n, 3] with (row, first position, count), then the states
of these positions, one after the other, [sum of counts, L, D]. The socket lives in Linux's abstract
namespace, so nothing is left on disk however either side dies, and only a peer that knows the key
is heard. What is sent are plain bytes: nothing is unpickled.

Shapes: T wanted positions of a row, L layers, D width.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError

_WAIT_S = 120.0
"""A step's states are sent before its tokens are, so they are at most a copy away."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """An expected row: its first position, room for [T, L, D], and which of the T have come."""

    first: int
    states: NDArray[np.generic]
    seen: NDArray[np.bool_]


class StatesReceiver:
    """Our end: takes in the states of the rows that are expected, in any order."""

    def __init__(self, layers: Sequence[int], width: int, dtype: np.dtype[np.generic]) -> None:
        """Listen.

        Args:
            layers: the layers a sender reports, in its order.
            width: D.
            dtype: of the states; uint16 for the bits of bfloat16.
        """
        self._layers = tuple(layers)
        self._shape = (len(layers), width)
        self._dtype = dtype
        self._key = secrets.token_bytes(32)
        self._address = f"\0teachertape-{secrets.token_hex(16)}"
        self._listener = Listener(self._address, "AF_UNIX", authkey=self._key)
        self._changed = threading.Condition()
        self._rows: dict[int, _Row] = {}
        self._next_row = 0
        self._failure = ""
        threading.Thread(target=self._accept, name="states-accept", daemon=True).start()

    @property
    def contact(self) -> tuple[str, str, int]:
        """What a sender must know: its arguments."""
        return self._address[1:], self._key.hex(), os.getpid()

    def expect(self, first: int, count: int) -> int:
        """Make room for positions ``first`` to ``first + count`` (exclusive); return the row."""
        states = np.empty((count, *self._shape), self._dtype)
        with self._changed:
            row = self._next_row
            self._next_row += 1
            self._rows[row] = _Row(first=first, states=states, seen=np.zeros(count, np.bool_))
        return row

    def take(self, row: int, count: int, layers: Sequence[int]) -> dict[int, NDArray[np.generic]]:
        """Return the states of a row's first ``count`` expected positions, and forget the row.

        Returns:
            layer -> [count, D].

        Raises:
            ModelError: some position never came.
        """
        with self._changed:
            expected = self._rows[row]
            seen = expected.seen[:count]
            arrived = self._changed.wait_for(
                lambda: bool(self._failure) or bool(seen.all()), _WAIT_S
            )
            if self._failure:
                raise ModelError(f"hidden states were lost on their way: {self._failure}")
            if not arrived or len(seen) != count:
                raise ModelError(
                    f"the engine reported hidden states for {int(seen.sum())} of {count} positions"
                )
            del self._rows[row]
        return {layer: expected.states[:count, self._layers.index(layer)] for layer in layers}

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
            for number, position, count in spans.tolist():
                row = self._rows.get(number)
                if row is not None:
                    start = position - row.first
                    row.states[start : start + count] = states[at : at + count]
                    row.seen[start : start + count] = True
                at += count
            self._changed.notify_all()


class StatesSender:
    """The worker's end."""

    def __init__(self, address: str, key: str, receiver_pid: int) -> None:
        self._connection = Client("\0" + address, "AF_UNIX", authkey=bytes.fromhex(key))
        if os.getpid() != receiver_pid:
            threading.Thread(target=self._outlive_nobody, name="states-watch", daemon=True).start()

    def _outlive_nobody(self) -> None:
        """End this process when the receiver's does.

        vLLM's engine does not notice that the process it serves was killed, and would hold its GPU
        for ever.
        """
        try:
            self._connection.recv_bytes()  # the receiver never sends: this waits for its end
        except (EOFError, OSError):
            os._exit(1)

    def send(self, spans: NDArray[np.int64], states: NDArray[np.generic]) -> None:
        """Send states, [sum of counts, L, D], of the spans, int64 [n, 3]."""
        self._connection.send_bytes(spans.tobytes())
        self._connection.send_bytes(np.ascontiguousarray(states).reshape(-1).view(np.uint8).data)
