"""Linear layers that run together: of one input (`MergedColumnLinear`), or added up (`FusedResidualLinear`).

They are multiplied in one product or one by one, whichever is cheaper on the device and in the format: a call takes
longer to begin than a small model takes to multiply, and a GPU is idle between two. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.linear import (
    FLOAT_FORMATS,
    Int8Linear,
    Linear,
    LinearSpec,
    WeightFormats,
    build_in_formats,
    make_linear,
)
from codeclippy_ls.engine.decoder.quantized_rows import join_columns, stack_rows, to_tensor


class MergedColumnLinear(Protocol):
    """Linear layers of one input, each with its activation: (tokens, in) to (tokens, out) of each."""

    nbytes: int

    def __call__(self, x: Tensor) -> Sequence[Tensor]: ...


class FusedResidualLinear(Protocol):
    """Linear layers whose outputs are added to the residual, (tokens, out), in place; each has an input of its own."""

    nbytes: int

    def __call__(self, residual: Tensor, *inputs: Tensor) -> Tensor: ...


class _SingleLinear:
    """One layer as a `MergedColumnLinear`."""

    __slots__ = ("_layer", "nbytes")

    def __init__(self, layer: Linear) -> None:
        self._layer, self.nbytes = layer, layer.nbytes

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return (self._layer(x),)


class _SeparateLinears:
    """Layers of one input, one by one; the input is converted once."""

    __slots__ = ("_dtype", "_layers", "nbytes")

    def __init__(self, name: str, specs: Sequence[LinearSpec]) -> None:
        self._layers = [make_linear(name, spec) for spec in specs]
        self._dtype = FLOAT_FORMATS.get(name, torch.float32)
        self.nbytes = sum(layer.nbytes for layer in self._layers)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        x = x.to(self._dtype)
        return [layer(x) for layer in self._layers]


class _ConcatenatedLinear:
    """Layers of one input in one product."""

    __slots__ = ("_activations", "_layer", "_sizes", "nbytes")

    def __init__(self, name: str, specs: Sequence[LinearSpec]) -> None:
        weight, bias = stack_rows([spec.weight for spec in specs]), None  # (sum of out, in)
        biases = [spec.bias for spec in specs]
        if (present := next((bias for bias in biases if bias is not None), None)) is not None:
            bias = torch.cat(
                [
                    present.new_zeros(len(spec.weight)) if spec_bias is None else spec_bias
                    for spec, spec_bias in zip(specs, biases, strict=True)
                ]
            )
        self._layer = make_linear(name, LinearSpec(weight, bias))
        activations = [spec.activation for spec in specs]
        self._activations = [
            None if activation is None else activation.approximate if name == "int8" else activation.exact
            for activation in activations
        ]
        self._sizes = [len(spec.weight) for spec in specs]
        self.nbytes = self._layer.nbytes

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        outs = torch.split_with_sizes(self._layer(x), self._sizes, 1)  # (tokens, out) of each
        return [
            out if activation is None else activation(out)
            for out, activation in zip(outs, self._activations, strict=True)
        ]


class _SeparateResiduals:
    """Layers that are added up one by one."""

    __slots__ = ("_layers", "nbytes")

    def __init__(self, name: str, specs: Sequence[LinearSpec]) -> None:
        self._layers = [make_linear(name, spec) for spec in specs]
        self.nbytes = sum(layer.nbytes for layer in self._layers)

    def __call__(self, residual: Tensor, *inputs: Tensor) -> Tensor:
        for layer, x in zip(self._layers, inputs, strict=True):
            residual.add_(layer(x))
        return residual


class _ConcatenatedInt8Residual:
    """Layers that are added up in one int8 product over their inputs side by side."""

    __slots__ = ("_layer", "nbytes")

    def __init__(self, specs: Sequence[LinearSpec]) -> None:
        biases = [spec.bias for spec in specs if spec.bias is not None]
        bias = torch.stack(biases).sum(0) if biases else None
        weight = join_columns([spec.weight for spec in specs])  # (out, sum of in)
        self._layer = Int8Linear(LinearSpec(weight, bias))
        self.nbytes = self._layer.nbytes

    def __call__(self, residual: Tensor, *inputs: Tensor) -> Tensor:
        return residual.add_(self._layer(torch.cat(inputs, 1)))


class _AccumulatedResidual:
    """Layers that are added up in one product that starts from the residual; the biases are one more input of it."""

    __slots__ = ("_bias_input", "_weight", "nbytes")

    _BIAS_COLUMNS = 8  # columns that the bias takes, so that the rows stay aligned for tensor cores

    def __init__(self, specs: Sequence[LinearSpec], dtype: torch.dtype) -> None:
        weights = [to_tensor(spec.weight).to(dtype) for spec in specs]
        biases = [spec.bias.float() for spec in specs if spec.bias is not None]
        self._bias_input: Tensor | None = None
        if biases:
            bias_column = torch.stack(biases).sum(0).to(dtype)[:, None]
            weights.append(functional.pad(bias_column, (0, self._BIAS_COLUMNS - 1)))  # (out, 8)
            self._bias_input = functional.pad(weights[0].new_ones(1, 1), (0, self._BIAS_COLUMNS - 1))  # (1, 8)
        self._weight = torch.cat(weights, 1).t()  # (sum of in, out)
        self.nbytes = self._weight.nbytes

    def __call__(self, residual: Tensor, *inputs: Tensor) -> Tensor:
        if self._bias_input is not None:
            inputs = (*inputs, self._bias_input.expand(residual.shape[0], -1))
        return residual.addmm_(inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1), self._weight)


def make_merged_linear(specs: Sequence[LinearSpec], formats: WeightFormats) -> MergedColumnLinear:
    """Make layers of one input, in the chosen formats."""
    if len(specs) == 1:
        return _SingleLinear(build_in_formats(lambda name: make_linear(name, specs[0]), formats))
    is_merged = should_merge(specs[0].weight.device)

    def make(name: str) -> MergedColumnLinear:
        return (_ConcatenatedLinear if name == "int8" or is_merged else _SeparateLinears)(name, specs)

    return build_in_formats(make, formats)


def make_residual_linear(specs: Sequence[LinearSpec], formats: WeightFormats) -> FusedResidualLinear:
    """Make layers that are added up, none with an activation, in the chosen formats."""
    return build_in_formats(lambda name: _make_residual(name, specs), formats)


def _make_residual(name: str, specs: Sequence[LinearSpec]) -> FusedResidualLinear:
    if name == "int8":
        return _ConcatenatedInt8Residual(specs) if len(specs) > 1 else _SeparateResiduals(name, specs)
    if should_merge(specs[0].weight.device):
        return _AccumulatedResidual(specs, FLOAT_FORMATS[name])
    return _SeparateResiduals(name, specs)


def should_merge(device: torch.device) -> bool:
    """Return True if one product of two layers is cheaper than two: a GPU is idle between them."""
    return device.type == "cuda"
