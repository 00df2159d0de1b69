"""Vocabulary losses with their gradient in one pass: the logits of a token are computed once.

Every term's weight and its count in the whole step are known before the pass, so what the backward
pass will ask for is known too: the gradient of one number. It is computed while a chunk's logits
exist, and waits for the backward pass, which only hands it on. Against ``train.losses.chunked``,
which forgets the logits and computes them again, three matrix products with the unembedding are
left of four; beside the gradients there is one chunk of logits, in float32, of any number of terms
(under autocast also one in its type), and no other tensor of that size.

What waits is the unembedding's gradient, one for all uses of it (the output and every lens), and
those of its inputs. Autograd would have the first in the backward pass anyway, and twice.

From 256 positions on, a chunk is as fast as all of them at once (V = 152k, D = 512, float32, one
thread: three products for 512 positions in 3.3 s by 64, 2.6 s by 256, 2.6 s in one). The passes
over a chunk's logits (``train.losses.shortlist``) are 1 % of a step of 42 M parameters with V =
32k, so nothing is compiled. On CUDA they are kernels that move the logits a dozen times; one kernel
for all of them would have to beat this with those passes under ``torch.compile``.

Shapes: N positions, n of a chunk, D width, V vocabulary, P columns of memory, M losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.losses.asked import Asked, ChunkLoss
from train.losses.heads import Gradients, Head
from train.losses.shortlist import columns_for, shortlist


class Fused:
    """Sums losses over positions; keeps the gradient of their weighted total until it is attached.

    With gradients disabled there are sums only.

    Args:
        chunk: positions whose logits exist at one time.
    """

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._found = Gradients()
        self._inputs: list[tuple[Tensor, Tensor]] = []

    def sums(
        self, inputs_ND: Tensor, head: Head, asked: Asked, losses: ChunkLoss, scale_M: Tensor
    ) -> Tensor:
        """Return [M]: every loss summed over the N positions, without a graph.

        Args:
            inputs_ND: inputs of the unembedding.
            head: the unembedding.
            asked: what the losses see of the logits.
            losses: what to compute from it.
            scale_M: each loss's factor in the total.
        """
        wanted = torch.is_grad_enabled() and (inputs_ND.requires_grad or head.wants_gradient())
        inputs = inputs_ND.detach()
        of_inputs_ND = torch.empty_like(inputs) if wanted else inputs
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        passes = -(-len(inputs) // self._chunk)
        rows = -(-len(inputs) // max(passes, 1))  # alike: a short last one would be a slow one
        memory_nP = inputs.new_empty((rows, columns_for(head.vocab_size)), dtype=dtype)
        total_M = torch.zeros_like(scale_M, dtype=dtype)
        with torch.no_grad():
            for start in range(0, len(inputs), max(rows, 1)):
                where = slice(start, start + rows)
                logits_nP = memory_nP[: len(inputs[where])]
                head.forward(inputs[where], logits_nP[:, : head.vocab_size])
                short = shortlist(logits_nP, head.vocab_size, asked.at(where))
                with torch.set_grad_enabled(wanted):
                    values_M = losses(short.seen, where)
                total_M += values_M.detach()
                if wanted:
                    gradient_nV = short.gradient(_of_leaves(values_M, scale_M, short.leaves))
                    head.backward(gradient_nV, of_inputs_ND[where], self._found)
        if wanted and inputs_ND.requires_grad:
            self._inputs.append((inputs_ND, of_inputs_ND))
        return total_M

    def attach(self, total: Tensor) -> Tensor:
        """Return a total of losses with the gradients found, beside those it has by itself."""
        pairs = [*self._inputs, *self._found.items()]
        self._inputs, self._found = [], Gradients()
        if not pairs:
            return total
        inputs, gradients = zip(*pairs, strict=True)
        attached: Tensor = _Found.apply(total, list(gradients), *inputs)
        return attached


def _of_leaves(values_M: Tensor, scale_M: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradient of the weighted total of a chunk's losses at each leaf."""
    with torch.enable_grad():
        total = (values_M * scale_M).sum()
    return torch.autograd.grad(total, leaves, materialize_grads=True)


class _Found(torch.autograd.Function):
    """A value, and gradients of it that were found before."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *_inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "its gradients were handed on: one backward pass"
        if outer.device.type != "cpu" or outer != 1:  # to look at it, a GPU would be waited for
            for each in gradients:
                each.mul_(outer)
        return outer, None, *gradients
