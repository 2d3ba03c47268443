"""Number formats of linear layers, each behind the `Linear` protocol: what it stores, and how it multiplies.

``float32``, ``bfloat16`` and ``float16`` multiply in that format; on a CPU with oneDNN the bfloat16 weights are packed
once. ``int8`` stores a factor per output channel and quantizes each token's activations at run time. `WeightFormats`
names one format for decoding and one for prefill, since the format that reads the fewest bytes is not the one that
multiplies fastest; `choose_fastest_formats` measures them on this machine. Knows nothing of models.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.activations import Activation
from codeclippy_ls.engine.decoder.quantized_rows import (
    QuantizedRows,
    Weight,
    can_multiply_rows,
    multiply_rows,
    quantize_rows,
    sum_rows,
    to_tensor,
)

_ROW_STEP = 16  # tokens: oneDNN makes a kernel for every number of rows and keeps it, 0.6 MB each
MIN_PREFILL_TOKENS = 64  # from here on a pass counts as prefill; a chunk of a prompt has more
_MIN_DEFERRED = 1 << 19  # weights of a matrix that is packed later; smaller ones take a millisecond
_MIN_KNOWN_WIDTH = 512  # hidden size from which the products decide, not the calls
_MAX_PACKED_ROWS = 32768  # that are packed at once
FLOAT_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(Protocol):
    """A linear layer: (tokens, in) of any float type to (tokens, out) in the type that the format computes in."""

    nbytes: int

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """The weight of a linear layer, (out, in), its bias, (out,), and the activation that follows it."""

    weight: Weight
    bias: Tensor | None = None
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class WeightFormats:
    """The weight format of passes over fewer than ``prefill_from`` tokens, and that of longer ones; may be the same."""

    decode: str
    prefill: str
    prefill_from: int = 0

    def __str__(self) -> str:
        if self.decode == self.prefill:
            return self.decode
        return f"{self.decode}, {self.prefill} from {self.prefill_from} tokens"

    @property
    def dtype(self) -> torch.dtype:
        """The type in which keys, values and attention lose nothing beside these weights."""
        names = {self.decode, self.prefill} - {"int8"} or {"bfloat16" if _has_packed_bfloat16() else "float32"}
        return FLOAT_FORMATS["float32" if "float32" in names else names.pop()]


class _FloatLinear:
    """A float format, on every device."""

    __slots__ = ("_activation", "_bias", "_weight", "nbytes")

    def __init__(self, spec: LinearSpec, dtype: torch.dtype) -> None:
        self._weight = to_tensor(spec.weight).to(dtype).contiguous()
        self._bias = None if spec.bias is None else spec.bias.to(dtype)
        self._activation = spec.activation
        self.nbytes = self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        out = functional.linear(x.to(self._weight.dtype), self._weight, self._bias)
        return out if self._activation is None else self._activation.exact(out)


class _PackedBfloat16Linear:
    """bfloat16 in the order in which oneDNN's kernels read it: 1.3 to 2 times as fast as plain.

    The product applies the activation to its output while that is still in registers: GELU in a fourth of its own time.
    """

    __slots__ = ("_activation", "_bias", "_fused", "_weight", "nbytes")

    def __init__(self, spec: LinearSpec) -> None:
        weight = to_tensor(spec.weight).to(torch.bfloat16).contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        self._bias = None if spec.bias is None else spec.bias.to(torch.bfloat16)
        fused = None if spec.activation is None else spec.activation.fused
        self._fused = fused or ("none", "")
        self._activation = None if fused else spec.activation
        self.nbytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        multiply, tokens = torch.ops.mkldnn._linear_pointwise, x.shape[0]
        x = x.to(torch.bfloat16)
        if tokens > _ROW_STEP and tokens % _ROW_STEP:
            x = functional.pad(x, (0, 0, 0, -tokens % _ROW_STEP))  # (tokens rounded up, in)
        name, algorithm = self._fused
        out: Tensor = multiply(x, self._weight, self._bias, name, [], algorithm)
        return out[:tokens] if self._activation is None else self._activation.exact(out[:tokens])


_deferred: list[Int8Linear] = []  # built and not packed yet, until `take_deferred`; the engine thread's


def take_deferred() -> list[Int8Linear]:
    """Return the layers that were built since the last call and are not packed yet."""
    taken = list(_deferred)
    _deferred.clear()
    return taken


class Int8Linear:
    """int8 weights with a factor per output channel, activations quantized at run time.

    The kernel takes one factor for all tokens of a call. So several tokens are scaled to the same maximum before the
    call and scaled back after it: else a token with large values would cost the others their digits.

    Packing takes 5 s for half a billion weights. So a large matrix that is quantized already multiplies as it is, with
    the same results, until `pack` has been called, which another thread may do.
    """

    __slots__ = ("__weakref__", "_activation", "_bias", "_packed", "_rows", "nbytes")

    def __init__(self, spec: LinearSpec) -> None:
        weight, bias = spec.weight, spec.bias
        self._bias = None if bias is None else bias.float()
        self._activation = spec.activation
        is_deferred = isinstance(weight, QuantizedRows) and weight.rows.numel() > _MIN_DEFERRED and can_multiply_rows()
        rows = weight if isinstance(weight, QuantizedRows) else quantize_rows(weight.float())
        self.nbytes = rows.rows.numel() + 4 * len(rows)
        # One of the two is set; `pack` sets the first before it clears the second.
        self._packed = None if is_deferred else _PackedRows(rows, self._bias)
        self._rows = _UnpackedRows(rows, self._bias) if is_deferred else None
        if is_deferred:
            _deferred.append(self)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float()
        out = self._multiply(x, True) if x.shape[0] == 1 else self._multiply_scaled(x)
        return out if self._activation is None else self._activation.approximate(out)

    def pack(self) -> None:
        """Pack the weights if they are not packed yet, and let go of the rows."""
        if (rows := self._rows) is not None:
            self._packed = _PackedRows(rows.weight, self._bias)
            self._rows = None

    def _multiply(self, x: Tensor, has_bias: bool) -> Tensor:
        weights = self._rows or self._packed
        assert weights is not None
        return weights.multiply(x, has_bias)

    def _multiply_scaled(self, x: Tensor) -> Tensor:
        maxima = x.abs().amax(1, keepdim=True).clamp_min_(1e-12)  # (tokens, 1); half the time of a norm
        out = self._multiply(x / maxima, False)
        return out.mul_(maxima) if self._bias is None else torch.addcmul(self._bias, out, maxima)


class _UnpackedRows:
    """Rows that are multiplied as they are."""

    __slots__ = ("_bias", "_sums", "weight")

    def __init__(self, weight: QuantizedRows, bias: Tensor | None) -> None:
        self.weight, self._bias = weight, bias
        self._sums: Tensor | None = None

    def multiply(self, x: Tensor, has_bias: bool) -> Tensor:
        """Multiply (tokens, in) to (tokens, out), float32."""
        if self._sums is None:
            self._sums = sum_rows(self.weight.rows)  # (out,)
        out = multiply_rows(x, self.weight, self._sums)
        return out.add_(self._bias) if has_bias and self._bias is not None else out


class _PackedRows:
    """Weights in the order in which the kernel reads them, in parts.

    The kernel reads the rows of a part by columns while it packs, so that it takes three times as long for the rows of
    a whole vocabulary at once.
    """

    __slots__ = ("_multiply", "_with_bias", "_without_bias")

    def __init__(self, weight: QuantizedRows, bias: Tensor | None) -> None:
        self._multiply = torch.ops.quantized.linear_dynamic.default.op  # by its name a call takes a tenth longer
        self._with_bias: list[Any] = []
        self._without_bias: list[Any] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated, these operators are not
            for start in range(0, len(weight), _MAX_PACKED_ROWS):
                part = slice(start, start + _MAX_PACKED_ROWS)
                self._pack(weight.rows[part], weight.scales[part], None if bias is None else bias[part])

    def _pack(self, rows: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        zero_points, prepack = torch.zeros(len(rows), dtype=torch.long), torch.ops.quantized.linear_prepack
        # Not torch.quantize_per_channel, which takes five times as long.
        quantized = torch._make_per_channel_quantized_tensor(rows, scales.double(), zero_points, 0)
        self._with_bias.append(prepack(quantized, bias))
        self._without_bias.append(self._with_bias[-1] if bias is None else prepack(quantized, None))

    def multiply(self, x: Tensor, has_bias: bool) -> Tensor:
        """Multiply (tokens, in) to (tokens, out), float32."""
        parts, reduce_range = self._with_bias if has_bias else self._without_bias, _should_reduce_range()
        if len(parts) == 1:
            out: Tensor = self._multiply(x, parts[0], reduce_range)
            return out
        return torch.cat([self._multiply(x, part, reduce_range) for part in parts], 1)


@lru_cache
def _should_reduce_range() -> bool:
    """Return True if activations must have seven bits: the kernels for CPUs without VNNI add pairs in 16 bits."""
    return bool(torch.backends.quantized.engine in ("x86", "fbgemm") and not torch.cpu._is_vnni_supported())


Layer = TypeVar("Layer")  # `Linear`, `MergedColumnLinear` or `FusedResidualLinear`


class _FormatSwitch:
    """A `Linear`, `MergedColumnLinear` or `FusedResidualLinear` with one format for decoding, another for prefill."""

    __slots__ = ("_decode", "_prefill", "_prefill_from", "nbytes")

    def __init__(self, decode: Any, prefill: Any, prefill_from: int) -> None:
        self._decode, self._prefill, self._prefill_from = decode, prefill, prefill_from
        self.nbytes = decode.nbytes + prefill.nbytes

    def __call__(self, x: Tensor, *inputs: Tensor) -> Any:
        return (self._decode if x.shape[0] < self._prefill_from else self._prefill)(x, *inputs)


def build_linear(weight: Weight, bias: Tensor | None, formats: WeightFormats) -> Linear:
    """Build a linear layer in the chosen formats, on the weight's device."""
    return build_in_formats(lambda name: make_linear(name, LinearSpec(weight, bias)), formats)


def build_in_formats(make: Callable[[str], Layer], formats: WeightFormats) -> Layer:
    """Build a layer by ``make`` in each of the formats, behind one switch if they are two."""
    decode = make(formats.decode)
    if formats.decode == formats.prefill:
        return decode
    return cast(Layer, _FormatSwitch(decode, make(formats.prefill), formats.prefill_from))


def make_linear(name: str, spec: LinearSpec) -> Linear:
    """Make a linear layer in the format of that name."""
    if name == "int8":
        return Int8Linear(spec)
    if name == "bfloat16" and _supports_packed_bfloat16(spec.weight.device):
        return _PackedBfloat16Linear(spec)
    return _FloatLinear(spec, FLOAT_FORMATS[name])


class Embedding:
    """The embedding table in the decoding format; ``int8`` with a scale per row.

    Attributes:
        table: (vocab_size, hidden_size).
    """

    __slots__ = ("_scales", "nbytes", "table")

    def __init__(self, weight: Weight, formats: WeightFormats) -> None:
        self._scales: Tensor | None = None
        if formats.decode == "int8":
            quantized = weight if isinstance(weight, QuantizedRows) else quantize_rows(weight.float())
            self.table, self._scales = quantized.rows, quantized.scales[:, None]
        else:
            self.table = to_tensor(weight).to(FLOAT_FORMATS[formats.decode]).contiguous()
        self.nbytes = self.table.nbytes + (0 if self._scales is None else self._scales.nbytes)

    def __call__(self, token_ids: Sequence[int] | Tensor) -> Tensor:
        """Look up tokens: (tokens,) to (tokens, hidden_size)."""
        if isinstance(token_ids, Tensor):
            indices = token_ids
        elif len(token_ids) == 1:  # the same in a third of the time
            row = self.table.narrow(0, token_ids[0], 1)
            return row.clone() if self._scales is None else row * self._scales.narrow(0, token_ids[0], 1)
        else:
            indices = torch.tensor(token_ids, device=self.table.device)
        rows = self.table.index_select(0, indices)
        return rows if self._scales is None else rows * self._scales.index_select(0, indices)


def can_tie_lm_head(formats: WeightFormats, device: torch.device) -> bool:
    """Return True if the LM head multiplies by the very matrix of the `Embedding`, so that one copy is enough."""
    is_packed = formats.decode == "bfloat16" and _supports_packed_bfloat16(device)
    return formats.decode == formats.prefill in FLOAT_FORMATS and not is_packed


@lru_cache
def list_available_formats(device: str) -> tuple[str, ...]:
    """List the formats that work here, by trying each on a small layer."""
    return tuple(name for name in ("float32", "bfloat16", "float16", "int8") if _try_format(name, torch.device(device)))


def _try_format(name: str, device: torch.device) -> bool:
    if name == "int8" and device.type != "cpu":
        return False
    if name == "float16" and device.type == "cpu":
        return False  # emulated on most
    weight, x = torch.eye(64, device=device), torch.ones(3, 64, device=device)
    try:
        return bool((make_linear(name, LinearSpec(weight))(x).float() - x).abs().max() < 0.02)
    except Exception:  # builds that lack a kernel raise many kinds of errors
        return False


def _supports_packed_bfloat16(device: torch.device) -> bool:
    return device.type == "cpu" and _has_packed_bfloat16()


@lru_cache
def _has_packed_bfloat16() -> bool:
    """Return True if oneDNN multiplies packed bfloat16 on this CPU: it needs AVX512 or the like."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        x = torch.ones(2, 64)
        return bool((_PackedBfloat16Linear(LinearSpec(torch.eye(64)))(x).float() - x).abs().max() < 0.02)
    except Exception:  # builds without oneDNN, and other kinds of CPUs
        return False


@lru_cache
def choose_fastest_formats(device: str, hidden_size: int = 768) -> WeightFormats:
    """Choose the fastest formats for one token and for many: known of some CPUs, else from a quick measurement.

    Args:
        device: where the model is to run; only on a CPU there is anything to measure.
        hidden_size: the model's; in small ones calls cost more than multiplying.
    """
    names = list_available_formats(device)
    if torch.device(device).type != "cpu":
        best = next(name for name in ("bfloat16", "float16", "float32") if name in names)
        return WeightFormats(best, best)
    if {"int8", "bfloat16"} <= set(names) and torch.cpu._is_amx_tile_supported():
        return WeightFormats("int8", "bfloat16", 16)  # the result of every measurement on such CPUs, at all sizes
    if "int8" in names and hidden_size >= _MIN_KNOWN_WIDTH and _multiplies_int8_fastest():
        return WeightFormats("int8", "int8")  # a measurement on busy cores once chose float32 beside it: 2 GB more
    # Together larger than a core's own cache, as a model's weights are between two tokens.
    size = min(hidden_size, 768)
    weights = [torch.ones(4 * size, size) for _ in range(max(1, min(16, (1 << 19) // size**2)))]
    layers = {name: [make_linear(name, LinearSpec(weight)) for weight in weights] for name in names}
    decode, prefill = (
        min(names, key=lambda name: _time_layers(layers[name], tokens, size)) for tokens in (1, MIN_PREFILL_TOKENS)
    )
    prefill_from = next(
        (
            tokens
            for tokens in (4, 8, 16, 24, 32, 48)
            if _time_layers(layers[prefill], tokens, size) < _time_layers(layers[decode], tokens, size)
        ),
        MIN_PREFILL_TOKENS,
    )
    return WeightFormats(decode, prefill, 0 if decode == prefill else prefill_from)


def _multiplies_int8_fastest() -> bool:
    """Return True for CPUs with VNNI and without bfloat16: there int8 multiplies twice as fast as float32."""
    return bool(torch.cpu._is_vnni_supported() and not torch.cpu._is_avx512_bf16_supported())


@torch.inference_mode()
def _time_layers(layers: list[Linear], tokens: int, size: int) -> float:
    """Return the minimum seconds of a few passes: the first warms up, other processes disturb the rest."""
    x, fastest = torch.randn(tokens, size), float("inf")
    for _ in range(5 if tokens == 1 else 3):
        start = time.perf_counter()
        for layer in layers:
            layer(x)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
