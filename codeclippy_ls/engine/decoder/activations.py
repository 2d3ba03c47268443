"""Activation functions of the MLP, each in the form that is cheapest for the device and the number of tokens.

A format that can apply one within the matrix product (`linear`) uses its ``fused`` name. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Function = Callable[[Tensor], Tensor]


class Activation:
    """An activation function, by its name in `architectures.ACTIVATIONS`.

    Args:
        is_gated: the input holds gate and up projection side by side: (tokens, 2 * size) becomes (tokens, size).

    Attributes:
        exact: the function itself.
        approximate: a faster form if there is one, off by less than a step of the 8-bit rounding that follows.
        fused: oneDNN's name and algorithm for it; ``None`` if a single product cannot apply it.
    """

    __slots__ = ("approximate", "exact", "fused")

    def __init__(self, name: str, is_gated: bool = False) -> None:
        exact, approximate, fused = _FUNCTIONS[name]
        self.exact = _make_gated(exact) if is_gated else exact
        self.approximate = _make_gated(approximate) if is_gated else approximate
        self.fused = None if is_gated else fused


def _make_gated(function: Function) -> Function:
    def apply(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)  # (tokens, size) each
        return function(gate) * up

    return apply


def _gelu(x: Tensor) -> Tensor:
    """Apply GELU by erf. On a CPU torch's own call goes through oneDNN, which takes 20 microseconds to begin."""
    if x.device.type != "cpu" or x.shape[0] > 4:
        return functional.gelu(x)
    scaled = x * 0.5**0.5
    return torch.addcmul(scaled, scaled, scaled.erf()).mul_(0.5**0.5)


def _approximate_gelu(x: Tensor) -> Tensor:
    """Apply GELU by erf; for few tokens by tanh: off by 0.0005 at most, in a third of the time."""
    return functional.gelu(x, approximate="tanh") if x.shape[0] < 16 else functional.gelu(x)


def _tanh_gelu(x: Tensor) -> Tensor:
    """Apply GELU by tanh. For few tokens torch's own call; for many this form, which takes half its time on a CPU."""
    if x.device.type != "cpu" or x.shape[0] < 16:
        return functional.gelu(x, approximate="tanh")
    x = x.float()  # bfloat16 would round the cube
    inner = torch.addcmul(x, x * x, x, value=0.044715).mul_(2 * 0.7978845608028654)
    return inner.sigmoid_().mul_(x)


_FUNCTIONS: dict[str, tuple[Function, Function, tuple[str, str]]] = {
    "gelu": (_gelu, _approximate_gelu, ("gelu", "none")),
    "tanh": (_tanh_gelu, _tanh_gelu, ("gelu", "tanh")),
    "silu": (functional.silu, functional.silu, ("swish", "")),
    "relu": (functional.relu, functional.relu, ("relu", "")),
}
