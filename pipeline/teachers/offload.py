"""Tensors on their way from the device to host memory, while the device computes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Offload:
    """Tensors whose copies to pinned host memory have begun, on a stream of their own.

    The next forward pass runs meanwhile. On the CPU nothing is copied; on other devices than CUDA
    the copies are made at once.

    Args:
        tensors: any keys, on one device; the caller gives them up.
    """

    def __init__(self, tensors: Mapping[Any, Tensor]) -> None:
        self._done: torch.cuda.Event | None = None
        devices = {tensor.device for tensor in tensors.values()}
        if {device.type for device in devices} != {"cuda"}:
            self._host = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
            return
        (device,) = devices
        stream = _copying(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._host = {key: _pinned(tensor, stream) for key, tensor in tensors.items()}
            self._done = stream.record_event()

    def wait(self) -> dict[Any, NDArray[Any]]:
        """Return the arrays once they are there, bfloat16 as the bits in uint16."""
        if self._done is not None:
            self._done.synchronize()
        return {key: as_numpy(tensor) for key, tensor in self._host.items()}


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor of the CPU as an array, bfloat16 as the bits in uint16."""
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.numpy()


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _copying(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies are made on, one a device."""
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]


def _pinned(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor.detach(), non_blocking=True)
    tensor.record_stream(stream)  # its memory is not given to another before the copy is made
    return host


def pinned_for(device: torch.device, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the CPU in memory from which CUDA copies them without waiting."""
    if device.type != "cuda":
        return dict(tensors)
    return {key: tensor.pin_memory() for key, tensor in tensors.items()}
