"""Fold norms into the matrices behind them before these are quantized, as the decoder does when it loads a layer.

Layers whose attention and MLP read the same hidden states through norms of their own, as GPT-NeoX's, run with one norm
that only normalizes. What is folded beforehand needs no floats when it is loaded. Knows names and shapes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.loading.prepared_weights import PieceSource


class FoldedNorms:
    """Weights with their norms folded: a source of pieces like the one that it reads.

    Args:
        norm_of: the norm in front of each matrix, both without ``.weight``; each of these matrices has a bias.
    """

    def __init__(self, source: PieceSource, norm_of: dict[str, str]) -> None:
        self._source, self._norm_of = source, norm_of
        self._norms = frozenset(norm_of.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __getitem__(self, name: str) -> Tensor:
        module, _, parameter = name.rpartition(".")
        if module in self._norms:
            value = self._source[name]
            return torch.ones_like(value) if parameter == "weight" else torch.zeros_like(value)
        if module in self._norm_of and parameter == "bias":
            shift = self._source[f"{self._norm_of[module]}.bias"].float()
            products = [read().float() @ shift for read in self._source.list_pieces(f"{module}.weight")]
            return self._source[name].float() + torch.cat(products)
        return self._source[name]

    def read_shape(self, name: str) -> tuple[int, ...]:
        """See `PieceSource`."""
        return self._source.read_shape(name)

    def list_pieces(self, name: str) -> list[Callable[[], Tensor]]:
        """See `PieceSource`."""
        pieces, module = self._source.list_pieces(name), name.rpartition(".")[0]
        if module not in self._norm_of:
            return pieces
        scale = self._source[f"{self._norm_of[module]}.weight"].float()
        return [partial(_scale_columns, read, scale) for read in pieces]


def _scale_columns(read: Callable[[], Tensor], scale: Tensor) -> Tensor:
    return read().float() * scale


def find_foldable_norms(source: PieceSource, config: ModelConfig) -> dict[str, str]:
    """Return the norm in front of each matrix of parallel layers; empty if some have no bias to fold into."""
    spec, names = config.architecture, set(source)
    if not config.is_parallel or spec.norms[0] == spec.norms[1]:
        return {}
    found: dict[str, str] = {}
    for layer in range(config.num_layers):
        prefix = spec.layer_prefix.format(layer)
        found |= {prefix + name: prefix + spec.norms[0] for name in spec.qkv_proj}
        found |= {prefix + name: prefix + spec.norms[1] for name in spec.gate_up_proj}
    needed = {f"{module}.bias" for module in (*found, *found.values())}
    return found if needed <= names else {}
