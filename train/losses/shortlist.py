"""A chunk's logits, turned in place into what losses ask of them, then into the loss's gradient.

Whatever the losses are, they depend on the logits through few numbers: those of the tokens they
name, ``z_i``, and the log-sum ``R`` of the rest. So the gradient of any of them is

    dL/dz_i                       at a token that is named,
    dL/dR * exp(z_v - R)          at a token v of the rest,

and autograd has to know [n, J + 1] numbers only. Both lines are one pass over the vocabulary each,
in the memory the logits came in: a softmax over the rest (the tokens of buckets taken out), later
its product with one number a position; then J numbers are put back. Nothing else is as large as V.

Tokens asked for by themselves (a target, drawn tokens) stay in the rest, and get both.

Shapes: n positions, V vocabulary, P >= V + 1 columns of memory, K tokens of a division, J of all
divisions, U asked for by themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.losses.asked import Asked, Seen
from train.losses.vocabulary import NO_TOKEN

_COLUMNS = 16
"""Rows of memory begin at multiples of 64 bytes (of float32)."""


def columns_for(vocab_size: int) -> int:
    """Return P: room for a row of logits and at least one column more."""
    return (vocab_size // _COLUMNS + 1) * _COLUMNS


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """A chunk reduced to what is asked of it.

    Attributes:
        seen: what losses compute from; its graph ends at ``leaves``.
        leaves: logits of the tokens of buckets [n, J] and of those asked for by themselves [n, U],
            and the log-sum of the rest [n].
        ids: which tokens these are; V for none.
        empty_n: where the rest has no mass.
        memory_nP: the rest's softmax, the other columns 0.
        vocab_size: V.
    """

    seen: Seen
    leaves: tuple[Tensor, Tensor, Tensor]
    ids: tuple[Tensor, Tensor]
    empty_n: Tensor
    memory_nP: Tensor  # noqa: N815
    vocab_size: int

    def gradient(self, of_leaves: Sequence[Tensor]) -> Tensor:
        """Return the gradient of the logits [n, V], in their memory: to be had once.

        Args:
            of_leaves: the losses' gradient at each of ``leaves``.
        """
        of_kept_nJ, of_asked_nU, of_rest_n = of_leaves
        # where there is no rest, its gradient may be anything
        self.memory_nP.mul_(of_rest_n.masked_fill(self.empty_n, 0)[:, None])
        for ids, values in zip(self.ids, (of_kept_nJ, of_asked_nU), strict=True):
            self.memory_nP.scatter_add_(-1, ids, values)
        return self.memory_nP[:, : self.vocab_size]


def shortlist(memory_nP: Tensor, vocab_size: int, asked: Asked) -> Shortlist:
    """Reduce logits to what is asked of them.

    Args:
        memory_nP: the logits in its first V columns, contiguous, in float32 or wider; overwritten.
        vocab_size: V.
        asked: of these n positions.
    """
    lowest = torch.finfo(memory_nP.dtype).min
    # a token that is none stands in the first column beyond the vocabulary
    kept_ids = _side_by_side(asked.buckets, memory_nP, vocab_size)
    asked_ids = _side_by_side(asked.tokens, memory_nP, vocab_size)
    memory_nP[:, vocab_size:] = lowest
    kept_nJ = memory_nP.gather(-1, kept_ids).requires_grad_()
    asked_nU = memory_nP.gather(-1, asked_ids).requires_grad_()
    blocks = _blocks(asked.buckets)
    holds, first_nJ = _divisions(memory_nP, kept_ids, blocks, vocab_size)
    # not -inf, of which a softmax over nothing but them would make NaN
    memory_nP.scatter_(-1, kept_ids, lowest)
    rest_n, empty_n = _softmax_in_place(memory_nP, lowest)
    rest_n.requires_grad_()
    with torch.enable_grad():
        seen = _seen(kept_nJ, asked_nU, rest_n, asked, kept_ids == vocab_size, holds, first_nJ)
    return Shortlist(
        seen=seen,
        leaves=(kept_nJ, asked_nU, rest_n),
        ids=(kept_ids, asked_ids),
        empty_n=empty_n,
        memory_nP=memory_nP,
        vocab_size=vocab_size,
    )


def _side_by_side(ids: Mapping[str, Tensor], like_nP: Tensor, none: int) -> Tensor:
    """Return int64 [n, J], all ids one beside the other, ``NO_TOKEN`` replaced."""
    blocks = [each.masked_fill(each == NO_TOKEN, none) for each in ids.values()]
    if not blocks:
        return torch.empty((len(like_nP), 0), dtype=torch.int64, device=like_nP.device)
    return torch.cat(blocks, dim=-1)


def _blocks(buckets: Mapping[str, Tensor]) -> list[slice]:
    """Return which of the J columns are whose."""
    ends = itertools.accumulate((ids.shape[-1] for ids in buckets.values()), initial=0)
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _divisions(
    memory_nP: Tensor, ids_nJ: Tensor, blocks: Sequence[slice], none: int
) -> tuple[list[Tensor], Tensor]:
    """Return for every division which of the named tokens it holds, and which are named first.

    A token that several teachers kept is named several times, and in the log-sum of all once. Their
    logits are elsewhere already, so their places in the memory serve to look each other up, however
    many they are: it is overwritten there.
    """
    if len(blocks) == 1:
        every_nJ = ids_nJ != none
        return [every_nJ], every_nJ
    holds = []
    first_nJ = torch.ones_like(ids_nJ, dtype=torch.bool)
    for block in blocks:
        memory_nP.scatter_(-1, ids_nJ, 0.0)
        memory_nP.scatter_(-1, ids_nJ[:, block], 1.0)
        held_nJ = (memory_nP.gather(-1, ids_nJ) == 1) & (ids_nJ != none)
        first_nJ[:, block.stop :] &= ~held_nJ[:, block.stop :]
        holds.append(held_nJ)
    return holds, first_nJ & (ids_nJ != none)


def _softmax_in_place(memory_nP: Tensor, lowest: float) -> tuple[Tensor, Tensor]:
    """Turn logits into their softmax; return their ``logsumexp`` [n], and where it is ``-inf``.

    The log-sum is that of the largest logit and its probability. On a CPU the one kernel takes half
    the time of the passes it is made of (5 of 12 ms, 256 x 32,000); that it may write where it
    reads is a property of that kernel, which the tests look at.
    """
    largest_n = memory_nP.amax(-1)
    if memory_nP.device.type == "cpu":
        torch.softmax(memory_nP, -1, out=memory_nP)
    else:
        _softmax_by_steps(memory_nP, largest_n)
    empty_n = largest_n <= lowest
    rest_n = (largest_n - memory_nP.amax(-1).log()).masked_fill(empty_n, -torch.inf)
    return rest_n, empty_n


def _softmax_by_steps(memory_nP: Tensor, largest_n: Tensor) -> None:
    memory_nP.sub_(largest_n[:, None]).exp_()
    memory_nP.div_(memory_nP.sum(-1, keepdim=True))


def _seen(
    kept_nJ: Tensor,
    asked_nU: Tensor,
    rest_n: Tensor,
    asked: Asked,
    absent_nJ: Tensor,
    holds: Sequence[Tensor],
    first_nJ: Tensor,
) -> Seen:
    """Return what losses see, from the leaves."""
    rest_n1 = rest_n[:, None]
    present_nJ = kept_nJ.masked_fill(absent_nJ, -torch.inf)
    total_nJ = kept_nJ.masked_fill(~first_nJ, -torch.inf)
    masses = {}
    for name, block, held_nJ in zip(asked.buckets, _blocks(asked.buckets), holds, strict=True):
        tail_n1 = rest_n1
        if len(holds) > 1:  # what other divisions named and this one did not
            others_nJ = total_nJ.masked_fill(held_nJ, -torch.inf)
            tail_n1 = torch.cat([others_nJ, rest_n1], dim=-1).logsumexp(-1, keepdim=True)
        masses[name] = torch.cat([present_nJ[:, block], tail_n1], dim=-1)
    widths = [ids.shape[-1] for ids in asked.tokens.values()]
    return Seen(
        log_total_N=torch.cat([total_nJ, rest_n1], dim=-1).logsumexp(-1) if holds else rest_n,
        log_masses=masses,
        logits=dict(zip(asked.tokens, asked_nU.split(widths, dim=-1), strict=True)),
    )
