from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from cache_schema.errors import TokenizerMismatchError
from cache_schema.types import Sampled
from train.batch.targets import Place, stack_sampled
from train.losses import eager
from train.losses.sampled import sampled_cross_entropy
from train.losses.vocabulary import NO_TOKEN

N, V = 3, 12


def logits(seed: int, rows: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, V, generator=generator, dtype=torch.float64) * 2


def cross_entropy(logits_NV: Tensor, ids_NU: Tensor, shares_NU: Tensor) -> Tensor:
    named = logits_NV.gather(-1, ids_NU.clamp(min=0))
    return sampled_cross_entropy(named, ids_NU, shares_NU, logits_NV.logsumexp(-1))


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value.sum(), leaf)
    return found


def test_shares_of_draws_equal_the_dense_form() -> None:
    ids = torch.tensor([[0, 4, NO_TOKEN], [2, 3, 11], [7, NO_TOKEN, NO_TOKEN]])
    shares = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).double()
    dense_NV = torch.zeros(N, V, dtype=torch.float64)
    dense_NV.scatter_add_(1, ids.clamp(min=0), shares)
    leaf = logits(1).requires_grad_()
    value = cross_entropy(leaf, ids, shares)
    expected = eager.dense_expected_cross_entropy(dense_NV, leaf)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, leaf), gradient(expected, leaf))


def test_draws_give_the_dense_kls_gradient_without_bias() -> None:
    """The mean over many draws against KL over the whole vocabulary; the error falls as 1/sqrt."""
    teacher, student = logits(0), logits(1)
    leaf = student.clone().requires_grad_()
    exact = gradient(eager.dense_forward_kl(teacher, leaf, 1.0), leaf)
    p_NV = teacher.softmax(-1)
    entropy_N = eager.dense_expected_cross_entropy(p_NV, teacher)
    generator = torch.Generator().manual_seed(2)
    repeats, draws = 4000, 8
    ids = torch.multinomial(p_NV, repeats * draws, replacement=True, generator=generator)
    ids = ids.view(N * repeats, draws)
    wide = student.repeat_interleave(repeats, 0).requires_grad_()
    # every drawn token stands alone: a share of 1/n each, repeated ids and all
    values = cross_entropy(wide, ids, torch.full(ids.shape, 1 / draws).double())
    grads = gradient(values, wide).view(N, repeats, V)
    spread = grads.std(1) / repeats**0.5
    # 36 comparisons: five standard errors of the mean are passed once in some 10^5 seeds
    assert ((grads.mean(1) - exact).abs() <= 5 * spread + 1e-12).all()
    assert (grads.std(1) > 10 * (grads.mean(1) - exact).abs()).any()
    value = values.view(N, repeats)
    kl_N = eager.dense_forward_kl(teacher, student, 1.0)
    error = (value.mean(1) - (kl_N + entropy_N)).abs()
    assert (error <= 5 * value.std(1) / repeats**0.5).all()


def test_keeping_the_most_drawn_alone_would_be_biased() -> None:
    """What the test above would see: the estimate of a top-k without its tail."""
    teacher, leaf = logits(0), logits(1).requires_grad_()
    exact = gradient(eager.dense_forward_kl(teacher, leaf, 1.0), leaf)
    kept, ids = teacher.softmax(-1).topk(3)
    renormalised = kept / kept.sum(-1, keepdim=True)
    biased = gradient(cross_entropy(leaf, ids, renormalised), leaf)
    assert (biased - exact).abs().max() > 0.01


def place_of(rows: list[list[tuple[int, int]]], targets: list[int]) -> Place:
    drawn = Sampled(
        target_ids=np.array(targets),
        token_ids=np.array([token for row in rows for token, _ in row]),
        counts=np.array([count for row in rows for _, count in row]),
        offsets=np.cumsum([0, *map(len, rows)]),
        num_draws=4,
    )
    row = SimpleNamespace(sample_id="s", signal=lambda name, trace: drawn)
    ids = np.arange(len(rows))
    return Place(row=row, trace_index=0, target_ids=ids)  # type: ignore[arg-type]


def test_rows_are_stacked_token_by_token() -> None:
    places = [place_of([[(1, 4)], [(2, 1), (9, 3)]], [0, 1]), place_of([[(3, 2), (4, 2)]], [0])]
    stacked = stack_sampled(places, "textual", lambda ids: ids != 9)
    assert stacked.token_ids.tolist() == [[1, NO_TOKEN], [2, NO_TOKEN], [3, 4]]
    assert stacked.shares.tolist() == [[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]]
    student = logits(1)
    value = cross_entropy(student, stacked.token_ids, stacked.shares.double())
    # the token the student lacks adds nothing
    assert value[1].item() == pytest.approx(-0.25 * student[1].log_softmax(-1)[2].item())


def test_draws_on_other_tokens_are_refused() -> None:
    with pytest.raises(TokenizerMismatchError, match="textual/sampled was recorded on other"):
        stack_sampled([place_of([[(1, 4)], [(2, 4)]], [5, 6])], "textual", lambda ids: ids > 0)
