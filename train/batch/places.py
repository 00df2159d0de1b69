"""The rows of a micro-batch on the tape: their traces, and where their states lie."""

from __future__ import annotations

from typing import cast

import numpy as np

from cache_schema import TapeRow
from cache_schema.errors import TapeError
from cache_schema.hidden import HiddenPlace
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import TEXT_SOURCE, IntArray, Trace
from train.alignment.translation import Translation
from train.batch.targets import Place, require_same_tokens
from train.terms.resolve import StatesAt


def row_place(row: TapeRow, trace_index: int, translation: Translation | None) -> Place:
    """Return a row: a sample and one of its traces, or ``AUDIO_ROW``."""
    if trace_index == AUDIO_ROW:
        nothing = np.empty(0, dtype=np.int64)
        return Place(row=row, trace_index=trace_index, target_ids=nothing)
    trace = cast("Trace", row.signal(f"{TEXT_SOURCE}/trace", trace_index))
    if translation is None:
        return Place(row=row, trace_index=trace_index, target_ids=trace.token_ids)
    translated = translation.trace(trace)
    assert translated is not None, "rows that cannot be translated were left out"
    return Place(
        row=row,
        trace_index=trace_index,
        target_ids=translated.target_ids,
        translated=translated,
        translation=translation,
    )


def is_translated(place: Place, states: HiddenPlace) -> bool:
    """Whether states of a row's trace are of other tokens than the student's."""
    assert states.target_ids is not None, "states of a trace have its tokens"
    return not np.array_equal(states.target_ids, place.target_ids)


def token_pairs(place: Place, states: HiddenPlace) -> tuple[IntArray, IntArray]:
    """Return which recorded states of a row belong to which of its tokens."""
    if place.translated is not None and is_translated(place, states):
        return place.translated.theirs, place.translated.ours
    same = np.arange(states.count)
    return same, same


def states_place(place: Place, where: StatesAt, layers: tuple[int, ...]) -> HiddenPlace:
    """Return where a row's states lie.

    Raises:
        TapeError: states of its trace belong to other tokens.
        TokenizerMismatchError: those of an acoustic teacher do.
        MissingSignalError: there are none.
    """
    name = f"{where.source}/hidden"
    if not where.of_trace:
        return place.row.hidden_place(name, AUDIO_ROW, layers)
    hidden = place.row.hidden_place(name, place.trace_index, layers)
    recorded = place.recorded_ids if place.translated else place.target_ids
    if where.source != TEXT_SOURCE:
        require_same_tokens(place, name, hidden.target_ids)
    elif hidden.target_ids is None or not np.array_equal(hidden.target_ids, recorded):
        raise TapeError(
            f"sample {place.row.sample_id!r}: {name} belongs to other tokens than "
            f"trace {place.trace_index}; verify the tape"
        )
    return hidden
