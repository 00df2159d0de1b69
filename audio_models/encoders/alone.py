"""Modules that hear each row of a padded batch by itself, at the row's own length.

A group norm over time (the front end of base wav2vec 2.0, HuBERT and WavLM), stacked positional
convolutions (data2vec) and convolutions inside the blocks (wav2vec 2.0 Conformer) read the padding
behind a row; the models' own masks leave them out. Only they run row by row here, all else on the
batch.

Shapes: B rows, T positions in, F positions out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, cat
from torch.nn.functional import pad


class RowsAlone:
    """Some modules of one network, which run row by row while lengths are set.

    Args:
        front: samples [B, S] -> features [B, C, F]; ``None`` to leave it as it is.
        inner: modules frames [B, F, D] -> frames [B, F, D].
    """

    def __init__(self, front: Any | None, inner: Sequence[Any]) -> None:
        self._samples: Sequence[int] | None = None
        self._frames: Sequence[int] | None = None
        if front is not None:
            together = front.forward
            front.forward = lambda values: _by_row(together, values, self._samples, time=2)
        for module in inner:
            self._install(module)

    @contextmanager
    def lengths(self, samples: Sequence[int] | None, frames: Sequence[int]) -> Iterator[None]:
        """Set the samples and frames of each row for the pass run inside."""
        self._samples, self._frames = samples, frames
        try:
            yield
        finally:
            self._samples = self._frames = None

    def _install(self, module: Any) -> None:
        together = module.forward
        module.forward = lambda states: _by_row(together, states, self._frames, time=1)


def _by_row(
    together: Callable[[Tensor], Tensor],
    inputs: Tensor,
    lengths: Sequence[int] | None,
    *,
    time: int,
) -> Tensor:
    """Run on each row's own length and join the outputs, with zeros behind the shorter ones."""
    if lengths is None:
        return together(inputs)
    rows = [together(inputs[row : row + 1, :length]) for row, length in enumerate(lengths)]
    longest = max(row.shape[time] for row in rows)
    behind = [[0, 0] * (row.ndim - 1 - time) + [0, longest - row.shape[time]] for row in rows]
    return cat([pad(row, padding) for row, padding in zip(rows, behind, strict=True)])
