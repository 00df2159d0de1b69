"""What a teacher says of a response's tokens, as rows of the tape; of any teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.prepare import RowError
from cache_schema.rows.values import Row, hidden_row, lens_row, sampled_row, topk_row
from cache_schema.types import IntArray, Lens, Sampled, TopK
from pipeline.teachers.base import TokenSignals


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What goes on the tape of one sample.

    Attributes:
        rows: table -> rows.
        hidden: ``hidden`` rows with their states, layer -> [T, D].
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    hidden: list[tuple[Row, Mapping[int, NDArray[Any]]]] = field(default_factory=list)

    def add(self, table: str, row: Row) -> None:
        """Add one row."""
        self.rows.setdefault(table, []).append(row)


def add_signals(
    recorded: Recorded,
    sample_id: str,
    index: int,
    signals: TokenSignals,
    lens_layers: tuple[int, ...],
) -> None:
    """Add the rows of the signals of one response.

    Args:
        recorded: where to.
        sample_id: of the sample.
        index: number of the response.
        signals: of its tokens.
        lens_layers: the layers of its lens.

    Raises:
        RowError: tokens were drawn from no distribution.
    """
    target_ids = signals.target_ids
    if signals.topk is not None:
        topk = TopK(target_ids=target_ids, **vars(signals.topk))
        recorded.add("topk", topk_row(sample_id, index, topk))
    if signals.lens is not None:
        lens = Lens(target_ids=target_ids, layers=lens_layers, **vars(signals.lens))
        recorded.add("lens", lens_row(sample_id, index, lens))
    if signals.drawn_ids is not None:
        if (signals.drawn_ids < 0).any():
            raise RowError("tokens were drawn from logits that are not finite")
        drawn = counted(target_ids, signals.drawn_ids)
        recorded.add("sampled", sampled_row(sample_id, index, drawn))
    if signals.states:
        place = hidden_row(sample_id, index, "token", (0, 0), target_ids, None)
        recorded.hidden.append((place, signals.states))


def counted(target_ids: IntArray, drawn_ids: IntArray) -> Sampled:
    """Return drawn tokens as unique ids with counts.

    Args:
        target_ids: int64 [T].
        drawn_ids: int64 [T, n], ascending along n.
    """
    num_tokens, num_draws = drawn_ids.shape
    begins = np.ones(drawn_ids.shape, dtype=bool)
    begins[:, 1:] = drawn_ids[:, 1:] != drawn_ids[:, :-1]
    starts = np.append(np.flatnonzero(begins), num_tokens * num_draws)
    return Sampled(
        target_ids=target_ids,
        token_ids=drawn_ids[begins],
        counts=np.diff(starts),
        offsets=np.append(0, np.cumsum(begins.sum(axis=1))),
        num_draws=num_draws,
    )
