"""Read a GGUF file's tensors as transformers' weights: memory-mapped, dequantized in pieces, the converter undone.

What a converter does to a matrix is a new order of its rows, or a choice of them. Rows consist of whole blocks, so they
are put in order before they are dequantized. The package `gguf` has the formats of the blocks. Knows no configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codeclippy_ls.catalog.gguf_header import GgufError, GgufHeader, TensorInfo
from codeclippy_ls.engine.loading.gguf_architectures import FACTORS, GgufArchitecture, find_architecture

_PIECE_WEIGHTS = 1 << 21  # weights that are dequantized at once: 8 MB of float32, a part of a core's share of the cache


@dataclass(frozen=True, slots=True)
class _Source:
    """The place of a weight in the file.

    Attributes:
        rows: indices of the stored rows, in the weight's order; None for all as they are.
    """

    info: TensorInfo
    rows: np.ndarray[Any, Any] | None = None


class GgufWeights(Mapping[str, Tensor]):
    """Weights by transformers' names, each dequantized to float32 when it is accessed.

    Raises:
        GgufError: a tensor does not belong to the architecture.
    """

    def __init__(self, header: GgufHeader, config: Mapping[str, Any]) -> None:
        self._architecture = find_architecture(header)
        self._is_transposed = config["model_type"] == "gpt2"
        self._maps: dict[Path, np.ndarray[Any, Any]] = {}
        self._sources: dict[str, _Source] = {}
        for info in header.tensors:
            if info.name in FACTORS:  # are in the configuration
                continue
            self._sources.update(_name_sources(info, self._architecture, config))

    def __getitem__(self, name: str) -> Tensor:
        return (
            torch.cat([read() for read in self.list_pieces(name)])
            if len(self.read_shape(name)) > 1
            else self._read_vector(name)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def read_shape(self, name: str) -> tuple[int, ...]:
        """Return a weight's shape without reading the weight."""
        source = self._sources[name]
        shape = source.info.shape if source.rows is None else (len(source.rows), *source.info.shape[1:])
        return shape[::-1] if self._must_transpose(name) else shape

    def list_pieces(self, name: str) -> list[Callable[[], Tensor]]:
        """List functions that read a matrix's groups of rows; they may run on several threads."""
        source = self._sources[name]
        num_rows = source.info.shape[0] if source.rows is None else len(source.rows)
        if self._must_transpose(name):
            return [lambda: self._read_rows(source, 0, num_rows).t()]
        step = max(1, _PIECE_WEIGHTS // source.info.shape[-1])
        return [
            partial(self._read_rows, source, start, min(start + step, num_rows)) for start in range(0, num_rows, step)
        ]

    def _must_transpose(self, name: str) -> bool:
        """Return True for the matrices that transformers' GPT-2 stores (in, out)."""
        is_matrix = len(self._sources[name].info.shape) > 1
        return self._is_transposed and is_matrix and ".h." in name

    def _read_rows(self, source: _Source, start: int, stop: int) -> Tensor:
        blocks = self._get_blocks(source.info)
        chosen = blocks[start:stop] if source.rows is None else blocks[source.rows[start:stop]]
        return torch.from_numpy(_dequantize(chosen, source.info.type_name))

    def _read_vector(self, name: str) -> Tensor:
        source = self._sources[name]
        vector = torch.from_numpy(_dequantize(self._get_blocks(source.info), source.info.type_name)).reshape(-1)
        if source.rows is not None:
            vector = vector[torch.from_numpy(source.rows)]
        is_norm = name.rsplit(".", 2)[-2].endswith("norm")
        return vector - self._architecture.norm_offset if is_norm and self._architecture.norm_offset else vector

    def _get_blocks(self, info: TensorInfo) -> np.ndarray[Any, Any]:
        """Return a tensor's bytes: (rows, bytes of a row), mapped."""
        if info.path not in self._maps:
            self._maps[info.path] = np.memmap(info.path, dtype=np.uint8, mode="r")
        stored = self._maps[info.path][info.offset : info.offset + info.nbytes]
        return stored.reshape(1 if len(info.shape) == 1 else info.shape[0], -1)


def _dequantize(blocks: np.ndarray[Any, Any], type_name: str) -> np.ndarray[Any, Any]:
    if type_name in _DEQUANTIZERS:
        return _DEQUANTIZERS[type_name](np.ascontiguousarray(blocks)).reshape(len(blocks), -1)
    from gguf import GGMLQuantizationType, quants

    if type_name in ("F32", "F16"):  # `quants` expects these as numbers
        return np.ascontiguousarray(blocks).view("<f4" if type_name == "F32" else "<f2").astype(np.float32)
    values = quants.dequantize(np.ascontiguousarray(blocks), GGMLQuantizationType[type_name])
    return np.ascontiguousarray(values, dtype=np.float32)


def _dequantize_q8_0(blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return 32 signed bytes times a half: the same as the package's in a third of the time."""
    parts = blocks.reshape(-1, 34)
    factors = parts[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    return np.multiply(parts[:, 2:].view(np.int8), factors, dtype=np.float32)


def _dequantize_q5_0(blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return 32 numbers of five bits, 16 is zero: the fifth bits in front, then low halves of bytes and high ones."""
    parts = blocks.reshape(-1, 22)
    factors = parts[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    numbers = np.unpackbits(parts[:, 2:6], axis=1, bitorder="little")  # (blocks, 32)
    numbers <<= 4
    numbers[:, :16] |= parts[:, 6:] & 15
    numbers[:, 16:] |= parts[:, 6:] >> 4
    numbers -= 16
    return np.multiply(numbers.view(np.int8), factors, dtype=np.float32)


# Of the types that small models consist of.
_DEQUANTIZERS = {"Q8_0": _dequantize_q8_0, "Q5_0": _dequantize_q5_0}


def _name_sources(info: TensorInfo, row: GgufArchitecture, config: Mapping[str, Any]) -> dict[str, _Source]:
    """Return the weights that a tensor holds, by transformers' names."""
    part = info.name.rpartition(".")[0].rpartition(".")[2]
    num_heads, num_kv_heads, head_dim = (
        config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    if part == "attn_qkv" and row.model_type == "phi":
        return _split_qkv(info, row, (num_heads * head_dim, num_kv_heads * head_dim))
    name = row.name_weight(info.name)
    if len(info.shape) > 2:
        raise GgufError(f"has a tensor {info.name[:60]!r} with {len(info.shape)} dimensions, which is not supported")
    if row.are_qk_permuted and part in ("attn_q", "attn_k"):
        heads = num_heads if part == "attn_q" else num_kv_heads
        return {name: _Source(info, _undo_permutation(info, heads))}
    if row.is_qkv_stacked and part == "attn_qkv":
        return {name: _Source(info, _undo_stacking(info, num_heads))}
    return {name: _Source(info)}


def _split_qkv(info: TensorInfo, row: GgufArchitecture, sizes: tuple[int, int]) -> dict[str, _Source]:
    """Split rows of q, k and v."""
    q_size, kv_size = sizes
    if info.shape[0] != q_size + 2 * kv_size:
        raise GgufError(f"is damaged: its tensor {info.name!r} has {info.shape[0]} rows")
    rows = np.split(np.arange(info.shape[0]), [q_size, q_size + kv_size])
    names = (row.name_weight(info.name.replace("attn_qkv", part)) for part in ("attn_q", "attn_k", "attn_v"))
    return {name: _Source(info, part) for name, part in zip(names, rows, strict=True)}


def _undo_permutation(info: TensorInfo, num_heads: int) -> np.ndarray[Any, Any]:
    """Return for each of transformers' rows the stored one: neighbouring rotary pairs become two halves of a head."""
    rows = np.arange(info.shape[0])
    if len(rows) % (2 * num_heads):
        raise GgufError(f"is damaged: its tensor {info.name!r} has {len(rows)} rows for {num_heads} heads")
    return rows.reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _undo_stacking(info: TensorInfo, num_heads: int) -> np.ndarray[Any, Any]:
    """Return for each of transformers' rows, q, k and v of each head, the stored one: all of q, all of k, all of v."""
    rows = np.arange(info.shape[0])
    if len(rows) % (3 * num_heads):
        raise GgufError(f"is damaged: its tensor {info.name!r} has {len(rows)} rows for {num_heads} heads")
    return rows.reshape(3, num_heads, -1).swapaxes(0, 1).reshape(-1)
