from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cache_schema.types import TopK
from train.batch.targets import fold_topk
from train.losses import divergences, eager, states, vocabulary
from train.losses.vocabulary import NO_TOKEN
from train.terms import settings as term_settings

N, V, K = 7, 40, 6
# float32 against a reference that forms probabilities: log(p / q) loses digits where p is small
TOLERANCE = {"atol": 2e-6, "rtol": 2e-5}


def logits(seed: int, vocab: int = V, scale: float = 3.0) -> Tensor:
    return torch.randn(N, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def recorded(teacher_NV: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    kept, ids = teacher_NV.log_softmax(-1).topk(k)
    rest = teacher_NV.softmax(-1).scatter(-1, ids, 0.0).sum(-1)
    return ids, kept, rest


def student_buckets(logits_NV: Tensor, ids: Tensor) -> Tensor:
    return vocabulary.log_masses(logits_NV, ids).log_softmax(-1)


def both(function, student_NV: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student_NV.clone().requires_grad_()
    value = function(leaf)
    value.sum().backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def bucketed(divergence, teacher_NV: Tensor, k: int, temperature: float = 1.0):
    ids, kept, tail = recorded(teacher_NV, k)

    def run(student_NV: Tensor) -> Tensor:
        p = divergences.temper(vocabulary.teacher_buckets(kept, tail), temperature)
        q = divergences.temper(student_buckets(student_NV, ids), temperature)
        return divergence(p, q)

    return run


DIVERGENCES = [
    pytest.param(divergences.divergence_of(name), id=name) for name in divergences.FUNCTIONS
]
PAIRS = [
    pytest.param(divergences.divergence_of(name), dense, id=name)
    for name, dense in eager.DENSE.items()
]


def test_every_divergence_has_a_reference_and_a_term() -> None:
    """Three tables: recipes are read before torch is loaded, and references are not shipped."""
    assert tuple(eager.DENSE) == tuple(divergences.FUNCTIONS)
    assert tuple(term_settings.DIVERGENCES) == tuple(divergences.FUNCTIONS)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("fast", "dense"), PAIRS)
def test_all_tokens_kept_equals_the_dense_divergence(fast, dense, temperature: float) -> None:
    teacher, student = logits(0), logits(1)
    value, grad = both(bucketed(fast, teacher, V, temperature), student)
    expected, expected_grad = both(lambda s: dense(teacher, s, temperature), student)
    torch.testing.assert_close(value, expected, **TOLERANCE)
    torch.testing.assert_close(grad, expected_grad, **TOLERANCE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("fast", "dense"), PAIRS)
def test_with_k_equal_v_offline_equals_online_to_the_last_digits(
    fast, dense, temperature: float
) -> None:
    """In float64 nothing is left but rounding: the buckets are the vocabulary."""
    teacher, student = logits(0).double(), logits(1).double()
    value, grad = both(bucketed(fast, teacher, V, temperature), student)
    expected, expected_grad = both(lambda s: dense(teacher, s, temperature), student)
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-11)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=1e-11)


def test_a_tempered_tail_is_an_approximation_and_no_bound() -> None:
    """Its tokens together have more mass than it has as one for T > 1, less for T < 1."""
    teacher = logits(0).double()
    ids, kept, tail = recorded(teacher, K)
    p_NB = vocabulary.teacher_buckets(kept, tail)
    for temperature, more in ((2.0, 1), (0.5, -1)):
        found = divergences.temper(p_NB, temperature).exp()[:, -1]
        exact = (teacher / temperature).softmax(-1).scatter(-1, ids, 0.0).sum(-1)
        assert (more * (exact - found) > 0).all()
    gaps = []
    for seed in range(40):
        student = teacher + 0.3 * logits(seed + 1).double()
        value, _ = both(bucketed(divergences.forward_kl, teacher, K, 2.0), student)
        gaps += (value - eager.dense_forward_kl(teacher, student, 2.0)).tolist()
    assert min(gaps) < 0 < max(gaps)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_generalised_jensen_shannon_divergence(beta: float) -> None:
    teacher, student = logits(0).double(), logits(1).double()
    fast = divergences.divergence_of("jsd", beta=beta)
    value, grad = both(bucketed(fast, teacher, V), student)
    expected, expected_grad = both(
        lambda s: eager.dense_jensen_shannon(teacher, s, 1.0, beta), student
    )
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-11)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=1e-11)


def test_the_generalised_divergence_tends_to_the_forward_kl() -> None:
    teacher, student = logits(0).double(), logits(1).double()
    value, _ = both(bucketed(divergences.divergence_of("jsd", beta=1e-6), teacher, V), student)
    expected = eager.dense_forward_kl(teacher, student, 1.0)
    # the next order of beta
    torch.testing.assert_close(value / 1e-6, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", divergences.FUNCTIONS)
def test_kl_keeps_its_gradients_scale_and_the_bounded_ones_their_bounds(name: str) -> None:
    teacher, student = logits(0).double(), logits(1).double()
    value, _ = both(bucketed(divergences.divergence_of(name, 3.0), teacher, V), student)
    factor = 9.0 if name in ("kl", "reverse_kl") else 1.0
    torch.testing.assert_close(value, factor * eager.DENSE[name](teacher, student, 3.0))


def test_a_tail_recorded_as_nothing_keeps_the_reverse_kl_finite() -> None:
    leaf = logits(1).requires_grad_()
    ids = torch.tensor([[3]]).expand(N, 1)
    p = vocabulary.teacher_buckets(torch.zeros(N, 1), torch.zeros(N))
    value = divergences.reverse_kl(p, student_buckets(leaf, ids))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(leaf.grad).all()
    # to give the tail less costs less
    assert (leaf.grad[:, 3] < 0).all()


@pytest.mark.parametrize(("fast", "dense"), PAIRS)
def test_buckets_equal_explicit_buckets_and_bound_the_divergence_below(fast, dense) -> None:
    teacher, student = logits(0), logits(1)
    ids, _, _ = recorded(teacher, K)

    def explicit(student_NV: Tensor) -> Tensor:
        p = eager.dense_buckets(teacher.softmax(-1), ids).log()
        q = eager.dense_buckets(student_NV.softmax(-1), ids).log()
        return dense(p, q, 1.0)

    value, grad = both(bucketed(fast, teacher, K), student)
    expected, expected_grad = both(explicit, student)
    torch.testing.assert_close(value, expected, **TOLERANCE)
    torch.testing.assert_close(grad, expected_grad, **TOLERANCE)
    assert (value <= dense(teacher, student, 1.0) + 1e-6).all()
    assert (value >= 0).all()


@pytest.mark.parametrize("name", divergences.FUNCTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_teacher_itself_costs_nothing(name: str, temperature: float) -> None:
    teacher = logits(0)
    divergence = divergences.divergence_of(name)
    value, grad = both(bucketed(divergence, teacher, K, temperature), teacher)
    torch.testing.assert_close(value, torch.zeros(N), atol=1e-6, rtol=0)
    if name == "tv":
        return  # it has a kink there
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-6, rtol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tail_logits_get_gradient(divergence) -> None:
    teacher, student = logits(0), logits(1)
    ids, _, _ = recorded(teacher, K)
    _, grad = both(bucketed(divergence, teacher, K), student)
    in_tail = torch.ones(N, V, dtype=torch.bool).scatter(-1, ids, False)
    assert (grad[in_tail].abs() > 0).all()


def test_a_tail_too_small_for_one_minus_the_sum_keeps_its_digits() -> None:
    student = torch.full((1, V), -30.0)
    student[0, 0] = 0.0
    ids = torch.tensor([[0]])
    tail = student_buckets(student, ids)[0, -1]
    assert tail.item() == pytest.approx(math.log((V - 1) * math.exp(-30.0)), rel=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_vocabulary_with_padding_rows_puts_them_in_the_tail(divergence) -> None:
    teacher, student = logits(0), logits(1, vocab=V + 8)
    value, grad = both(bucketed(divergence, teacher, K), student)
    assert torch.isfinite(value).all()
    assert (grad[:, V:].abs() > 0).all()
    padded = torch.cat([student[:, :V], torch.full((N, 8), -1e4)], dim=-1)
    without, _ = both(bucketed(divergence, teacher, K), student[:, :V])
    torch.testing.assert_close(both(bucketed(divergence, teacher, K), padded)[0], without)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_absent_entries_make_no_nan(divergence) -> None:
    teacher = logits(0)
    ids, kept, tail = recorded(teacher, K)
    moved = tail + kept[:, -1].exp()
    ids[:, -1], kept[:, -1] = NO_TOKEN, -math.inf
    leaf = logits(1).requires_grad_()
    value = divergence(vocabulary.teacher_buckets(kept, moved), student_buckets(leaf, ids))
    value.sum().backward()
    narrow = bucketed(divergence, teacher, K - 1)
    expected, expected_grad = both(narrow, leaf.detach())
    torch.testing.assert_close(value.detach(), expected, **TOLERANCE)
    torch.testing.assert_close(leaf.grad, expected_grad, **TOLERANCE)


def test_jensen_shannon_is_bounded_and_finite_for_disjoint_distributions() -> None:
    p = torch.tensor([[0.0, -math.inf]])
    q = torch.tensor([[-math.inf, 0.0]], requires_grad=True)
    value = divergences.jensen_shannon(p, q)
    value.sum().backward()
    assert value.item() == pytest.approx(math.log(2))
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def test_cross_entropy_equals_its_reference() -> None:
    student, targets = logits(1), torch.arange(N)
    value, grad = both(
        lambda s: vocabulary.cross_entropy(s[torch.arange(N), targets], s.logsumexp(-1)), student
    )
    expected, expected_grad = both(lambda s: eager.dense_cross_entropy(s, targets), student)
    torch.testing.assert_close(value, expected, **TOLERANCE)
    torch.testing.assert_close(grad, expected_grad, **TOLERANCE)


def test_folding_moves_unknown_entries_to_the_tail() -> None:
    topk = TopK(
        target_ids=np.array([1]),
        token_ids=np.array([[1, 90, 3, 4]]),
        logprobs=np.log(np.array([[0.5, 0.2, 0.1, 0.05]], dtype=np.float32)),
        tail=np.array([0.15], dtype=np.float32),
    )
    ids, logprobs, folded = fold_topk(topk, lambda token_ids: token_ids < 50)
    np.testing.assert_array_equal(ids, [[1, NO_TOKEN, 3, 4]])
    np.testing.assert_allclose(np.exp(logprobs), [[0.5, 0.0, 0.1, 0.05]], rtol=1e-6)
    np.testing.assert_allclose(folded, [0.2], rtol=1e-6)


def test_distances_of_states() -> None:
    teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    zero = torch.zeros(2)
    torch.testing.assert_close(states.cosine_distance(2 * teacher, teacher), zero)
    torch.testing.assert_close(states.relative_mse(teacher, teacher), zero)
    torch.testing.assert_close(states.relative_mse(0 * teacher, teacher), zero + 1)
    both_distances = states.cosine_and_mse(-teacher, teacher)
    torch.testing.assert_close(both_distances, torch.tensor([6.0, 6.0]))
