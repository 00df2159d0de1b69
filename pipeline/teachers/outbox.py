"""A step's signals leave the device and the worker without holding up the next step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.teachers.channel import Sender

_STEPS_AHEAD = 8
"""Steps whose copies may wait: bounds pinned memory."""

_LOOK_S = 1.0
"""How often it is looked whether the thread that sends still lives."""

Fields = dict[str, Tensor]


class Outbox:
    """Packs tensors into records and sends them; from a GPU in a thread, once they are copied."""

    def __init__(self, sender: Sender, record: np.dtype[np.void], *, threaded: bool) -> None:
        """Prepare.

        Args:
            sender: where to.
            record: type of one position's record; its names are those of the tensors.
            threaded: whether tensors come from a device that copies while we go on.
        """
        self._sender = sender
        self._record = record
        self._failure: BaseException | None = None
        self._steps: queue.Queue[tuple[NDArray[np.int64], list[Fields], Any]] | None = None
        if threaded:
            self._steps = queue.Queue(_STEPS_AHEAD)
            threading.Thread(target=self._work, name="signals-send", daemon=True).start()

    def put(self, spans: NDArray[np.int64], parts: Sequence[Fields]) -> None:
        """Send what was found, in parts of consecutive positions.

        Args:
            spans: int64 [n, 3].
            parts: name -> [positions, ...] each.

        Raises:
            RuntimeError: an earlier step could not be sent.
        """
        self._check()
        if self._steps is None:
            self._send(spans, parts)
            return
        copies = [{name: _copy_to_host(tensor) for name, tensor in part.items()} for part in parts]
        copied = torch.Event()
        copied.record()
        while True:
            try:
                self._steps.put((spans, copies, copied), timeout=_LOOK_S)
            except queue.Full:
                self._check()  # a thread that has ended takes nothing any more
            else:
                return

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"signals could not be sent: {self._failure}") from self._failure

    def fail(self, why: str) -> None:
        """Say that there will be no signals, and why."""
        self._sender.fail(why)

    def _work(self) -> None:
        assert self._steps is not None
        while True:
            spans, parts, copied = self._steps.get()
            try:
                copied.synchronize()
                self._send(spans, parts)
            except Exception as error:  # noqa: BLE001 - told by the next step
                self._failure = error
                return

    def _send(self, spans: NDArray[np.int64], parts: Sequence[Fields]) -> None:
        records = np.empty(int(spans[:, 2].sum()), self._record)
        at = 0
        for part in parts:
            count = len(part["target_logprob"])
            for name, tensor in part.items():
                bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
                records[name][at : at + count] = bits.numpy()
            at += count
        self._sender.send(spans, records)


def _copy_to_host(tensor: Tensor) -> Tensor:
    """Begin a copy into pinned memory; it is there once the device's work so far is done."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
