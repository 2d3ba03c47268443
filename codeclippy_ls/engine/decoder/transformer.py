"""One hand-written decoder for the architectures of `layouts`, inference only.

All tokens of all feeds run through the linear layers together, and only attention is per feed, so that several
candidates cost about one pass over the weights. For a small model on a CPU the number of calls into torch decides:
there are no heads in Python, positions come from tables, and keys and values are written in one call. Knows token ids
only, and nothing of where weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.activations import Activation
from codeclippy_ls.engine.decoder.architectures import LM_HEAD_NAMES, Matrix, ModelConfig, Weights, parse_config, read
from codeclippy_ls.engine.decoder.attention import AttentionBatch, ContiguousKVCache, RaggedBatch, joined
from codeclippy_ls.engine.decoder.cuda_graphs import CudaGraphCapture, CudaGraphRunner, Record, copy_to_cpu
from codeclippy_ls.engine.decoder.fused_linear import (
    FusedResidualLinear,
    MergedColumnLinear,
    make_merged_linear,
    make_residual_linear,
)
from codeclippy_ls.engine.decoder.linear import Embedding, Part, WeightFormats, build_linear, can_tie_lm_head
from codeclippy_ls.engine.generation.kv_cache import ModelInput


class _Norm:
    """Layer norm, or by the root of the mean square."""

    __slots__ = ("_bias", "_epsilon", "_rms", "_shape", "_weight")

    def __init__(self, matrix: Matrix, shape: ModelConfig, dtype: torch.dtype) -> None:
        self._weight = matrix.weight.to(dtype)
        self._bias = None if matrix.bias is None else matrix.bias.to(dtype)
        self._shape = (shape.width,)
        self._epsilon = shape.epsilon
        self._rms = shape.layout.rms

    def __call__(self, x: Tensor) -> Tensor:
        if self._rms:
            return functional.rms_norm(x, self._shape, self._weight, self._epsilon)
        return functional.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    """``enter`` makes q, k and v, ``leave`` adds what attention found to the hidden states.

    Where attention and MLP read the same, ``enter`` makes what rises in the MLP as well, and ``leave`` adds both: in
    all layers but the last, where not everybody's is wanted.
    """

    index: int
    norm: _Norm
    enter: MergedColumnLinear
    leave: FusedResidualLinear
    second_norm: _Norm | None
    rise: MergedColumnLinear | None
    down: FusedResidualLinear | None


class Transformer:
    """A decoder over weights that it has taken into its own form.

    Args:
        config: transformers' configuration, of which `layouts.is_supported` is True.
        weights: a loaded module's ``state_dict()``, or the tensors of such by name, on the device to run on.
        choice: number formats of the linear layers.
        record: how passes of a fixed form are recorded; as CUDA graphs where that is the device.

    Attributes:
        nbytes: memory of the weights.
        dtype: the number format, in words.
        graphs: the recorded passes, where there are such.
    """

    def __init__(self, config: Any, weights: Weights, choice: WeightFormats, record: Record | None = None) -> None:
        shape = parse_config(config)
        if shape is None:
            raise ValueError(f"no layout for this {config.model_type!r} configuration")
        layout, table = shape.layout, weights[f"{shape.layout.embedding}.weight"]
        self._shape = shape
        self.architecture, self.context_length, self.vocab_size = shape.kind, shape.window, shape.vocabulary
        self.num_parameters = shape.parameters
        self.device = table.device
        self.dtype = str(choice)
        self._memory = choice.dtype  # of keys, values and the attention over them
        # Rounding of the hidden states costs more than it saves on a CPU.
        self._dtype = torch.float32 if table.device.type == "cpu" else choice.dtype
        self._layers = [self._layer(read(shape, weights, index), index, choice) for index in range(shape.layers)]
        self._embedding = Embedding(table, choice)
        self._positions = weights[f"{layout.positions}.weight"].to(self._dtype) if layout.positions else None
        last = Matrix(weights[f"{layout.last_norm}.weight"], weights.get(f"{layout.last_norm}.bias"))
        self._last_norm = _Norm(last, shape, self._dtype)
        head = next((weights[f"{name}.weight"] for name in LM_HEAD_NAMES if f"{name}.weight" in weights), table)
        once = head.data_ptr() == table.data_ptr() and can_tie_lm_head(choice, table.device)
        self._head = build_linear(
            self._embedding.table if once else head, weights.get(f"{LM_HEAD_NAMES[0]}.bias"), choice
        )
        self._turns = torch.empty(0)
        self.nbytes = (
            self._head.nbytes
            + (0 if once else self._embedding.nbytes)
            + sum(
                part.nbytes
                for layer in self._layers
                for part in (layer.enter, layer.leave, layer.rise, layer.down)
                if part is not None
            )
        )
        if record is None and self.device.type == "cuda":
            record = CudaGraphCapture()
        self.graphs = None if record is None else CudaGraphRunner(self, shape, self._memory, record)

    def _layer(self, weights: Any, index: int, choice: WeightFormats) -> _Layer:
        shape = self._shape

        def norm(matrix: Matrix) -> _Norm:
            return _Norm(matrix, shape, self._dtype)

        qkv, out, down = (Part(part.weight, part.bias) for part in (weights.qkv, weights.out, weights.down))
        rise = Part(weights.rise.weight, weights.rise.bias, Activation(shape.activation, len(shape.layout.rises) > 1))
        parallel, last = weights.second_norm is None, index == shape.layers - 1
        together = parallel and not last
        return _Layer(
            index,
            norm(weights.norm),
            make_merged_linear([qkv, rise] if together else [qkv], choice),
            make_residual_linear([out, down] if parallel else [out], choice),
            None if parallel else norm(weights.second_norm),
            None if together else make_merged_linear([rise], choice),
            None if parallel else make_residual_linear([down], choice),
        )

    def new_cache(self) -> ContiguousKVCache:
        """An empty cache of this model's."""
        shape = self._shape
        size = (shape.layers, 2, shape.groups, 0, shape.size)
        return ContiguousKVCache(torch.empty(size, dtype=self._memory, device=self.device), shape.window)

    @torch.inference_mode()
    def forward(self, feeds: Sequence[ModelInput]) -> list[Tensor]:
        """Run each feed's tokens after what its cache holds, and extend the caches.

        Returns:
            Per feed: logits of its last ``rows`` tokens, shape (rows, vocabulary), float32, in the CPU's memory.

        Raises:
            ValueError: a feed has no tokens, or fewer than rows, or learned positions end before its last.
        """
        if self.graphs is not None and self.graphs.takes(feeds):
            return self.graphs.forward(feeds)
        seats = RaggedBatch(self._shape, feeds, self._memory, None if self._positions is None else len(self._positions))
        seats.turns = None if (turns := self.turns(seats.end)) is None else seats.taken(turns)
        rows = [feed.num_logits for feed in feeds]
        if sum(rows):
            wanted = None if sum(rows) == len(seats.tokens) else seats.wanted
            logits = copy_to_cpu(self.logits(seats.tokens, seats, wanted))
        else:
            self._remembered(seats)
            logits = torch.empty(0, self.vocab_size)
        seats.close()
        return [logits] if len(feeds) == 1 else list(logits.split(rows))

    def logits(self, tokens: Sequence[int] | Tensor, batch: AttentionBatch, wanted: list[slice] | None) -> Tensor:
        """What follows the tokens wanted, or all: (tokens, vocabulary), float32, on the device; the caches grow."""
        x = self._read(tokens, batch)
        return self._head(self._last_norm(self._run(self._layers[-1], x, batch, wanted))).float()

    def turns(self, length: int) -> Tensor | None:
        """Cosine and sine of each position as complex numbers, (length at least, 1, half of the turned dimensions)."""
        if not self._shape.turned:
            return None
        if length > self._turns.shape[0]:
            half = torch.arange(0, self._shape.turned, 2, dtype=torch.float32) / self._shape.turned
            angles = torch.arange(-(-length // 2048) * 2048)[:, None] * (1.0 / self._shape.theta**half)
            self._turns = torch.polar(torch.ones_like(angles), angles)[:, None].to(self.device)
        return self._turns

    def _read(self, tokens: Sequence[int] | Tensor, batch: AttentionBatch) -> Tensor:
        """The tokens as the last layer is given them."""
        x = self._embedding(tokens).to(self._dtype)
        if self._positions is not None:
            x = x + batch.taken(self._positions)
        for layer in self._layers[:-1]:
            x = self._run(layer, x, batch, None)
        return x

    def _remembered(self, seats: RaggedBatch) -> None:
        """All that there is to do where no logits are wanted: of the last layer, its keys and values."""
        layer = self._layers[-1]
        x = self._read(seats.tokens, seats)
        seats.written(layer.index, layer.enter(layer.norm(x))[0])

    def _run(self, layer: _Layer, x: Tensor, batch: AttentionBatch, wanted: list[slice] | None) -> Tensor:
        """One layer over all tokens, or what it makes of those wanted; ``x`` is changed.

        Behind the last layer's attention nobody reads the tokens whose logits are not wanted.
        """
        read = layer.norm(x)
        qkv, *wide = layer.enter(read)
        attended = batch.attended(layer.index, qkv)
        if wanted is not None:
            read, attended, x = (joined([whole[part] for part in wanted]) for whole in (read, attended, x))
        if layer.rise is None:
            return layer.leave(x, attended, *wide)
        if layer.second_norm is None or layer.down is None:
            return layer.leave(x, attended, *layer.rise(read))
        layer.leave(x, attended)
        return layer.down(x, *layer.rise(layer.second_norm(x)))
