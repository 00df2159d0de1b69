"""The fused losses against their reference, which computes logits twice and leaves all to autograd.

In float64 nothing is left between the two but rounding, for every term, temperature and kind of
entry. float32 sums of V terms in another order, and bfloat16's eight bits, have their own bounds.
"""

from __future__ import annotations

import pytest
import torch
from fused_problems import (
    CHUNK,
    TEACHERS,
    D,
    Find,
    K,
    N,
    Problem,
    Teacher,
    V,
    found,
    none,
    normal,
    of_divergence,
    require_equal,
    with_tokens,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from train.losses.chunked import Chunked
from train.losses.divergences import FUNCTIONS
from train.losses.fused import Fused
from train.losses.heads import GraphHead, Head, LinearHead
from train.losses.shortlist import _softmax_by_steps


@pytest.mark.parametrize("teachers", TEACHERS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_divergences(name: str, temperature: float, teachers: str) -> None:
    require_equal(with_tokens(of_divergence(TEACHERS[teachers], name, temperature)))


@pytest.mark.parametrize("beta", [0.1, 0.9])
def test_the_generalised_jensen_shannon_divergence(beta: float) -> None:
    require_equal(of_divergence(TEACHERS["two"], "jsd", 1.0, beta))


def test_tokens_alone() -> None:
    require_equal(with_tokens(Problem(teachers={}, losses=none, count=0)))


@pytest.mark.parametrize("chunk", [1, 3, N, 100])
def test_chunks(chunk: int) -> None:
    require_equal(with_tokens(of_divergence(TEACHERS["two"], "kl")), bias=True, chunk=chunk)


@pytest.mark.parametrize("v", [2**17 - 1, 2**17, 2**17 + 1, 262_144])
def test_large_vocabularies_in_float32(v: int) -> None:
    """The last ids included; sums over V of float32 differ in the order they are added in."""
    teachers = {"a": Teacher.random(64, 0, n=3, v=v), "b": Teacher.random(64, 1, n=3, v=v)}
    teachers["a"].ids[1, 0] = v - 1
    narrow = {
        name: Teacher(ids=t.ids, logprobs=t.logprobs.float(), tail=t.tail.float())
        for name, t in teachers.items()
    }
    problem = of_divergence(narrow, "kl")
    problem = with_tokens(
        Problem(teachers=narrow, losses=problem.losses, count=2, n=3, v=v, dtype=torch.float32)
    )
    require_equal(problem, chunk=2, rtol=2e-4, atol=2e-6)


def test_logits_of_minus_infinity_stay_without_gradient() -> None:
    """A class that masks padded rows of its vocabulary."""

    def masked(layer: nn.Linear) -> Head:
        hidden = torch.arange(V) >= V - 4
        return GraphHead(lambda x: layer(x).masked_fill(hidden, -torch.inf), V)

    ids = torch.arange(V - 4).expand(N, -1)
    said = normal(N, V - 4).log_softmax(-1)
    for k in (K, V - 4):
        rest = said[:, k:].exp().sum(-1)
        teacher = Teacher(ids=ids[:, :k], logprobs=said[:, :k], tail=rest)
        require_equal(of_divergence({"a": teacher}, "jsd"), masked)


def soft_capped(layer: nn.Linear) -> Head:
    return GraphHead(lambda x: 3 * torch.tanh(layer(x) / 3), V)


def test_code_behind_the_unembedding() -> None:
    problem = with_tokens(of_divergence(TEACHERS["two"], "reverse_kl"))
    require_equal(problem, soft_capped, bias=True)


def test_a_head_that_is_not_trained_still_hands_gradient_on() -> None:
    problem = with_tokens(of_divergence(TEACHERS["one"], "kl"))
    require_equal(problem, lambda layer: LinearHead(layer, trained=False), bias=True)
    require_equal(problem, lambda layer: LinearHead(layer.requires_grad_(False)), bias=True)
    require_equal(problem, lambda layer: GraphHead(layer.requires_grad_(False), V), bias=True)
    inputs, layer = problem.tensors()
    _, total = problem.run(Fused(CHUNK), inputs, LinearHead(layer, trained=False))
    total.backward()
    assert layer.weight.grad is None
    assert inputs.grad.abs().sum() > 0


def test_inputs_that_want_no_gradient_leave_the_heads() -> None:
    problem = with_tokens(of_divergence(TEACHERS["one"], "kl"))
    gradients = []
    for summing in (Chunked(CHUNK), Fused(CHUNK)):
        inputs, layer = problem.tensors()
        problem.run(summing, inputs.detach(), LinearHead(layer))[1].backward()
        gradients.append(layer.weight.grad)
    torch.testing.assert_close(*gradients)


def test_an_unembedding_with_an_adapter_trains_the_adapter() -> None:
    problem = with_tokens(of_divergence(TEACHERS["one"], "kl"))
    outcomes = []
    for summing in (Chunked(CHUNK), Fused(CHUNK)):
        inputs, layer = problem.tensors()
        model = nn.Sequential(layer)
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["0"])).double()
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.data = normal(*p.shape)
        problem.run(summing, inputs, GraphHead(adapted, V))[1].backward()
        grads = {n: p.grad for n, p in adapted.named_parameters() if p.grad is not None}
        outcomes.append({**grads, "inputs": inputs.grad})
    assert len(outcomes[0]) == 3
    assert outcomes[0].keys() == outcomes[1].keys()
    for name, each in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], each)


def test_uses_of_one_unembedding_add_up_beside_its_use_as_embedding() -> None:
    """Tied weights; the output and two lenses, one of which leaves them alone."""
    problem = with_tokens(of_divergence(TEACHERS["two"], "kl"))
    outcomes = []
    for summing in (Chunked(CHUNK), Fused(CHUNK)):
        inputs, layer = problem.tensors()
        embedded = torch.tanh(layer.weight[torch.arange(N) % V] + inputs)
        total = torch.zeros((), dtype=torch.float64)
        for factor, trained in ((1.0, True), (2.0, True), (3.0, False)):
            head = LinearHead(layer, trained)
            states = factor * embedded
            total = (
                total
                + (
                    summing.sums(states, head, problem.asked, problem.losses, problem.scale)
                    * problem.scale
                ).sum()
            )
        (0.25 * summing.attach(total)).backward()
        outcomes.append((inputs.grad, layer.weight.grad))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


def test_micro_batches_accumulate() -> None:
    problem = with_tokens(of_divergence(TEACHERS["one"], "kl"))
    inputs, layer = problem.tensors()
    for _ in range(2):
        problem.run(Fused(CHUNK), inputs, LinearHead(layer))[1].backward()
    twice = layer.weight.grad.clone(), inputs.grad.clone()
    layer.weight.grad = inputs.grad = None
    problem.run(Fused(CHUNK), inputs, LinearHead(layer))[1].backward()
    torch.testing.assert_close(twice, (2 * layer.weight.grad, 2 * inputs.grad))


def test_without_gradients_there_are_sums_only() -> None:
    problem = with_tokens(of_divergence(TEACHERS["two"], "jsd"))
    for make in (LinearHead, soft_capped):
        inputs, layer = problem.tensors()
        with torch.no_grad():
            sums_M, total = problem.run(Fused(CHUNK), inputs, make(layer))
            expected, _ = problem.run(Chunked(CHUNK), inputs, make(layer))
        assert not total.requires_grad
        torch.testing.assert_close(sums_M, expected)


def test_no_positions_cost_nothing() -> None:
    problem = Problem(
        teachers={}, losses=none, count=1, tokens={"target": torch.zeros(0, 1).long()}, n=0
    )
    inputs, layer = problem.tensors()
    sums_M, total = problem.run(Fused(CHUNK), inputs, LinearHead(layer))
    assert sums_M.tolist() == [0]
    total.backward()
    assert layer.weight.grad is None


def test_one_backward_pass_is_all_there_is() -> None:
    problem = with_tokens(of_divergence(TEACHERS["one"], "kl"))
    inputs, layer = problem.tensors()
    _, total = problem.run(Fused(CHUNK), inputs, LinearHead(layer))
    total.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="one backward pass"):
        total.backward()


def test_bfloat16_autocast_rounds_as_the_reference_does() -> None:
    """Logits and their gradients are rounded to eight bits on both ways, not at the same places."""
    teachers = {
        name: Teacher(ids=t.ids, logprobs=t.logprobs.float(), tail=t.tail.float())
        for name, t in TEACHERS["two"].items()
    }
    inner = of_divergence(teachers, "kl")
    problem = with_tokens(
        Problem(teachers=teachers, losses=inner.losses, count=2, dtype=torch.float32)
    )

    def apart(one: Find, other: Find) -> list[float]:
        pairs = zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True)
        return [float((a - b).norm() / b.norm()) for a, b in pairs]

    exact = found(problem, Chunked(CHUNK), LinearHead, True)
    for make in (LinearHead, lambda layer: GraphHead(layer, V)):
        with torch.autocast("cpu", torch.bfloat16):
            fused = found(problem, Fused(CHUNK), make, True)
            reference = found(problem, Chunked(CHUNK), make, True)
        assert all(each.dtype == torch.float32 for each in fused[1])
        assert max(apart(fused, exact)) < 2**-7
        assert max(apart(reference, exact)) < 2**-7


def test_softmax_by_steps_equals_the_kernels() -> None:
    logits = normal(N, V) * 5
    largest, expected = logits.amax(-1), logits.softmax(-1)
    _softmax_by_steps(logits, largest)
    torch.testing.assert_close(logits, expected)


class Largest(TorchDispatchMode):
    """Bytes of every storage that appears while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, int] = {}
        self._kept: list[torch.UntypedStorage] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in tree_iter(out):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self._kept.append(storage)  # so that none comes in another's place
                self.storages[storage.data_ptr()] = storage.nbytes()
        return out


def test_nothing_else_is_as_large_as_a_chunk_of_logits() -> None:
    """Of tensors that appear: one chunk of logits, one gradient of the weight."""
    v, n, chunk = 4000, 64, 32
    teacher = Teacher.random(16, 0, n=n, v=v)
    inner = of_divergence({"a": teacher}, "kl")
    problem = with_tokens(Problem(teachers={"a": teacher}, losses=inner.losses, count=1, n=n, v=v))
    inputs, layer = problem.tensors()
    with Largest() as appeared:
        _, total = problem.run(Fused(chunk), inputs, LinearHead(layer))
        total.backward()
    size = 8 * v * D
    known = {t.untyped_storage().data_ptr() for t in (layer.weight, layer.weight.grad)}
    large = [b for at, b in appeared.storages.items() if b >= size and at not in known]
    assert len(large) == 1
    assert 8 * v * chunk <= large[0] <= 8 * (v + 16) * chunk
