"""Memory that ran out, whichever allocator says so, and giving back what a failed pass left."""

from __future__ import annotations

import gc

import torch

_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",  # of cuBLAS and cuDNN
    "bad_alloc",
    "invalid buffer size",  # of MPS
)
"""Of allocators that have no error of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def free_memory() -> None:
    """Give back the memory of what nobody refers to any more: a failed pass, a model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
