"""Top-k of several rows in one batch: mass is kept whatever each row's k is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cache_schema.errors import MissingSignalError
from cache_schema.types import Lens, TopK
from train.batch.targets import Place, stack_lens, stack_topk
from train.losses.vocabulary import NO_TOKEN


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
def test_a_row_has_all_it_kept_whatever_is_beside_it(widths: tuple[int, ...]) -> None:
    places = [place_of(number, k, number + 1) for number, k in enumerate(widths)]
    stacked = stack_topk(places, "textual", lambda ids: ids != 11)
    assert stacked.token_ids.shape == (6, max(widths))
    ids, logprobs = stacked.token_ids.numpy(), stacked.logprobs.numpy()
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1) + stacked.tail.numpy(), 1, atol=1e-6)
    assert (np.isneginf(logprobs) == (ids == NO_TOKEN)).all()
    start, unknown = 0, 0.0
    for number, (place, k) in enumerate(zip(places, widths, strict=True)):
        topk = place.row.signal("textual/topk", 0)
        rows = slice(start, start + number + 1)
        known = topk.token_ids != 11
        np.testing.assert_array_equal(ids[rows, :k], np.where(known, topk.token_ids, NO_TOKEN))
        np.testing.assert_array_equal(logprobs[rows, :k], np.where(known, topk.logprobs, -np.inf))
        assert (ids[rows, k:] == NO_TOKEN).all()
        alone = stack_topk([place], "textual", lambda ids: ids != 11)
        np.testing.assert_array_equal(alone.tail, stacked.tail[rows])
        unknown += float(np.exp(topk.logprobs[~known]).sum())
        start = rows.stop
    assert stacked.unknown == pytest.approx(unknown)
    assert (unknown > 0) == (widths[1] > 1)


def lens_place(layers: tuple[int, ...]) -> Place:
    tokens = 3
    shape = (tokens, len(layers), 2)
    lens = Lens(
        target_ids=np.arange(tokens),
        layers=layers,
        token_ids=np.arange(np.prod(shape)).reshape(shape),
        logprobs=np.log(np.full(shape, 0.25, dtype=np.float32)),
        tail=np.full(shape[:2], 0.5, dtype=np.float32),
    )
    row = SimpleNamespace(sample_id="s", signal=lambda name, trace: lens)
    return Place(row=row, trace_index=0, target_ids=np.arange(tokens))  # type: ignore[arg-type]


def test_layers_of_the_lens_are_found_by_number() -> None:
    places = [lens_place((2, 4, 7)), lens_place((4, 7))]
    stacked = stack_lens(places, "textual", (4, 7), lambda ids: ids != 9)
    assert list(stacked) == [4, 7]
    assert stacked[7].token_ids[:, 0].tolist() == [4, 10, 16, 2, 6, 10]
    assert stacked[4].token_ids[:, 1].tolist() == [3, NO_TOKEN, 15, 1, 5, NO_TOKEN]
    assert stacked[4].tail.tolist() == [0.5, 0.75, 0.5, 0.5, 0.5, 0.75]


def test_a_row_without_a_layer_is_named() -> None:
    with pytest.raises(MissingSignalError, match="textual/lens has layers 4, 7, not 2"):
        stack_lens([lens_place((2, 4)), lens_place((4, 7))], "textual", (2,), lambda ids: ids >= 0)
