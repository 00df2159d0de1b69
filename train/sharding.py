"""A student in shards: every process holds its part of each weight, gradient and moment (FSDP2).

Units are gathered whole while they compute: each block by itself, forward and again backward, and
all else as one, the root (embeddings, final norm, unembedding, projectors, what lies between tower
and decoder), once a pass, because losses read through it inside ``Objective.forward`` and again in
the backward pass. Gradients are summed over processes, in float32, after every pass: to put that
off to the last one would take whole gradients in every process.

Gathering is collective: every process runs the same number of passes (``train.steps.loads``), and
one that stops in the middle of one stops all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from audio_models.decoder import decoder_of
from audio_models.load import AudioLM

_BLOCKS = MixedPrecisionPolicy(
    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
)
"""Under autocast a block's matrices are read in bfloat16: they travel so. Its inputs stay as they
are, and the root stays in float32, so that chunks of the vocabulary add up their gradients in it.
"""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The root of a student in shards.

    Attributes:
        root: what was sharded, whole.
        touched: names of trained parameters that got a gradient in this process, since ``forget``.
    """

    root: Any
    touched: set[str]

    def settle(self) -> None:
        """Give up what a pass without a backward pass has left gathered."""
        self.root.reshard()

    def forget(self) -> None:
        """Begin anew to see which parameters get a gradient."""
        self.touched.clear()

    def drop_untouched(self) -> None:
        """Leave a parameter that no process had a gradient for without one, and begin anew.

        All processes exchange the same gradients, zeros where one had none; weight decay and
        moments would act on zeros.
        """
        trained = {name: p for name, p in self.root.named_parameters() if p.requires_grad}
        held = torch.tensor([name in self.touched for name in trained], dtype=torch.int32)
        held = held.to(next(iter(trained.values())).device)
        distributed.all_reduce(held)
        for parameter, count in zip(trained.values(), held.tolist(), strict=True):
            if not count:
                parameter.grad = None
        self.forget()


def shard(
    root: nn.Module, lm: AudioLM, device: torch.device, autocast: bool, always_heard: bool = True
) -> Shards:
    """Leave every process its part of a module that contains the student, on its device.

    All processes call this with equal weights.

    Args:
        root: the module, in float32.
        lm: the student in it.
        device: of this process.
        autocast: whether passes run under bfloat16 autocast.
        always_heard: whether every pass hears audio.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    policy = _BLOCKS if autocast else MixedPrecisionPolicy()
    for unit in units_of(lm, always_heard):
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(root, mesh=mesh, reshard_after_forward=False)
    shards = Shards(root=root, touched=set())
    for name, module in root.named_modules():
        if isinstance(module, FSDPModule):
            # sums, not means; and one collective whichever parameters a process's rows reach
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            module.set_reduce_scatter_unused_params(True, recurse=False)
            module.register_forward_pre_hook(_Watch(shards, f"{name}." if name else ""))  # type: ignore[attr-defined]
            # types of gradients are settled when it is first gathered: a part that a first stage
            # freezes must be seen as one that is trained
            module.unshard()
            module.reshard()
    return shards


def units_of(lm: AudioLM, always_heard: bool = True) -> list[nn.Module]:
    """Return what is gathered by itself: blocks of the decoder and of the towers, none in another.

    A tower that hears rows one by one runs its blocks as often as a process has rows, and one that
    is not always heard runs them in some passes: collectives of others would not meet them, so such
    a tower belongs to the root.
    """
    blocks: list[nn.Module] = list(decoder_of(lm.model).blocks)
    if lm.family.rows_alone is None and always_heard:
        blocks += [m for m in lm.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    inner = {part for block in blocks for part in block.modules() if part is not block}
    return list(dict.fromkeys(block for block in blocks if block not in inner))


class _Watch:
    """A hook before a unit's pass, when its parameters are whole: see which get a gradient."""

    def __init__(self, shards: Shards, prefix: str) -> None:
        self._shards, self._prefix = shards, prefix
        self._seen: set[Tensor] = set()

    def __call__(self, module: nn.Module, _args: Any) -> None:
        for name, parameter in module.named_parameters():
            whole = not isinstance(parameter, DTensor)
            if whole and parameter.requires_grad and parameter not in self._seen:
                self._seen.add(parameter)
                parameter.register_post_accumulate_grad_hook(self._noting(self._prefix + name))

    def _noting(self, name: str) -> Any:
        def note(parameter: Tensor) -> None:
            # a pass may go through the language model for company alone, and leave it zeros
            idle = getattr(self._shards.root, "unread", False)
            if not idle or (parameter.grad is not None and bool(parameter.grad.any())):
                self._shards.touched.add(name)

        return note


def square_sum(gradients: Iterator[Tensor | None]) -> Tensor:
    """Return the sum of all squares of sharded gradients over all processes, float64."""
    parts = [each.to_local() for each in gradients if isinstance(each, DTensor)]
    total = torch.stack([part.double().square().sum() for part in parts]).sum()
    distributed.all_reduce(total)
    return total


def whole_tensor(tensor: Tensor, here: bool) -> Tensor:
    """Return a tensor whole on the CPU, if it is wanted in this process, else without elements.

    Every process calls this for the same tensors in the same order.
    """
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().contiguous().cpu() if here else torch.empty(0)


def part_of_whole(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, sharded as another one is; perhaps a view."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def whole_moments(state: Mapping[str, Any], here: bool) -> dict[str, Any]:
    """Return an optimizer's ``state_dict`` with whole tensors (``whole_tensor``)."""
    found = {
        index: {
            key: whole_tensor(value, here) if isinstance(value, Tensor) else value
            for key, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    return {**state, "state": found}


def parts_of_moments(state: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's ``state_dict`` of whole tensors, sharded as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = {
        index: {
            key: (
                part_of_whole(value, parameters[index]).clone()
                if isinstance(value, Tensor)
                else value
            )
            for key, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    return {**state, "state": found}


def make_whole(module: nn.Module, here: bool) -> None:
    """Put whole parameters, on the CPU, in the place of shards, where they are wanted.

    Every process calls this, at the end of a run: the module computes no more.
    """
    whole: dict[Tensor, nn.Parameter] = {}
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                continue
            if parameter not in whole:
                data = whole_tensor(parameter, here)
                whole[parameter] = nn.Parameter(data, parameter.requires_grad)
            if here:
                setattr(inner, name, whole[parameter])
        if isinstance(inner, FSDPModule):  # a class made for it, whose ``to`` expects shards
            inner.__class__ = next(c for c in type(inner).__bases__ if c is not FSDPModule)
