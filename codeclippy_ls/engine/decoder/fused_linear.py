"""Linear layers that belong together: of one input (a `MergedColumnLinear`), or added up (a `FusedResidualLinear`).

A format multiplies them at once or one by one, whichever is cheaper where they run: a call takes longer to begin than a
small model takes to multiply, and a GPU is idle between two. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.linear import PLAIN, Int8, Linear, Part, WeightFormats, build_in_formats, make_linear


class MergedColumnLinear(Protocol):
    """Linear layers of one input, each with its activation: (tokens, in) to (tokens, out) of each."""

    nbytes: int

    def __call__(self, x: Tensor) -> Sequence[Tensor]: ...


class FusedResidualLinear(Protocol):
    """Linear layers that are added up: to (tokens, out), in place, what each makes of its own (tokens, in)."""

    nbytes: int

    def __call__(self, to: Tensor, *inputs: Tensor) -> Tensor: ...


class _Alone:
    """A single layer as a `MergedColumnLinear`."""

    __slots__ = ("_layer", "nbytes")

    def __init__(self, layer: Linear) -> None:
        self._layer, self.nbytes = layer, layer.nbytes

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return (self._layer(x),)


class _Each:
    """Layers of one input, one by one; it is converted once."""

    __slots__ = ("_dtype", "_layers", "nbytes")

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        self._layers = [make_linear(name, part) for part in parts]
        self._dtype = PLAIN.get(name, torch.float32)
        self.nbytes = sum(layer.nbytes for layer in self._layers)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        x = x.to(self._dtype)
        return [layer(x) for layer in self._layers]


class _Joined:
    """Layers of one input in one product: where a call takes longer to begin than small models take to multiply."""

    __slots__ = ("_activations", "_layer", "_sizes", "nbytes")

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        weight, bias = torch.cat([part.weight for part in parts]), None
        if any(part.bias is not None for part in parts):
            bias = torch.cat([weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts])
        self._layer = make_linear(name, Part(weight, bias))
        kinds = [part.activation for part in parts]
        self._activations = [
            None if kind is None else kind.roughly if name == "int8" else kind.exactly for kind in kinds
        ]
        self._sizes = [len(part.weight) for part in parts]
        self.nbytes = self._layer.nbytes

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        outs = torch.split_with_sizes(self._layer(x), self._sizes, 1)
        return [
            out if activation is None else activation(out)
            for out, activation in zip(outs, self._activations, strict=True)
        ]


class _Added:
    """Layers that are added up, one by one."""

    __slots__ = ("_layers", "nbytes")

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        self._layers = [make_linear(name, part) for part in parts]
        self.nbytes = sum(layer.nbytes for layer in self._layers)

    def __call__(self, to: Tensor, *inputs: Tensor) -> Tensor:
        for layer, x in zip(self._layers, inputs, strict=True):
            to.add_(layer(x))
        return to


class _AddedAtOnce:
    """Layers that are added up in one product, in int8."""

    __slots__ = ("_layer", "nbytes")

    def __init__(self, parts: Sequence[Part]) -> None:
        biases = [part.bias for part in parts if part.bias is not None]
        bias = torch.stack(biases).sum(0) if biases else None
        self._layer = Int8(Part(torch.cat([part.weight for part in parts], 1), bias))
        self.nbytes = self._layer.nbytes

    def __call__(self, to: Tensor, *inputs: Tensor) -> Tensor:
        return to.add_(self._layer(torch.cat(inputs, 1)))


class _Accumulated:
    """Layers that are added up in one product that begins from what is there, their biases as one more input of it."""

    __slots__ = ("_one", "_weight", "nbytes")

    _WIDE = 8  # inputs that the bias takes, so that the rows stay aligned for tensor cores

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype) -> None:
        weights = [part.weight.to(dtype) for part in parts]
        biases = [part.bias.float() for part in parts if part.bias is not None]
        self._one: Tensor | None = None
        if biases:
            weights.append(functional.pad(torch.stack(biases).sum(0).to(dtype)[:, None], (0, self._WIDE - 1)))
            self._one = functional.pad(weights[0].new_ones(1, 1), (0, self._WIDE - 1))
        self._weight = torch.cat(weights, 1).t()
        self.nbytes = self._weight.nbytes

    def __call__(self, to: Tensor, *inputs: Tensor) -> Tensor:
        if self._one is not None:
            inputs = (*inputs, self._one.expand(to.shape[0], -1))
        return to.addmm_(inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1), self._weight)


def make_merged_linear(parts: Sequence[Part], choice: WeightFormats) -> MergedColumnLinear:
    """Layers of one input in a chosen format."""
    if len(parts) == 1:
        return _Alone(build_in_formats(lambda name: make_linear(name, parts[0]), choice))
    at_once = should_merge(parts[0].weight.device)
    return build_in_formats(
        lambda name: _Joined(name, parts) if name == "int8" or at_once else _Each(name, parts), choice
    )


def make_residual_linear(parts: Sequence[Part], choice: WeightFormats) -> FusedResidualLinear:
    """Layers that are added up, none with an activation, in a chosen format."""
    return build_in_formats(lambda name: _added(name, parts), choice)


def _added(name: str, parts: Sequence[Part]) -> FusedResidualLinear:
    if name == "int8":
        return _AddedAtOnce(parts) if len(parts) > 1 else _Added(name, parts)
    return _Accumulated(parts, PLAIN[name]) if should_merge(parts[0].weight.device) else _Added(name, parts)


def should_merge(device: torch.device) -> bool:
    """Whether one product of two layers is cheaper than two: a GPU is idle between them."""
    return device.type == "cuda"
