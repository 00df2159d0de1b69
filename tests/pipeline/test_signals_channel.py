"""Signals on their way from a worker: what goes wrong is told, and nobody waits for it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cache_schema.errors import ModelError
from pipeline.teachers.channel import Receiver, Sender

RECORD = np.dtype([("target_logprob", "<f4")])


def spans_of(row: int, first: int, count: int) -> np.ndarray:
    return np.asarray([[row, first, count]], dtype=np.int64)


def test_records_come_whatever_their_order() -> None:
    receiver = Receiver(RECORD)
    sender = Sender(*receiver.contact)
    row = receiver.expect(3, 4)
    for first, values in ((5, [2.0, 3.0]), (3, [0.0, 1.0])):
        records = np.asarray([(value,) for value in values], dtype=RECORD)
        sender.send(spans_of(row, first, 2), records)
    assert receiver.take(row, 4)["target_logprob"].tolist() == [0.0, 1.0, 2.0, 3.0]
    receiver.close()


def test_a_receiver_that_fails_says_so_and_lets_the_sender_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine that fills a socket nobody reads would never end its step."""
    receiver = Receiver(RECORD)
    sender = Sender(*receiver.contact)
    row = receiver.expect(0, 1)

    def no_room(*_: object) -> None:
        raise MemoryError("a test's")

    monkeypatch.setattr(receiver, "_store", no_room)
    large = np.zeros(1 << 20, dtype=RECORD)
    refused: list[BaseException] = []

    def send() -> None:
        try:
            for _ in range(64):
                sender.send(spans_of(row, 0, len(large)), large)
        except OSError as error:
            refused.append(error)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    with pytest.raises(ModelError, match="lost on their way: MemoryError: a test's"):
        receiver.take(row, 1)
    sending.join(20)
    assert not sending.is_alive()
    assert isinstance(refused[0], ConnectionError)
    receiver.close()
