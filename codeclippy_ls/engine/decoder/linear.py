"""Number formats of linear layers, each behind a `Linear`: what it keeps, and how it multiplies.

``float32``, ``bfloat16`` and ``float16`` multiply in that format; on a CPU with oneDNN the weights of bfloat16 are
packed once. ``int8`` keeps a factor per output channel and quantizes each token's activations as it comes. A
`WeightFormats` names one format for few tokens and one for many, since what reads the fewest bytes is not what
multiplies
fastest; `choose_fastest_formats` finds it out on this machine. Knows nothing of models.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.activations import Activation

_STEP = 16  # tokens: oneDNN makes a kernel for every number of rows and keeps it, 0.6 MB each
MANY = 64  # tokens at a time that are many; a chunk of a prompt has more
PLAIN = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(Protocol):
    """A linear layer: (tokens, in) of any floating type to (tokens, out) in the type that the format computes in."""

    nbytes: int

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One linear layer: (out, in), its bias, and what comes behind it."""

    weight: Tensor
    bias: Tensor | None = None
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class WeightFormats:
    """The format for fewer than ``rows`` tokens at a time, and the one for more; the same name is one format."""

    few: str
    many: str
    rows: int = 0

    def __str__(self) -> str:
        return self.few if self.few == self.many else f"{self.few}, {self.many} from {self.rows} tokens"

    @property
    def dtype(self) -> torch.dtype:
        """What keys, values and the attention over them lose nothing by beside these weights."""
        names = {self.few, self.many} - {"int8"} or {"bfloat16" if _packs() else "float32"}
        return PLAIN["float32" if "float32" in names else names.pop()]


class _Plain:
    """Any device, any floating type."""

    __slots__ = ("_activation", "_bias", "_weight", "nbytes")

    def __init__(self, part: Part, dtype: torch.dtype) -> None:
        self._weight = part.weight.to(dtype).contiguous()
        self._bias = None if part.bias is None else part.bias.to(dtype)
        self._activation = part.activation
        self.nbytes = self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        out = functional.linear(x.to(self._weight.dtype), self._weight, self._bias)
        return out if self._activation is None else self._activation.exactly(out)


class _Packed:
    """bfloat16 in the order in which oneDNN's kernels read it: 1.3 to 2 times as fast as plain.

    Activations are applied to what the product still has at hand: `gelu` for a fourth of what it takes by itself.
    """

    __slots__ = ("_activation", "_bias", "_fused", "_weight", "nbytes")

    def __init__(self, part: Part) -> None:
        half = part.weight.to(torch.bfloat16).contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(half, 1)
        self._bias = None if part.bias is None else part.bias.to(torch.bfloat16)
        fused = None if part.activation is None else part.activation.fused
        self._fused = fused or ("none", "")
        self._activation = None if fused else part.activation
        self.nbytes = half.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        multiply, rows = torch.ops.mkldnn._linear_pointwise, x.shape[0]
        x = x.to(torch.bfloat16)
        if rows > _STEP and rows % _STEP:
            x = functional.pad(x, (0, 0, 0, -rows % _STEP))
        name, algorithm = self._fused
        out: Tensor = multiply(x, self._weight, self._bias, name, [], algorithm)
        return out[:rows] if self._activation is None else self._activation.exactly(out[:rows])


class Int8:
    """int8 weights with a factor per output channel, activations quantized at run time.

    The kernel takes one factor for all tokens of a call, so several tokens are brought to one size before it and back
    after it: else a token with large values would cost its neighbours their digits.
    """

    __slots__ = ("_activation", "_bias", "_even", "_multiply", "_packed", "nbytes")

    def __init__(self, part: Part) -> None:
        weight, bias = part.weight, part.bias
        self._bias = None if bias is None else bias.float()
        self._activation = part.activation
        self._multiply = torch.ops.quantized.linear_dynamic.default.op  # by its name a call takes a tenth longer
        rows, factors = _rounded(weight.float())
        zeros = torch.zeros(len(rows), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the operators stay when the module that made them popular goes
            # Not torch.quantize_per_channel, which takes five times as long.
            quantized = torch._make_per_channel_quantized_tensor(rows, factors[:, 0].double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, self._bias)
            self._even = self._packed if bias is None else torch.ops.quantized.linear_prepack(quantized, None)
        self.nbytes = weight.numel() + 4 * weight.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float()
        out: Tensor = self._multiply(x, self._packed, _seven_bits()) if x.shape[0] == 1 else self._several(x)
        return out if self._activation is None else self._activation.roughly(out)

    def _several(self, x: Tensor) -> Tensor:
        size = x.abs().amax(1, keepdim=True).clamp_min_(1e-12)  # half the time of a norm
        out: Tensor = self._multiply(x / size, self._even, _seven_bits())
        return out.mul_(size) if self._bias is None else torch.addcmul(self._bias, out, size)


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 rows and the factor of each, (out, 1)."""
    factors = (weight.abs().amax(1, keepdim=True) / 127).clamp_min_(1e-12)
    return (weight / factors).round_().to(torch.int8), factors


@lru_cache
def _seven_bits() -> bool:
    """Whether activations may have seven bits only: the kernels for CPUs without VNNI add pairs in 16 bits."""
    return bool(torch.backends.quantized.engine in ("x86", "fbgemm") and not torch.cpu._is_vnni_supported())


class _Switched:
    """One format for few tokens, another for many, of a `Linear`, a `MergedColumnLinear` or a `FusedResidualLinear`."""

    __slots__ = ("_few", "_many", "_rows", "nbytes")

    def __init__(self, few: Any, many: Any, rows: int) -> None:
        self._few, self._many, self._rows = few, many, rows
        self.nbytes = few.nbytes + many.nbytes

    def __call__(self, x: Tensor, *inputs: Tensor) -> Any:
        return (self._few if x.shape[0] < self._rows else self._many)(x, *inputs)


def build_linear(weight: Tensor, bias: Tensor | None, choice: WeightFormats) -> Linear:
    """The layer in a chosen format, on the weight's device."""
    return build_in_formats(lambda name: make_linear(name, Part(weight, bias)), choice)


def build_in_formats(made: Callable[[str], Any], choice: WeightFormats) -> Any:
    """What ``made`` makes of the choice's formats, as one."""
    few = made(choice.few)
    return few if choice.few == choice.many else _Switched(few, made(choice.many), choice.rows)


def make_linear(name: str, part: Part) -> Linear:
    """The layer in the format of that name."""
    if name == "int8":
        return Int8(part)
    if name == "bfloat16" and _packs_on(part.weight.device):
        return _Packed(part)
    return _Plain(part, PLAIN[name])


class Embedding:
    """A table of embeddings by id; ``int8`` keeps a factor per row."""

    __slots__ = ("_factors", "nbytes", "table")

    def __init__(self, weight: Tensor, choice: WeightFormats) -> None:
        self._factors: Tensor | None = None
        if choice.few == "int8":
            self.table, self._factors = _rounded(weight.float())
        else:
            self.table = weight.to(PLAIN[choice.few]).contiguous()
        self.nbytes = self.table.nbytes + (0 if self._factors is None else self._factors.nbytes)

    def __call__(self, ids: Sequence[int] | Tensor) -> Tensor:
        if isinstance(ids, Tensor):
            places = ids
        elif len(ids) == 1:  # the same in a third of the time
            row = self.table.narrow(0, ids[0], 1)
            return row.clone() if self._factors is None else row * self._factors.narrow(0, ids[0], 1)
        else:
            places = torch.tensor(ids, device=self.table.device)
        rows = self.table.index_select(0, places)
        return rows if self._factors is None else rows * self._factors.index_select(0, places)


def can_tie_lm_head(choice: WeightFormats, device: torch.device) -> bool:
    """Whether a format's `Embedding` table is the very matrix that its `Linear` multiplies by."""
    return choice.few == choice.many in PLAIN and not (choice.few == "bfloat16" and _packs_on(device))


@lru_cache
def list_available_formats(device: str) -> tuple[str, ...]:
    """Formats that work here, by trying each on a small layer."""
    return tuple(name for name in ("float32", "bfloat16", "float16", "int8") if _works(name, torch.device(device)))


def _works(name: str, device: torch.device) -> bool:
    if name == "int8" and device.type != "cpu":
        return False
    if name == "float16" and device.type == "cpu":
        return False  # emulated on most
    weight, x = torch.eye(64, device=device), torch.ones(3, 64, device=device)
    try:
        return bool((make_linear(name, Part(weight))(x).float() - x).abs().max() < 0.02)
    except Exception:  # what a build lacks shows in many kinds of errors
        return False


def _packs_on(device: torch.device) -> bool:
    return device.type == "cpu" and _packs()


@lru_cache
def _packs() -> bool:
    """Whether oneDNN multiplies packed bfloat16 here: it needs AVX512 or its like."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        x = torch.ones(2, 64)
        return bool((_Packed(Part(torch.eye(64)))(x).float() - x).abs().max() < 0.02)
    except Exception:  # builds without oneDNN, and other kinds of CPUs
        return False


@lru_cache
def choose_fastest_formats(device: str, width: int = 768) -> WeightFormats:
    """The fastest formats here for one token and for many: known of some CPUs, else by a moment of multiplying.

    Args:
        device: where the model is to run; only on a CPU there is anything to measure.
        width: the model's, since calls cost more than multiplying where it is small.
    """
    names = list_available_formats(device)
    if torch.device(device).type != "cpu":
        best = next(name for name in ("bfloat16", "float16", "float32") if name in names)
        return WeightFormats(best, best)
    if {"int8", "bfloat16"} <= set(names) and torch.cpu._is_amx_tile_supported():
        return WeightFormats("int8", "bfloat16", 16)  # what every measurement on such CPUs said, at all widths
    # Together larger than a core's own cache, as a model's weights are between two tokens.
    width = min(width, 768)
    weights = [torch.ones(4 * width, width) for _ in range(max(1, min(16, (1 << 19) // width**2)))]
    layers = {name: [make_linear(name, Part(weight)) for weight in weights] for name in names}
    few, many = (min(names, key=lambda name: _seconds(layers[name], rows, width)) for rows in (1, MANY))
    switch = next(
        (
            rows
            for rows in (4, 8, 16, 24, 32, 48)
            if _seconds(layers[many], rows, width) < _seconds(layers[few], rows, width)
        ),
        MANY,
    )
    return WeightFormats(few, many, 0 if few == many else switch)


@torch.inference_mode()
def _seconds(layers: list[Linear], rows: int, width: int) -> float:
    """The least of some passes through the layers: the first warms up, the others are spoilt by other processes."""
    x, least = torch.randn(rows, width), float("inf")
    for _ in range(5 if rows == 1 else 3):
        start = time.perf_counter()
        for layer in layers:
            layer(x)
        least = min(least, time.perf_counter() - start)
    return least
