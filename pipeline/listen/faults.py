"""What a model that hears breaks on: why it could not hear, and when it cannot go on at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from audio_models.memory import free_memory, is_out_of_memory
from cache_schema import TapeRow
from cache_schema.errors import AudioError, ModelError, TokenizerMismatchError, first_line

T = TypeVar("T")

OUT_OF_MEMORY = "out of memory"
MAX_BREAKS = 3
"""Recordings in a row that a model breaks on, each alone, after which it cannot go on."""

_BROKEN = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
"""What a model raises on a recording it cannot take, or when it cannot go on at all."""


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Why a batch could not be heard.

    Attributes:
        reason: a few words, the same for all of a kind.
        detail: what happened.
        is_break: the model broke; it may not be the recording's fault.
    """

    reason: str
    detail: str
    is_break: bool = False


def or_unread(action: Callable[[], T], role: str, size: str) -> T | Unread:
    """Return what an action on a batch gives, or why it could not be done.

    Args:
        action: what a model does.
        role: what the model is.
        size: of the batch, should memory run out.
    """
    try:
        return action()
    except AudioError as error:
        unread = Unread(reason="audio", detail=str(error))
    except TokenizerMismatchError as error:
        unread = Unread(reason="other token ids", detail=str(error))
    except _BROKEN as error:
        detail = f"{type(error).__name__}: {first_line(error)}"
        unread = Unread(reason=f"{role} broke", detail=detail, is_break=True)
        if is_out_of_memory(error):
            unread = Unread(reason=OUT_OF_MEMORY, detail=size)
    free_memory()  # outside the handlers: a pass's tensors live as long as its error
    return unread


def breaks_after(breaks: int, unread: Unread, row: TapeRow, title: str, role: str) -> int:
    """Return how many recordings in a row a model broke on, each alone.

    Args:
        breaks: how many before this one.
        unread: why this one could not be heard.
        row: its sample.
        title: begins what is said.
        role: what the model is.

    Raises:
        ModelError: they are ``MAX_BREAKS``.
    """
    breaks = breaks + 1 if unread.is_break else 0
    if breaks == MAX_BREAKS:
        raise ModelError(
            f"{title}: the {role} broke on {MAX_BREAKS} samples in a row, each alone, "
            f"last on {row.sample_id!r} (row {row.row_index}): {unread.detail}\n"
            f"What was heard is on the tape; mend the {role} (another dtype, device or model) "
            "and run the same command again."
        )
    return breaks
