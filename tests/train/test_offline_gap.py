"""What the tape's k tokens lose against the teacher in memory, on a teacher that is peaked."""

from __future__ import annotations

import statistics

import pytest
from kept_tokens import BARS, DRAWS, Pair, from_draws, from_topk, make_pair, peakedness

VOCABULARY, POSITIONS = 4096, 64


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(POSITIONS, VOCABULARY)


def test_the_teacher_is_as_peaked_as_language_models_are(pair: Pair) -> None:
    found = peakedness(pair)
    assert 0.7 < found["entropy"] < 1.3
    assert 0.7 < found["the first token"] < 0.9
    assert 0.005 < found["outside 64"] < 0.03


@pytest.mark.parametrize("name", list(BARS))
def test_the_gap_closes_with_k_and_is_within_its_bound_at_64(pair: Pair, name: str) -> None:
    """Merging buckets takes from any divergence and adds to none; the store's rounding is less."""
    gaps = [from_topk(pair, name, k) for k in (8, 32, 64, 512)]
    losses, gradients = [gap.loss for gap in gaps], [gap.gradient for gap in gaps]
    assert losses == sorted(losses, reverse=True)
    assert gradients == sorted(gradients, reverse=True)
    assert losses[-1] > -1e-3
    of_loss, of_gradient = BARS[name]
    assert losses[2] < of_loss
    assert gradients[2] < of_gradient
    assert gaps[2].cosine > 0.99
    whole = from_topk(pair, name, VOCABULARY)
    assert abs(whole.loss) < 1e-9
    assert whole.gradient < 1e-9


def test_drawn_tokens_are_right_on_average_and_noisier_each_time(pair: Pair) -> None:
    gaps = [from_draws(pair, seed=seed) for seed in range(24)]
    losses = [gap.loss for gap in gaps]
    error = statistics.stdev(losses) / len(losses) ** 0.5
    assert abs(statistics.mean(losses)) < 4 * error
    assert DRAWS == 50
    assert 0.05 < statistics.mean(gap.gradient for gap in gaps) < 0.4
    assert min(gap.cosine for gap in gaps) > 0.9
