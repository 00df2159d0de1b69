"""What is recorded of logits: the k largest with an exact tail, and unbiased draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.teachers.base import Sampling, Wanted
from pipeline.teachers.readout import draw_tokens, of_lens, of_logits, top_entries, uniforms
from pipeline.teachers.sampling import choose

LARGE = 262_144


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 300), st.floats(0.0, 30.0), st.data())
def test_entries_and_tail_are_the_whole_distribution(
    seed: int, vocabulary: int, scale: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, vocabulary))
    logits = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale
    ids, logprobs, tail = top_entries(logits, k)
    exact = logits.double().log_softmax(-1)
    assert ids.dtype == torch.int32
    torch.testing.assert_close(logprobs.double(), exact.gather(1, ids.long()), atol=1e-4, rtol=1e-5)
    left = exact.scatter(1, ids.long(), -torch.inf).exp().sum(-1)
    # Below 1e-37 float32 has no digits left.
    torch.testing.assert_close(tail.double(), left, atol=1e-37, rtol=1e-3)


def test_a_tiny_tail_is_exact() -> None:
    logits = torch.full((1, LARGE), -80.0)
    logits[0, 7] = 0.0
    _, _, tail = top_entries(logits, 1)
    assert float(tail) == pytest.approx((LARGE - 1) * np.exp(-80.0), rel=1e-4)
    assert float(top_entries(logits, LARGE)[2]) == 0.0


def test_entries_of_infinite_logits() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf]])
    ids, logprobs, tail = top_entries(logits, 3)
    assert ids[0, :2].tolist() == [2, 0]
    assert logprobs[0, 2] == -torch.inf
    assert float(tail) == 0.0


def test_a_target_that_is_not_known_has_no_logprob() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    targets, numbers = torch.tensor([4, -1, 0]), torch.from_numpy(uniforms(3, 0, 3))
    found = of_logits(logits, targets, numbers, Wanted(top_k=2, draws=4))
    expected = logits.log_softmax(-1)[[0, 2], [4, 0]]
    torch.testing.assert_close(found["target_logprob"][[0, 2]], expected)
    assert found["target_logprob"][1].isnan()
    assert torch.equal(found["topk_ids"], top_entries(logits, 2)[0])
    assert torch.equal(found["drawn_ids"], draw_tokens(logits, numbers, 4))
    assert set(of_logits(logits, targets, numbers, Wanted(top_k=0))) == {"target_logprob"}


def test_the_lens_has_a_place_a_layer() -> None:
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    found = of_lens(iter(logits), 4)
    for layer, of_layer in enumerate(logits):
        for value, expected in zip(found.values(), top_entries(of_layer, 4), strict=True):
            assert torch.equal(value[:, layer], expected)
    assert of_lens([], 4) == {}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-30, 5), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 60),
)
def test_a_draw_is_within_one_of_what_is_expected(
    logits: list[float], uniform: float, draws: int
) -> None:
    probabilities = torch.tensor(logits).double().softmax(-1).numpy()
    drawn = draw_tokens(torch.tensor([logits]), torch.tensor([uniform]).double(), draws)[0]
    counts = np.bincount(drawn.numpy(), minlength=len(logits))
    assert counts.sum() == draws
    assert np.abs(counts - draws * probabilities).max() < 1 + 1e-6


def test_draws_are_unbiased() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 200) * 2
    rounds, draws = 20_000, 8
    drawn = draw_tokens(logits.expand(rounds, -1), torch.from_numpy(uniforms(3, 0, rounds)), draws)
    mean = np.bincount(drawn.numpy().reshape(-1), minlength=200) / (rounds * draws)
    expected = logits.double().softmax(-1)[0].numpy()
    # A count of mean m between two whole numbers has at most the deviation 1/2.
    assert np.abs(mean - expected).max() < 5 * 0.5 / draws / np.sqrt(rounds)


def test_uniform_numbers_depend_on_seed_and_place_alone() -> None:
    whole = uniforms(5, 0, 1000)
    assert np.array_equal(whole[300:400], uniforms(5, 300, 100))
    assert ((whole >= 0) & (whole < 1)).all()
    assert not np.isin(whole, uniforms(6, 0, 1000)).any()
    assert abs(whole.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(whole[1:], whole[:-1])[0, 1]) < 0.1


def test_a_vocabulary_of_262k_is_drawn_from_to_its_end() -> None:
    logits = torch.zeros(2, LARGE)
    drawn = draw_tokens(logits, torch.tensor([0.0, 1 - 1e-12]).double(), 4)
    assert drawn[0].tolist() == [0, LARGE // 4, LARGE // 2, 3 * LARGE // 4]
    assert drawn[1, -1] == LARGE - 1


@pytest.mark.parametrize(
    "narrowed", [{}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}, {"repetition_penalty": 1.2}]
)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_that_is_no_number_holds_up_no_other(
    temperature: float, narrowed: dict[str, float]
) -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    spoilt = logits.clone()
    spoilt[1, 4] = torch.nan
    spoilt[2] = torch.nan
    sampling = Sampling(temperature=temperature, **narrowed)
    seen = torch.ones(4, 9, dtype=torch.bool) if "repetition_penalty" in narrowed else None

    def chosen(logits: torch.Tensor) -> list[int]:
        draws = [torch.Generator().manual_seed(seed) for seed in range(4)]
        return choose(logits, seen, draws, sampling).tolist()

    whole, found = chosen(logits), chosen(spoilt)
    assert (found[0], found[3]) == (whole[0], whole[3])
    assert all(0 <= token < 9 for token in found)
