"""Write weights as a safetensors file, piece by piece, with the matrices in the format that a model will run in.

The file has the layout of the shipped model's: int8 matrices with a scale per row, or plain ones. Never more than a few
pieces are in memory, and several threads read and quantize them. Knows names and shapes only.
"""

from __future__ import annotations

import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.decoder.linear import FLOAT_FORMATS
from codeclippy_ls.engine.decoder.quantized_rows import QuantizedRows, quantize_rows
from codeclippy_ls.engine.generation.threads import count_cores
from codeclippy_ls.engine.loading.weights import INT8_METADATA, SCALE

Report = Callable[[float], None]  # is told the share that is done
_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")
_MAX_THREADS = 8
_PIECES_IN_FLIGHT = 3  # per thread; a piece is 8 MB in float32
_TYPE_NAMES = {torch.int8: "I8", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class PieceSource(Protocol):
    """Weights by name that can be read in pieces."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""

    def __getitem__(self, name: str) -> Tensor:
        """Return a whole weight."""

    def read_shape(self, name: str) -> tuple[int, ...]:
        """Return a weight's shape without reading the weight."""

    def list_pieces(self, name: str) -> list[Callable[[], Tensor]]:
        """List functions that read a matrix's groups of rows, of any float type; they may run on several threads."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """The plan of what is quantized to int8, and how.

    Attributes:
        unquantized: matrices that stay float32: those that are never multiplied, and those that a norm is still to be
            folded into.
        partners: matrices that are added up in one product, so that they need the same scales.
    """

    unquantized: frozenset[str] = frozenset()
    partners: Mapping[str, str] = field(default_factory=dict)


def plan_quantization(config: ModelConfig, are_norms_folded: bool = False) -> Quantization:
    """Plan it so that the model computes the same as when its weights are quantized after loading."""
    spec, layers = config.architecture, range(config.num_layers)
    unquantized = {spec.position_embedding} if spec.position_embedding else set()
    partners: dict[str, str] = {}
    if config.is_parallel:
        for layer in layers:
            prefix = spec.layer_prefix.format(layer)
            o_proj, down_proj = f"{prefix}{spec.o_proj}.weight", f"{prefix}{spec.down_proj}.weight"
            partners |= {o_proj: down_proj, down_proj: o_proj}
            if spec.norms[0] != spec.norms[1] and not are_norms_folded:
                unquantized |= {prefix + name for name in (*spec.qkv_proj, *spec.gate_up_proj)}
    return Quantization(frozenset(f"{name}.weight" for name in unquantized), partners)


def compute_prepared_bytes(source: PieceSource, number_format: str, quantization: Quantization) -> int:
    """Return the size of the file that `write_weights` writes, without its header."""
    plan = _plan_tensors(source, number_format, quantization.unquantized)
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in plan.values())


def write_weights(
    path: Path,
    source: PieceSource,
    number_format: str,
    quantization: Quantization,
    report: Report = lambda share: None,
) -> None:
    """Write weights in a number format: ``int8`` or one of `FLOAT_FORMATS`.

    Args:
        quantization: for ``int8``.
        report: called after each matrix.
    """
    plan = _plan_tensors(source, number_format, quantization.unquantized)
    offsets, end = {}, 0
    for name, (shape, dtype) in plan.items():
        offsets[name] = (end, end + math.prod(shape) * dtype.itemsize)
        end = offsets[name][1]
    last = max(offsets[name][1] for name in source)
    header = _make_header(plan, offsets, number_format)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of each of the threads below
    try:
        with path.open("wb") as file, ThreadPoolExecutor(min(_MAX_THREADS, count_cores())) as threads:
            file.write(header)
            for name in source:
                file.seek(len(header) + offsets[name][0])
                if plan[name][1] is torch.int8:
                    partner = quantization.partners.get(name)
                    limits = None if partner is None else _find_limits(source, (name, partner), threads)
                    scales = _write_int8(file, source.list_pieces(name), limits, threads)
                    file.seek(len(header) + offsets[name + SCALE][0])
                    file.write(_to_bytes(scales))
                else:
                    _write_float(file, source, name, plan[name][1], threads)
                report(offsets[name][1] / last)
    finally:
        torch.set_num_threads(num_threads)


def _plan_tensors(
    source: PieceSource, number_format: str, unquantized: frozenset[str]
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of each tensor in the file."""
    plan: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    scales: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name in source:
        shape = source.read_shape(name)
        if len(shape) != 2 or (number_format == "int8" and name in unquantized):
            plan[name] = (shape, torch.float32)
        elif number_format == "int8":
            plan[name], scales[name + SCALE] = (shape, torch.int8), (shape[:1], torch.float32)
        else:
            plan[name] = (shape, FLOAT_FORMATS[number_format])
    return {**plan, **scales}  # a layer's matrices lie one after the other


def _make_header(
    plan: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    offsets: Mapping[str, tuple[int, int]],
    number_format: str,
) -> bytes:
    metadata = {"format": "pt", **(INT8_METADATA if number_format == "int8" else {})}
    tensors = {
        name: {"dtype": _TYPE_NAMES[dtype], "shape": list(shape), "data_offsets": list(offsets[name])}
        for name, (shape, dtype) in plan.items()
    }
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    text += b" " * (-len(text) % 64)  # weights begin aligned, so that they can be used where they are mapped
    return struct.pack("<Q", len(text)) + text


def _write_int8(
    file: BinaryIO, pieces: list[Callable[[], Tensor]], limits: Tensor | None, threads: ThreadPoolExecutor
) -> Tensor:
    """Write a matrix's rows; return their scales, (rows,)."""
    scales: list[Tensor] = []
    row_limits = [None] * len(pieces) if limits is None else limits.split(len(pieces[0]()))

    def quantize(piece: tuple[Callable[[], Tensor], Tensor | None]) -> QuantizedRows:
        read, piece_limits = piece
        return quantize_rows(read().float(), piece_limits)

    for part in _run_in_order(threads, quantize, list(zip(pieces, row_limits, strict=True))):
        file.write(_to_bytes(part.rows))
        scales.append(part.scales)
    return torch.cat(scales)


def _find_limits(source: PieceSource, names: Sequence[str], threads: ThreadPoolExecutor) -> Tensor:
    """Return the maximum of each row over several matrices, (rows,)."""

    def measure(read: Callable[[], Tensor]) -> Tensor:
        return read().float().abs().amax(1)

    maxima = [torch.cat(list(_run_in_order(threads, measure, source.list_pieces(name)))) for name in names]
    return torch.stack(maxima).amax(0)


def _write_float(
    file: BinaryIO, source: PieceSource, name: str, dtype: torch.dtype, threads: ThreadPoolExecutor
) -> None:
    if len(source.read_shape(name)) != 2:
        file.write(_to_bytes(source[name].to(dtype)))
        return
    for rows in _run_in_order(threads, lambda read: read().to(dtype), source.list_pieces(name)):
        file.write(_to_bytes(rows))


def _run_in_order(
    threads: ThreadPoolExecutor, work: Callable[[_Piece], _Result], pieces: Sequence[_Piece]
) -> Iterator[_Result]:
    """Yield the result of each piece in order, with a few of them in flight."""
    waiting: deque[Future[_Result]] = deque()
    for piece in pieces:
        waiting.append(threads.submit(work, piece))
        if len(waiting) > _PIECES_IN_FLIGHT * min(_MAX_THREADS, count_cores()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _to_bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(torch.uint8).numpy()).cast("B") if tensor.numel() else memoryview(b"")
