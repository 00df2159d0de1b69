"""What k tokens of a teacher, from the tape, lose against the teacher in memory: loss and gradient.

Online, a student is compared with all of the teacher's probabilities; offline, with the k largest
as the compact store gives them back, and the rest as one bucket; or with 50 drawn tokens. Both are
computed in float64, but for what is stored, over the same positions.

The teacher is peaked as language models are on text of their own: ``log p`` of a token falls with
the logarithm of its rank (Zipf), at each position by a steepness of its own, even from 1.2 to 4,
and at 6 positions of 10 the first token stands out by some nats more: an entropy of 1 nat, 2.4 % of
the mass outside 64. The student is a linear layer on inputs, beside the teacher's logits: its own
differ from them by Gaussian noise of deviation 1, as of a student on its way. The gradient is that
of layer and inputs, so what positions have at random is averaged as it is in a step.

Shapes: N positions, V vocabulary, D width, K kept tokens, U drawn ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import topk_compact
from train.losses import eager, vocabulary
from train.losses.asked import Asked, see
from train.losses.divergences import divergence_of
from train.losses.sampled import sampled_cross_entropy

WIDTH = 64
DRAWS = 50
BARS = {"kl": (0.10, 0.05), "reverse_kl": (0.10, 0.10), "jsd": (0.10, 0.07)}
"""At k = 64, the gap of the loss and of the gradient at most. Measured at V = 151,936: 0.074 and
0.019, 0.075 and 0.068, 0.072 and 0.039."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A teacher's logits [N, V], and a student: theirs plus ``inputs layer^T``, float64."""

    teacher: Tensor
    inputs: Tensor
    layer: Tensor

    @property
    def student(self) -> Tensor:
        """Its logits [N, V]."""
        return self.teacher + self.inputs @ self.layer.T


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far offline is from online.

    Attributes:
        loss: the difference, of the online loss.
        gradient: the distance of the gradients, of the online one's length.
        cosine: between the two.
    """

    loss: float
    gradient: float
    cosine: float


def make_pair(positions: int, vocabulary_size: int, seed: int = 0) -> Pair:
    """Return a teacher and a student of it."""
    rng = np.random.default_rng(seed)
    steepness = rng.uniform(1.2, 4.0, positions)
    logits = -steepness[:, None] * np.log(np.arange(1, vocabulary_size + 1))
    logits[:, 0] += np.where(rng.random(positions) < 0.6, rng.exponential(2.0, positions), 0.0)
    ranks = np.stack([rng.permutation(vocabulary_size) for _ in range(positions)])
    return Pair(
        teacher=torch.from_numpy(np.take_along_axis(logits, ranks, axis=1)),
        inputs=torch.from_numpy(rng.standard_normal((positions, WIDTH))).requires_grad_(),
        layer=torch.from_numpy(
            rng.standard_normal((vocabulary_size, WIDTH)) / WIDTH**0.5
        ).requires_grad_(),
    )


def stored(teacher_NV: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, log-probabilities [N, K] and tail [N], as the compact store gives them back."""
    kept_NK, ids_NK = teacher_NV.log_softmax(-1).topk(k)
    rest_N = teacher_NV.softmax(-1).scatter(-1, ids_NK, 0.0).sum(-1)
    if k == teacher_NV.shape[1]:
        return ids_NK, kept_NK, rest_N
    blob = topk_compact.encode(
        ids_NK.numpy().astype(np.int32), kept_NK.float().numpy(), rest_N.float().numpy()
    )
    ids, logprobs, tail = topk_compact.decode(blob, len(teacher_NV), k)
    return (
        torch.from_numpy(ids.astype(np.int64)),
        torch.from_numpy(logprobs).double(),
        torch.from_numpy(tail).double(),
    )


def from_topk(pair: Pair, name: str, k: int) -> Gap:
    """Return the gap of a divergence from k tokens."""
    ids, logprobs, tail = stored(pair.teacher, k)
    logits = pair.student
    seen = see(logits, Asked(buckets={"t": ids}))
    log_q = seen.log_masses["t"] - seen.log_total_N[:, None]
    offline = divergence_of(name)(vocabulary.teacher_buckets(logprobs, tail), log_q).mean()
    return _gap(pair, offline, eager.DENSE[name](pair.teacher, logits, 1.0).mean())


def from_draws(pair: Pair, draws: int = DRAWS, seed: int = 0) -> Gap:
    """Return the gap of the forward KL from drawn tokens, less the teacher's entropy in value."""
    generator = torch.Generator().manual_seed(seed)
    p_NV = pair.teacher.softmax(-1)
    ids = torch.multinomial(p_NV, draws, replacement=True, generator=generator)
    logits = pair.student
    shares = torch.full(ids.shape, 1 / draws, dtype=torch.float64)
    said_N = sampled_cross_entropy(logits.gather(-1, ids), ids, shares, logits.logsumexp(-1))
    entropy_N = eager.dense_expected_cross_entropy(p_NV, pair.teacher)
    online = eager.dense_forward_kl(pair.teacher, logits, 1.0).mean()
    return _gap(pair, (said_N - entropy_N).mean(), online)


def _gap(pair: Pair, offline: Tensor, online: Tensor) -> Gap:
    leaves = [pair.inputs, pair.layer]
    found, exact = (
        torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves, retain_graph=True)])
        for value in (offline, online)
    )
    return Gap(
        loss=float(((online - offline) / online).detach()),
        gradient=float((found - exact).norm() / exact.norm()),
        cosine=float(torch.nn.functional.cosine_similarity(found, exact, dim=0)),
    )


def peakedness(pair: Pair, k: int = 64) -> dict[str, float]:
    """Return what the teacher is like, means over positions."""
    p_NV = pair.teacher.softmax(-1)
    return {
        "entropy": float(-(p_NV * p_NV.clamp(min=1e-300).log()).sum(-1).mean()),
        "the first token": float(p_NV.amax(-1).mean()),
        f"outside {k}": float(1 - p_NV.topk(k).values.sum(-1).mean()),
    }
