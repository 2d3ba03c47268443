"""int8 weights by rows: as the files have them, and a product with them that needs no packing.

`QuantizedRows` is a matrix as int8 with a scale per row. It may lie in a memory-mapped file, so choosing and stacking
rows copies as little as possible. `multiply_rows` computes what the packed product computes, bit for bit but for the
rounding of a bias, from the rows as they are: as fast for one token and for many, half as fast for a few. So a model
can work at once and be packed in the background. Knows no layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class QuantizedRows:
    """A matrix ``rows * scales[:, None]``.

    Attributes:
        rows: (out, in), int8.
        scales: (out,), float32.
    """

    rows: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        return self.rows.shape

    @property
    def device(self) -> torch.device:
        """The device that it is on."""
        return self.rows.device

    def __len__(self) -> int:
        return len(self.rows)

    def float(self) -> Tensor:
        """Return the matrix in float32."""
        return self.rows.float().mul_(self.scales[:, None])


Weight: TypeAlias = Tensor | QuantizedRows


def quantize_rows(weight: Tensor, limits: Tensor | None = None) -> QuantizedRows:
    """Quantize (out, in) to int8 with a scale per row.

    Args:
        limits: (out,), the largest numbers of each row; by default the row's own.
    """
    scales = ((weight.abs().amax(1) if limits is None else limits) / 127).clamp_min_(1e-12)
    return QuantizedRows((weight / scales[:, None]).round_().to(torch.int8), scales)


def to_tensor(weight: Weight) -> Tensor:
    """Return a weight as a tensor of floats."""
    return weight.float() if isinstance(weight, QuantizedRows) else weight


def select_rows(weight: Weight, order: Tensor) -> Weight:
    """Return the rows with the indices of ``order``, (rows,)."""
    if isinstance(weight, QuantizedRows):
        return QuantizedRows(weight.rows.index_select(0, order), weight.scales.index_select(0, order))
    return weight.index_select(0, order)


def stack_rows(weights: Sequence[Weight]) -> Weight:
    """Stack matrices with the same number of columns; those that lie one after the other are not copied."""
    quantized = [weight for weight in weights if isinstance(weight, QuantizedRows)]
    if len(quantized) < len(weights):
        return torch.cat([to_tensor(weight) for weight in weights])
    scales = torch.cat([weight.scales for weight in quantized])
    return QuantizedRows(_join_neighbours([weight.rows for weight in quantized]), scales)


def join_columns(weights: Sequence[Weight]) -> Weight:
    """Put matrices with the same number of rows side by side; quantized ones stay so if they have the same scales."""
    quantized = [weight for weight in weights if isinstance(weight, QuantizedRows)]
    if len(quantized) == len(weights) and all(torch.equal(one.scales, quantized[0].scales) for one in quantized):
        return QuantizedRows(torch.cat([weight.rows for weight in quantized], 1), quantized[0].scales)
    return torch.cat([to_tensor(weight) for weight in weights], 1)


def _join_neighbours(parts: list[Tensor]) -> Tensor:
    first, num_rows = parts[0], sum(len(part) for part in parts)
    end = first.data_ptr()
    for part in parts:
        is_next = part.data_ptr() == end and part.is_contiguous() and part.device.type == "cpu"
        if not is_next or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(parts)
        end += part.nbytes
    return first.as_strided((num_rows, first.shape[1]), first.stride())


def can_multiply_rows() -> bool:
    """Return True if `multiply_rows` is exact and fast here: other CPUs add pairs in 16 bits, which may overflow."""
    return torch.cpu._is_vnni_supported()


def sum_rows(rows: Tensor) -> Tensor:
    """Sum each row of an int8 matrix, (out,) in int32; `Tensor.sum` would make a copy in four bytes."""
    ones = torch.ones(1, rows.shape[1], dtype=torch.int8)
    return torch._int_mm(ones, rows.t())[0]


def multiply_rows(x: Tensor, weight: QuantizedRows, row_sums: Tensor) -> Tensor:
    """Multiply (tokens, in) by an int8 matrix, with activations quantized as ``quantized.linear_dynamic`` does.

    Args:
        row_sums: (out,), int32, of the weight's rows.

    Returns:
        (tokens, out), float32.
    """
    quantized = torch.quantize_per_tensor_dynamic(x, torch.quint8, False)
    # The product takes signed numbers: 128 less, which the rows' sums make up for.
    signed = quantized.int_repr().bitwise_xor_(128).view(torch.int8)  # (tokens, in)
    out = torch._int_mm(signed, weight.rows.t())  # (tokens, out), int32
    out.add_(row_sums, alpha=128 - quantized.q_zero_point())
    return out.mul(weight.scales * quantized.q_scale())
