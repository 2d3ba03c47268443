"""One hand-written decoder for the architectures of `architectures`, inference only.

The tokens of all inputs run through the linear layers together, and only attention is per input, so that several
candidates cost about one pass over the weights. For a small model on a CPU the number of calls into torch dominates: so
there are no heads in Python, positions come from tables, and keys and values are written in one call. Knows token ids
only, and nothing of where weights come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.activations import Activation
from codeclippy_ls.engine.decoder.architectures import (
    LM_HEAD_NAMES,
    LayerWeights,
    ModelConfig,
    StateDict,
    TransformersConfig,
    WeightAndBias,
    load_layer_weights,
    parse_config,
)
from codeclippy_ls.engine.decoder.attention import AttentionBatch, ContiguousKVCache, RaggedBatch, concatenate
from codeclippy_ls.engine.decoder.cuda_graphs import Capture, CudaGraphCapture, CudaGraphRunner, copy_to_cpu
from codeclippy_ls.engine.decoder.fused_linear import (
    FusedResidualLinear,
    MergedColumnLinear,
    make_merged_linear,
    make_residual_linear,
)
from codeclippy_ls.engine.decoder.linear import Embedding, LinearSpec, WeightFormats, build_linear, can_tie_lm_head
from codeclippy_ls.engine.decoder.quantized_rows import QuantizedRows, Weight, to_tensor
from codeclippy_ls.engine.generation.kv_cache import ModelInput

_ROTARY_TABLE_STEP = 2048  # positions by which the table grows


class _Norm:
    """LayerNorm or RMSNorm."""

    __slots__ = ("_bias", "_epsilon", "_is_rms_norm", "_shape", "_weight")

    def __init__(self, weights: WeightAndBias, config: ModelConfig, dtype: torch.dtype) -> None:
        self._weight = to_tensor(weights.weight).to(dtype)
        self._bias = None if weights.bias is None else weights.bias.to(dtype)
        self._shape = (config.hidden_size,)
        self._epsilon = config.norm_epsilon
        self._is_rms_norm = config.architecture.is_rms_norm

    def __call__(self, x: Tensor) -> Tensor:
        if self._is_rms_norm:
            return functional.rms_norm(x, self._shape, self._weight, self._epsilon)
        return functional.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer: ``in_proj`` makes q, k and v, ``out_proj`` adds the attention output to the residual.

    If attention and MLP read the same hidden states, ``in_proj`` makes gate and up as well, and ``out_proj`` adds both
    results. The last layer keeps ``gate_up_proj`` separate, since its MLP runs only for tokens whose logits are wanted.
    """

    index: int
    input_norm: _Norm
    in_proj: MergedColumnLinear
    out_proj: FusedResidualLinear
    mlp_norm: _Norm | None
    gate_up_proj: MergedColumnLinear | None
    down_proj: FusedResidualLinear | None


def _is_same(one: Weight, other: Weight) -> bool:
    if isinstance(one, QuantizedRows) or isinstance(other, QuantizedRows):
        return one is other
    return one.data_ptr() == other.data_ptr()


class Transformer:
    """A decoder over weights that it has converted to its own form.

    Args:
        config: a transformers configuration for which `architectures.is_supported` is True.
        weights: a loaded module's ``state_dict()``, or such tensors by name, on the device to run on.
        formats: number formats of the linear layers.
        capture: how passes of a fixed shape are captured; by default as CUDA graphs on such a device, else not at all.

    Attributes:
        architecture: transformers' ``model_type``.
        context_length: maximum tokens of a sequence.
        nbytes: memory of the weights.
        dtype: the number formats, for display.
        graph_runner: the captured graphs; None if passes are not captured.
        after_layer: called after each layer but the last.
    """

    def __init__(
        self, config: TransformersConfig, weights: StateDict, formats: WeightFormats, capture: Capture | None = None
    ) -> None:
        parsed = parse_config(config)
        if parsed is None:
            raise ValueError(f"this {config.model_type!r} configuration is not supported")
        spec, table = parsed.architecture, weights[f"{parsed.architecture.embedding}.weight"]
        self._config = parsed
        self.architecture = parsed.model_type
        self.context_length, self.vocab_size = parsed.context_length, parsed.vocab_size
        self.num_parameters, self.num_layers = parsed.num_parameters, parsed.num_layers
        self.after_layer: Callable[[], None] | None = None
        self.device = table.device
        self.dtype = str(formats)
        self._kv_dtype = formats.dtype  # of keys, values and the attention over them
        # Rounding the hidden states costs more than it saves on a CPU.
        self._dtype = torch.float32 if table.device.type == "cpu" else formats.dtype
        self._layers = [
            self._build_layer(load_layer_weights(parsed, weights, index), index, formats)
            for index in range(parsed.num_layers)
        ]
        self._embedding = Embedding(table, formats)
        self._position_embedding = (
            to_tensor(weights[f"{spec.position_embedding}.weight"]).to(self._dtype) if spec.position_embedding else None
        )
        bias = weights.get(f"{spec.final_norm}.bias")
        final_norm = WeightAndBias(weights[f"{spec.final_norm}.weight"], None if bias is None else to_tensor(bias))
        self._final_norm = _Norm(final_norm, parsed, self._dtype)
        lm_head = next((weights[f"{name}.weight"] for name in LM_HEAD_NAMES if f"{name}.weight" in weights), table)
        is_tied = _is_same(lm_head, table) and can_tie_lm_head(formats, table.device)
        lm_head_bias = weights.get(f"{LM_HEAD_NAMES[0]}.bias")
        self._lm_head = build_linear(
            self._embedding.table if is_tied else lm_head,
            None if lm_head_bias is None else to_tensor(lm_head_bias),
            formats,
        )
        self._rotary_table = torch.empty(0)
        self.nbytes = (
            self._lm_head.nbytes
            + (0 if is_tied else self._embedding.nbytes)
            + sum(
                linear.nbytes
                for layer in self._layers
                for linear in (layer.in_proj, layer.out_proj, layer.gate_up_proj, layer.down_proj)
                if linear is not None
            )
        )
        if capture is None and self.device.type == "cuda":
            capture = CudaGraphCapture()
        self.graph_runner = None if capture is None else CudaGraphRunner(self, parsed, self._kv_dtype, capture)

    def _build_layer(self, weights: LayerWeights, index: int, formats: WeightFormats) -> _Layer:
        config = self._config

        def build_norm(norm: WeightAndBias) -> _Norm:
            return _Norm(norm, config, self._dtype)

        qkv_proj, o_proj, down_proj = (
            LinearSpec(part.weight, part.bias) for part in (weights.qkv_proj, weights.o_proj, weights.down_proj)
        )
        activation = Activation(config.activation, is_gated=len(config.architecture.gate_up_proj) > 1)
        gate_up_proj = LinearSpec(weights.gate_up_proj.weight, weights.gate_up_proj.bias, activation)
        is_parallel, is_last = weights.mlp_norm is None, index == config.num_layers - 1
        is_merged = is_parallel and not is_last
        return _Layer(
            index=index,
            input_norm=build_norm(weights.input_norm),
            in_proj=make_merged_linear([qkv_proj, gate_up_proj] if is_merged else [qkv_proj], formats),
            out_proj=make_residual_linear([o_proj, down_proj] if is_parallel else [o_proj], formats),
            mlp_norm=None if weights.mlp_norm is None else build_norm(weights.mlp_norm),
            gate_up_proj=None if is_merged else make_merged_linear([gate_up_proj], formats),
            down_proj=None if is_parallel else make_residual_linear([down_proj], formats),
        )

    def new_cache(self) -> ContiguousKVCache:
        """Create an empty KV cache for this model."""
        config = self._config
        shape = (config.num_layers, 2, config.num_kv_heads, 0, config.head_dim)
        block = torch.empty(shape, dtype=self._kv_dtype, device=self.device)
        return ContiguousKVCache(block, config.context_length)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
        """Run each input's tokens on top of its cache, and extend the caches.

        Returns:
            For each input the logits of its last ``num_logits`` tokens: (num_logits, vocab_size), float32, on the CPU.

        Raises:
            ValueError: an input has no tokens, asks for more logits than tokens, or exceeds the learned positions.
        """
        if self.graph_runner is not None and self.graph_runner.can_run(inputs):
            return self.graph_runner.forward(inputs)
        max_positions = None if self._position_embedding is None else len(self._position_embedding)
        batch = RaggedBatch(self._config, inputs, self._kv_dtype, max_positions)
        if (rotary_table := self.get_rotary_table(batch.max_length)) is not None:
            batch.rotary_table = batch.gather_positions(rotary_table)
        num_logits = [one.num_logits for one in inputs]
        if sum(num_logits):
            logits_slices = None if sum(num_logits) == len(batch.token_ids) else batch.logits_slices
            logits = copy_to_cpu(self.compute_logits(batch.token_ids, batch, logits_slices))
        else:
            self._prefill(batch)
            logits = torch.empty(0, self.vocab_size)
        batch.commit()
        return [logits] if len(inputs) == 1 else list(logits.split(num_logits))

    def compute_logits(
        self, token_ids: Sequence[int] | Tensor, batch: AttentionBatch, logits_slices: list[slice] | None
    ) -> Tensor:
        """Compute the logits of the tokens in ``logits_slices``, or of all: (tokens, vocab_size), float32.

        They stay on the device. The keys and values of all tokens are written to the caches.
        """
        x = self._run_inner_layers(token_ids, batch)
        x = self._run_layer(self._layers[-1], x, batch, logits_slices)
        return self._lm_head(self._final_norm(x)).float()

    def get_rotary_table(self, length: int) -> Tensor | None:
        """Return cosine and sine of each position as complex numbers, (at least ``length``, 1, rotary_dim / 2)."""
        rotary_dim = self._config.rotary_dim
        if not rotary_dim:
            return None
        if length > self._rotary_table.shape[0]:
            exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
            positions = torch.arange(-(-length // _ROTARY_TABLE_STEP) * _ROTARY_TABLE_STEP)
            scaling = self._config.rope_scaling
            frequencies = 1.0 / self._config.rope_theta**exponents  # (rotary_dim / 2,)
            if scaling.divisors:
                frequencies /= torch.tensor(scaling.divisors)
            angles = positions[:, None] * frequencies  # (positions, rotary_dim / 2)
            amplitudes = torch.full_like(angles, scaling.amplitude)
            self._rotary_table = torch.polar(amplitudes, angles)[:, None].to(self.device)
        return self._rotary_table

    def _run_inner_layers(self, token_ids: Sequence[int] | Tensor, batch: AttentionBatch) -> Tensor:
        """Run the embedding and all layers but the last: (tokens, hidden_size)."""
        x = self._embedding(token_ids).to(self._dtype)
        if self._position_embedding is not None:
            x = x + batch.gather_positions(self._position_embedding)
        for layer in self._layers[:-1]:
            x = self._run_layer(layer, x, batch, None)
            if self.after_layer is not None:
                self.after_layer()
        return x

    def _prefill(self, batch: RaggedBatch) -> None:
        """Write keys and values only: of the last layer nothing else is needed without logits."""
        layer = self._layers[-1]
        x = self._run_inner_layers(batch.token_ids, batch)
        batch.write_kv(layer.index, layer.in_proj(layer.input_norm(x))[0])

    def _run_layer(self, layer: _Layer, x: Tensor, batch: AttentionBatch, logits_slices: list[slice] | None) -> Tensor:
        """Run one layer over all tokens; return the hidden states of those in ``logits_slices``, or of all.

        Behind the last layer's attention only tokens whose logits are wanted matter. ``x`` is changed in place.
        """
        normed = layer.input_norm(x)  # (tokens, hidden_size)
        qkv, *gate_up = layer.in_proj(normed)
        attended = batch.attend(layer.index, qkv)  # (tokens, num_heads * head_dim)
        if logits_slices is not None:
            normed, attended, x = (
                concatenate([every[part] for part in logits_slices]) for every in (normed, attended, x)
            )
        if layer.gate_up_proj is None:
            return layer.out_proj(x, attended, *gate_up)
        if layer.mlp_norm is None or layer.down_proj is None:
            return layer.out_proj(x, attended, *layer.gate_up_proj(normed))
        layer.out_proj(x, attended)
        return layer.down_proj(x, *layer.gate_up_proj(layer.mlp_norm(x)))
