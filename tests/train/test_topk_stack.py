"""Top-k of several rows in one batch: mass is kept whatever each row's k is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cache_schema.types import TopK
from train.targets import NO_TOKEN, Place, stack_topk


def place_of(number: int, k: int, tokens: int) -> Place:
    rng = np.random.default_rng(number)
    mass = -np.sort(-rng.dirichlet(np.ones(k + 3), tokens), axis=1)
    targets = rng.integers(0, 50, tokens)
    topk = TopK(
        target_ids=targets,
        token_ids=np.tile(np.arange(k) + 10 * number, (tokens, 1)),
        logprobs=np.log(mass[:, :k]).astype(np.float32),
        tail=mass[:, k:].sum(axis=1).astype(np.float32),
    )
    row = SimpleNamespace(sample_id=f"s{number}", signal=lambda name, trace: topk)
    return Place(row=row, trace_index=0, target_ids=targets)  # type: ignore[arg-type]


@pytest.mark.parametrize("widths", [(5, 5, 5), (5, 3, 4), (3, 5, 5), (1, 6, 2)])
def test_rows_of_different_k_meet_at_the_narrowest(widths: tuple[int, ...]) -> None:
    places = [place_of(number, k, number + 1) for number, k in enumerate(widths)]
    stacked = stack_topk(places, "textual", lambda ids: ids != 11)
    assert stacked.token_ids.shape == (6, min(widths))
    ids, logprobs = stacked.token_ids.numpy(), stacked.logprobs.numpy()
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1) + stacked.tail.numpy(), 1, atol=1e-6)
    assert (np.isneginf(logprobs) == (ids == NO_TOKEN)).all()
    start = 0
    for number, place in enumerate(places):
        topk = place.row.signal("textual/topk", 0)
        expected = topk.token_ids[:, : min(widths)].copy()
        expected[expected == 11] = NO_TOKEN
        rows = slice(start, start + number + 1)
        np.testing.assert_array_equal(ids[rows], expected)
        kept = np.where(expected == NO_TOKEN, -np.inf, topk.logprobs[:, : min(widths)])
        np.testing.assert_array_equal(logprobs[rows], kept)
        start = rows.stop
