"""The unembedding as the fused losses use it: logits into given memory, gradients out of it.

A head is made for one pass. Shapes: n positions of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Gradients(dict[Tensor, Tensor]):
    """Parameter -> its gradient so far, in its own type."""

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add a gradient, which is the receiver's from here on."""
        if parameter in self:
            self[parameter] += gradient
        else:
            self[parameter] = gradient.to(parameter.dtype)

    def add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right``: without memory for the product, where the types allow."""
        if parameter in self and left.dtype == parameter.dtype:
            self[parameter].addmm_(left, right)
        else:
            self.add(parameter, left @ right)


class Head(Protocol):
    """What makes logits of inputs, one chunk after another."""

    @property
    def vocab_size(self) -> int:
        """V."""

    def read(self, inputs_nD: Tensor) -> Tensor:
        """Return logits [n, V], by autograd: the reference."""

    def wants_gradient(self) -> bool:
        """Whether parameters of it may."""

    def forward(self, inputs_nD: Tensor, logits_nV: Tensor) -> None:
        """Write the logits of a chunk."""

    def backward(self, gradient_nV: Tensor, of_inputs_nD: Tensor, found: Gradients) -> None:
        """Write the gradient of the last chunk's inputs; add those of parameters to ``found``."""


class LinearHead:
    """A plain linear layer: three matrix products, in autocast's type where it is on.

    Args:
        layer: the unembedding.
        trained: whether its parameters get gradient, if they want any.
    """

    def __init__(self, layer: nn.Linear, trained: bool = True) -> None:
        self._layer, self._trained = layer, trained
        self._weight_VD = _cast(layer.weight.detach())
        self._inputs_nD = self._weight_VD[:0]

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self._weight_VD)

    def read(self, inputs_nD: Tensor) -> Tensor:
        """Return logits [n, V], by autograd."""
        if self._trained:
            logits_nV: Tensor = self._layer(inputs_nD)
            return logits_nV
        bias_V = None if self._layer.bias is None else self._layer.bias.detach()
        return nn.functional.linear(inputs_nD, self._layer.weight.detach(), bias_V)

    def wants_gradient(self) -> bool:
        """Whether its weight or its bias does."""
        return self._trained and any(p.requires_grad for p in self._layer.parameters())

    def forward(self, inputs_nD: Tensor, logits_nV: Tensor) -> None:
        """Write the logits of a chunk."""
        self._inputs_nD = _cast(inputs_nD)
        weight_VD = self._weight_VD
        with _no_autocast(logits_nV):
            if weight_VD.dtype == logits_nV.dtype:
                torch.mm(self._inputs_nD, weight_VD.T, out=logits_nV)
            else:
                logits_nV.copy_(self._inputs_nD @ weight_VD.T)
            if self._layer.bias is not None:
                logits_nV += self._layer.bias

    def backward(self, gradient_nV: Tensor, of_inputs_nD: Tensor, found: Gradients) -> None:
        """Write the gradient of the last chunk's inputs; add those of parameters to ``found``."""
        with _no_autocast(gradient_nV):
            weight, bias = self._layer.weight, self._layer.bias
            narrow_nV = gradient_nV.to(self._weight_VD.dtype)
            if narrow_nV.dtype == of_inputs_nD.dtype:
                torch.mm(narrow_nV, self._weight_VD, out=of_inputs_nD)
            else:
                of_inputs_nD.copy_(narrow_nV @ self._weight_VD)
            if self._trained and weight.requires_grad:
                found.add_product(weight, narrow_nV.T, self._inputs_nD)
            if self._trained and bias is not None and bias.requires_grad:
                found.add(bias, gradient_nV.sum(0))


class GraphHead:
    """Any code that makes logits: its gradients are autograd's, a chunk at a time.

    Args:
        read: inputs [n, D] -> logits [n, V].
        vocab_size: V.
        trained: whether the parameters it meets get gradient, if they want any.
    """

    def __init__(
        self, read: Callable[[Tensor], Tensor], vocab_size: int, trained: bool = True
    ) -> None:
        self._read, self._vocab_size, self._trained = read, vocab_size, trained

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._vocab_size

    def read(self, inputs_nD: Tensor) -> Tensor:
        """Return logits [n, V], by autograd."""
        return self._read(inputs_nD)

    def wants_gradient(self) -> bool:
        """Whether parameters of it may: known once it has run."""
        return self._trained

    def forward(self, inputs_nD: Tensor, logits_nV: Tensor) -> None:
        """Write the logits of a chunk; their graph is kept until ``backward``."""
        with torch.set_grad_enabled(True):
            self._inputs_nD = inputs_nD.detach().requires_grad_()
            self._logits_nV = self._read(self._inputs_nD)
        logits_nV.copy_(self._logits_nV.detach())

    def backward(self, gradient_nV: Tensor, of_inputs_nD: Tensor, found: Gradients) -> None:
        """Write the gradient of the last chunk's inputs; add those of parameters to ``found``."""
        logits_nV, inputs_nD = self._logits_nV, self._inputs_nD
        del self._logits_nV, self._inputs_nD
        parameters = [
            each for each in leaves_of(logits_nV) if self._trained and each is not inputs_nD
        ]
        of_inputs, *others = torch.autograd.grad(
            logits_nV, [inputs_nD, *parameters], gradient_nV.to(logits_nV.dtype)
        )
        of_inputs_nD.copy_(of_inputs)
        for parameter, gradient in zip(parameters, others, strict=True):
            found.add(parameter, gradient)


def leaves_of(value: Tensor) -> list[Tensor]:
    """Return the tensors that want gradient where the graph of a value ends, each once."""
    nodes: list[Any] = [value.grad_fn]
    seen = set(nodes)
    leaves: list[Tensor] = []
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return leaves


def _cast(values: Tensor) -> Tensor:
    """Return values as autocast has them enter a matrix product: it leaves float64 alone."""
    kind = values.device.type
    if not torch.is_autocast_enabled(kind) or values.dtype == torch.float64:
        return values
    return values.to(torch.get_autocast_dtype(kind))


def _no_autocast(values: Tensor) -> torch.autocast:
    return torch.autocast(values.device.type, enabled=False)
