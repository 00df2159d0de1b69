"""Small problems for the fused losses and their reference, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from train.losses import vocabulary
from train.losses.asked import Asked, Seen
from train.losses.chunked import Chunked
from train.losses.divergences import divergence_of
from train.losses.fused import Fused
from train.losses.heads import Head, LinearHead
from train.losses.sampled import sampled_cross_entropy
from train.losses.vocabulary import NO_TOKEN

N, D, V, K = 11, 6, 37, 5
CHUNK = 4
Find = tuple[list[Tensor], list[Tensor]]
"""Values, and gradients."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """k kept tokens of N positions, some of them none, some tails recorded as nothing."""

    ids: Tensor
    logprobs: Tensor
    tail: Tensor

    @classmethod
    def random(cls, k: int, seed: int, n: int = N, v: int = V, absent: bool = True) -> Teacher:
        said = 2 * normal(n, v, seed=seed)
        logprobs, ids = said.log_softmax(-1).topk(k)
        tail = said.softmax(-1).scatter(-1, ids, 0.0).sum(-1)
        if absent:
            gone = torch.rand(n, k, generator=generator(seed)) < 0.3
            gone[0], gone[1] = True, False
            tail = tail + logprobs.exp().masked_fill(~gone, 0).sum(-1)
            ids, logprobs = ids.masked_fill(gone, NO_TOKEN), logprobs.masked_fill(gone, -torch.inf)
            tail[2] = 0.0
        return cls(ids=ids, logprobs=logprobs, tail=tail)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Losses of some teachers, by name, and an unembedding."""

    teachers: dict[str, Teacher]
    losses: Callable[[Seen, slice], Tensor]
    count: int
    tokens: dict[str, Tensor] = field(default_factory=dict)
    n: int = N
    v: int = V
    dtype: torch.dtype = torch.float64

    @property
    def asked(self) -> Asked:
        return Asked(buckets={n: t.ids for n, t in self.teachers.items()}, tokens=self.tokens)

    @property
    def scale(self) -> Tensor:
        return torch.linspace(0.3, 1.7, self.count, dtype=self.dtype)

    def tensors(self, bias: bool = False) -> tuple[Tensor, nn.Linear]:
        layer = nn.Linear(D, self.v, bias=bias).to(self.dtype)
        layer.weight.data = 1.5 * normal(self.v, D, seed=8, dtype=self.dtype)
        if bias:
            layer.bias.data = normal(self.v, seed=9, dtype=self.dtype)
        return normal(self.n, D, seed=7, dtype=self.dtype).requires_grad_(), layer

    def run(self, summing: Chunked | Fused, inputs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return the sums and the weighted total, which has the gradient."""
        sums_M = summing.sums(inputs, head, self.asked, self.losses, self.scale)
        return sums_M, summing.attach((sums_M * self.scale).sum())


def of_divergence(teachers: dict[str, Teacher], name: str, *settings: float) -> Problem:
    divergence = divergence_of(name, *settings)

    def losses(seen: Seen, where: slice) -> Tensor:
        return torch.stack(
            [
                divergence(
                    vocabulary.teacher_buckets(teacher.logprobs[where], teacher.tail[where]),
                    seen.log_masses[source] - seen.log_total_N[:, None],
                ).sum()
                for source, teacher in teachers.items()
            ]
        )

    return Problem(teachers=teachers, losses=losses, count=len(teachers))


def with_tokens(problem: Problem) -> Problem:
    """Return the problem with a cross-entropy and one over drawn tokens beside its losses."""
    n, v = problem.n, problem.v
    targets = torch.randint(v, (n, 1), generator=generator(3))
    drawn = torch.randint(v, (n, 3), generator=generator(4))
    drawn[:, 1:] = drawn[:, 1:].masked_fill(drawn[:, 1:] % 3 == 0, NO_TOKEN)
    targets[1] = max(0, *(int(t.ids[1, 0]) for t in problem.teachers.values()), 0)
    shares = torch.rand(n, 3, generator=generator(5), dtype=problem.dtype)

    def losses(seen: Seen, where: slice) -> Tensor:
        more = [
            vocabulary.cross_entropy(seen.logits["target"][:, 0], seen.log_total_N).sum(),
            sampled_cross_entropy(
                seen.logits["drawn"], drawn[where], shares[where], seen.log_total_N
            ).sum(),
        ]
        own = [problem.losses(seen, where)] if problem.count else []
        return torch.cat([*own, torch.stack(more)])

    return Problem(
        teachers=problem.teachers, losses=losses, count=problem.count + 2,
        tokens={"target": targets, "drawn": drawn}, n=n, v=v, dtype=problem.dtype,
    )  # fmt: skip


def none(_seen: Seen, _where: slice) -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


def found(
    problem: Problem, summing: Chunked | Fused, make: Callable[[nn.Linear], Head], bias: bool
) -> Find:
    inputs, layer = problem.tensors(bias)
    sums_M, total = problem.run(summing, inputs, make(layer))
    total.backward()
    gradients = [inputs.grad, *(p.grad for p in layer.parameters())]
    return [sums_M.detach(), total.detach()], [each for each in gradients if each is not None]


def require_equal(
    problem: Problem,
    make: Callable[[nn.Linear], Head] = LinearHead,
    bias: bool = False,
    chunk: int = CHUNK,
    **tolerance: float,
) -> None:
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-12}
    expected = found(problem, Chunked(chunk), make, bias)
    fused = found(problem, Fused(chunk), make, bias)
    for one, other in zip(fused, expected, strict=True):
        for value, reference in zip(one, other, strict=True):
            assert torch.isfinite(value).all()
            torch.testing.assert_close(value, reference, **tolerance)


TEACHERS = {
    "one": {"a": Teacher.random(K, 0)},
    "two": {"a": Teacher.random(K, 0), "b": Teacher.random(K + 3, 1)},
    "alike": {"a": Teacher.random(K, 0), "b": Teacher.random(K, 0), "c": Teacher.random(2, 0)},
    "all kept": {"a": Teacher.random(V, 0, absent=False)},
    "all kept twice": {"a": Teacher.random(V, 0, absent=False), "b": Teacher.random(V, 1)},
    "none kept": {"a": Teacher(ids=torch.full((N, 2), NO_TOKEN), tail=torch.ones(N).double(),
                               logprobs=torch.full((N, 2), -torch.inf, dtype=torch.float64))},
}  # fmt: skip
