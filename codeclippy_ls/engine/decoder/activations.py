"""Activations within the MLP, each by what is cheapest for the device and the number of tokens.

A format that can apply one while it multiplies (`formats`) asks for its ``fused`` name. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Apply = Callable[[Tensor], Tensor]


class Activation:
    """An activation by its name in `ModelConfig`; ``gated`` if its input is the gate and what it lets through.

    Attributes:
        exactly: (tokens, wide) to the same, or to half as many where gated.
        roughly: for what is rounded to 8 bits next: off by a part of such a step, where that is faster.
        fused: oneDNN's name and algorithm for it; ``None`` where it needs more than what one product makes.
    """

    __slots__ = ("exactly", "fused", "roughly")

    def __init__(self, name: str, gated: bool = False) -> None:
        exact, rough, fused = _KINDS[name]
        self.exactly, self.roughly = (_gated(exact), _gated(rough)) if gated else (exact, rough)
        self.fused = None if gated else fused


def _gated(apply: Apply) -> Apply:
    def applied(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return apply(gate) * up

    return applied


def _gelu(x: Tensor) -> Tensor:
    """``gelu`` by erf. Torch's own call goes through oneDNN on a CPU, which takes 20 microseconds to begin."""
    if x.device.type != "cpu" or x.shape[0] > 4:
        return functional.gelu(x)
    scaled = x * 0.5**0.5
    return torch.addcmul(scaled, scaled, scaled.erf()).mul_(0.5**0.5)


def _rough_gelu(x: Tensor) -> Tensor:
    """``gelu`` by erf for few tokens by way of tanh: off by 0.0005 at most, in a third of the time."""
    return functional.gelu(x, approximate="tanh") if x.shape[0] < 16 else functional.gelu(x)


def _tanh_gelu(x: Tensor) -> Tensor:
    """``gelu`` by tanh. For few tokens torch's own call; for many this form, which takes half its time on a CPU."""
    if x.device.type != "cpu" or x.shape[0] < 16:
        return functional.gelu(x, approximate="tanh")
    x = x.float()  # bfloat16 would round the cube
    inner = torch.addcmul(x, x * x, x, value=0.044715).mul_(2 * 0.7978845608028654)
    return inner.sigmoid_().mul_(x)


_KINDS: dict[str, tuple[Apply, Apply, tuple[str, str]]] = {
    "gelu": (_gelu, _rough_gelu, ("gelu", "none")),
    "tanh": (_tanh_gelu, _tanh_gelu, ("gelu", "tanh")),
    "silu": (functional.silu, functional.silu, ("swish", "")),
    "relu": (functional.relu, functional.relu, ("relu", "")),
}
