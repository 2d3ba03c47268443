"""Specs of the supported decoder architectures: where their weights are, how they are packed, which parts they have.

``ARCHITECTURES`` has an `ArchitectureSpec` for each architecture; a `ModelConfig` describes one configuration.
`load_layer_weights` brings the weights of any of them into one form: q, k and v stacked, their rotary dimensions
interleaved, gate and up stacked. A configuration that needs anything not described here has no `ModelConfig`
(`is_supported` returns False), so that the caller runs transformers' own module. Knows nothing of number formats or of
how the decoder runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.quantized_rows import Weight, select_rows, stack_rows, to_tensor
from codeclippy_ls.engine.decoder.rope import ROPE_TYPES, RopeScaling, parse_rope_scaling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TransformersConfig: TypeAlias = "PreTrainedConfig | SimpleNamespace"  # transformers' object, or the same plain values
StateDict = Mapping[str, Weight]  # matrices may be quantized, everything else is plain


@dataclass(frozen=True, slots=True)
class ArchitectureSpec:
    """Names of an architecture's weights, without ``.weight``, and how it uses them.

    Attributes:
        layer_prefix: start of the names within a layer, with the layer's index to be filled in.
        norms: before the attention and before the MLP; the same name twice if they share one.
        qkv_packing: order of q, k and v within one matrix: ``stacked``, ``per_head`` (q, k, v of each head) or
            ``codegen`` (q, v, k of each of four groups of heads).
        is_transposed: matrices are stored (in, out).
        gate_up_proj: up, or gate and up.
        position_embedding: the table of learned positions; empty with rotary ones.
        rotary_style: pairs of rotary dimensions: ``half`` (first with second half) or ``interleaved`` (neighbours).
        is_rms_norm: norms are RMSNorm, otherwise LayerNorm.
        is_parallel: attention and MLP read the same hidden states.
        is_attention_scaled: scores are divided by the root of the head size.
        no_bias: pairs of a layer's part and a switch: the part has no bias unless the configuration sets the switch; an
            empty switch is never set.
        has_lm_head_bias: the LM head has a bias.
    """

    embedding: str
    layer_prefix: str
    norms: tuple[str, str]
    qkv_proj: tuple[str, ...]
    o_proj: str
    gate_up_proj: tuple[str, ...]
    down_proj: str
    final_norm: str
    position_embedding: str = ""
    qkv_packing: str = "stacked"
    is_transposed: bool = False
    rotary_style: str = ""
    is_rms_norm: bool = False
    is_parallel: bool = False
    is_attention_scaled: bool = True
    no_bias: tuple[tuple[str, str], ...] = ()
    has_lm_head_bias: bool = False


def _pair_with_switch(switch: str, *names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, switch) for name in names)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_LLAMA = ArchitectureSpec(
    embedding="model.embed_tokens",
    layer_prefix="model.layers.{}.",
    norms=("input_layernorm", "post_attention_layernorm"),
    qkv_proj=_QKV,
    o_proj="self_attn.o_proj",
    gate_up_proj=_GATED[:2],
    down_proj=_GATED[2],
    final_norm="model.norm",
    rotary_style="half",
    is_rms_norm=True,
    no_bias=_pair_with_switch("attention_bias", *_QKV, "self_attn.o_proj") + _pair_with_switch("mlp_bias", *_GATED),
)

ARCHITECTURES = {
    "gpt_neo": ArchitectureSpec(
        embedding="transformer.wte",
        position_embedding="transformer.wpe",
        layer_prefix="transformer.h.{}.",
        norms=("ln_1", "ln_2"),
        qkv_proj=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        o_proj="attn.attention.out_proj",
        gate_up_proj=("mlp.c_fc",),
        down_proj="mlp.c_proj",
        final_norm="transformer.ln_f",
        is_attention_scaled=False,
        no_bias=_pair_with_switch("", "attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    ),
    "gpt2": ArchitectureSpec(
        embedding="transformer.wte",
        position_embedding="transformer.wpe",
        layer_prefix="transformer.h.{}.",
        norms=("ln_1", "ln_2"),
        qkv_proj=("attn.c_attn",),
        o_proj="attn.c_proj",
        gate_up_proj=("mlp.c_fc",),
        down_proj="mlp.c_proj",
        final_norm="transformer.ln_f",
        is_transposed=True,
    ),
    "gpt_bigcode": ArchitectureSpec(  # packed per head unless all heads share one head of keys and values
        embedding="transformer.wte",
        position_embedding="transformer.wpe",
        layer_prefix="transformer.h.{}.",
        norms=("ln_1", "ln_2"),
        qkv_proj=("attn.c_attn",),
        qkv_packing="per_head",
        o_proj="attn.c_proj",
        gate_up_proj=("mlp.c_fc",),
        down_proj="mlp.c_proj",
        final_norm="transformer.ln_f",
    ),
    "codegen": ArchitectureSpec(
        embedding="transformer.wte",
        layer_prefix="transformer.h.{}.",
        norms=("ln_1", "ln_1"),
        qkv_proj=("attn.qkv_proj",),
        qkv_packing="codegen",
        o_proj="attn.out_proj",
        gate_up_proj=("mlp.fc_in",),
        down_proj="mlp.fc_out",
        final_norm="transformer.ln_f",
        rotary_style="interleaved",
        is_parallel=True,
        no_bias=_pair_with_switch("", "attn.qkv_proj", "attn.out_proj"),
        has_lm_head_bias=True,
    ),
    "gptj": ArchitectureSpec(
        embedding="transformer.wte",
        layer_prefix="transformer.h.{}.",
        norms=("ln_1", "ln_1"),
        qkv_proj=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        o_proj="attn.out_proj",
        gate_up_proj=("mlp.fc_in",),
        down_proj="mlp.fc_out",
        final_norm="transformer.ln_f",
        rotary_style="interleaved",
        is_parallel=True,
        no_bias=_pair_with_switch("", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
        has_lm_head_bias=True,
    ),
    "gpt_neox": ArchitectureSpec(
        embedding="gpt_neox.embed_in",
        layer_prefix="gpt_neox.layers.{}.",
        norms=("input_layernorm", "post_attention_layernorm"),
        qkv_proj=("attention.query_key_value",),
        qkv_packing="per_head",
        o_proj="attention.dense",
        gate_up_proj=("mlp.dense_h_to_4h",),
        down_proj="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        rotary_style="half",
        is_parallel=True,
        no_bias=_pair_with_switch("attention_bias", "attention.query_key_value", "attention.dense"),
    ),
    "phi": ArchitectureSpec(
        embedding="model.embed_tokens",
        layer_prefix="model.layers.{}.",
        norms=("input_layernorm", "input_layernorm"),
        qkv_proj=_QKV,
        o_proj="self_attn.dense",
        gate_up_proj=("mlp.fc1",),
        down_proj="mlp.fc2",
        final_norm="model.final_layernorm",
        rotary_style="half",
        is_parallel=True,
        has_lm_head_bias=True,
    ),
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, no_bias=_pair_with_switch("", *_QKV, "self_attn.o_proj", *_GATED)),
    "qwen2": replace(_LLAMA, no_bias=_pair_with_switch("", "self_attn.o_proj", *_GATED)),
    "starcoder2": ArchitectureSpec(
        embedding="model.embed_tokens",
        layer_prefix="model.layers.{}.",
        norms=("input_layernorm", "post_attention_layernorm"),
        qkv_proj=_QKV,
        o_proj="self_attn.o_proj",
        gate_up_proj=("mlp.c_fc",),
        down_proj="mlp.c_proj",
        final_norm="model.norm",
        rotary_style="half",
        no_bias=_pair_with_switch("use_bias", *_QKV, "self_attn.o_proj", "mlp.c_fc", "mlp.c_proj"),
    ),
}

# Names in configurations; "gelu_fast" is the same function as the other tanh forms, written differently.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A transformers configuration, with the same names for all architectures.

    Attributes:
        num_kv_heads: heads of keys and values.
        rotary_dim: rotary dimensions of a head; 0 with learned positions.
        rope_theta: base of the rotary frequencies.
        rope_scaling: how they differ from it.
        is_parallel: attention and MLP read the same hidden states.
        attn_scales: factor of the attention scores, for each layer.
        sliding_windows: tokens that a layer attends to, the current one included; 0 for all. For each layer.
        context_length: maximum tokens of a sequence; the size of the table of learned positions.
        intermediate_size: size within the MLP.
        tie_word_embeddings: the LM head is the embedding.
        no_bias: parts of a layer that have no bias.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    rope_scaling: RopeScaling
    activation: str
    norm_epsilon: float
    is_parallel: bool
    attn_scales: tuple[float, ...]
    sliding_windows: tuple[int, ...]
    context_length: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    no_bias: frozenset[str]

    @property
    def architecture(self) -> ArchitectureSpec:
        """The architecture's spec."""
        return ARCHITECTURES[self.model_type]

    @property
    def queries_per_kv(self) -> int:
        """Heads that share keys and values."""
        return self.num_heads // self.num_kv_heads

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in compute_weight_shapes(self).values())


@dataclass(frozen=True, slots=True)
class WeightAndBias:
    """A linear layer's (out, in) and (out,), or a norm's (hidden_size,) and (hidden_size,)."""

    weight: Weight
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer in the common form; ``mlp_norm`` is None if the MLP reads the same input as the attention.

    If both read the same hidden states through norms of their own, each norm's weights are folded into the projections
    behind it, and ``input_norm`` only normalizes.
    """

    input_norm: WeightAndBias
    qkv_proj: WeightAndBias
    o_proj: WeightAndBias
    mlp_norm: WeightAndBias | None
    gate_up_proj: WeightAndBias
    down_proj: WeightAndBias


def is_supported(config: TransformersConfig) -> bool:
    """Return True if the decoder computes exactly the same as transformers for this configuration."""
    return parse_config(config) is not None


def parse_config(config: TransformersConfig) -> ModelConfig | None:
    """Parse a transformers configuration; return None if it needs anything that is not described here."""
    model_type = getattr(config, "model_type", None)
    spec = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if spec is None or _has_unsupported_options(config):
        return None
    try:
        parsed = _build_model_config(config, spec)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):  # a configuration may say anything
        return None
    sizes = (
        parsed.num_layers,
        parsed.hidden_size,
        parsed.num_heads,
        parsed.num_kv_heads,
        parsed.head_dim,
        parsed.context_length,
        parsed.intermediate_size,
        parsed.vocab_size,
    )
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    heads_fit = parsed.num_heads % parsed.num_kv_heads == 0
    rotary_fits = parsed.rotary_dim % 2 == 0 and 0 <= parsed.rotary_dim <= parsed.head_dim
    has_right_positions = parsed.rotary_dim > 0 if spec.rotary_style else parsed.rotary_dim == 0
    packing_fits = spec.qkv_packing != "codegen" or parsed.num_heads % 4 == 0
    return parsed if heads_fit and rotary_fits and has_right_positions and packing_fits else None


def _has_unsupported_options(config: TransformersConfig) -> bool:
    """Return True if an option is set that changes the computation and is not implemented here."""
    rope = getattr(config, "rope_parameters", None) or {}
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    options = ("qk_layernorm", "add_cross_attention", "is_encoder_decoder", "quantization_config")
    return (
        any(getattr(config, option, None) for option in options)
        or getattr(config, "rope_scaling", None) not in (None, {}, rope)
        or rope.get("rope_type", "default") not in ROPE_TYPES
        or activation not in ACTIVATIONS
    )


def _build_model_config(config: TransformersConfig, spec: ArchitectureSpec) -> ModelConfig:
    num_layers, num_heads, hidden_size = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    model_type = config.model_type
    head_dim = getattr(config, "head_dim", None) or hidden_size // num_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    if model_type == "gpt_bigcode":
        num_kv_heads = 1 if config.multi_query else num_heads
    scale = head_dim**-0.5 if spec.is_attention_scaled and getattr(config, "scale_attn_weights", True) else 1.0
    is_scaled_by_layer = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    norm_epsilon = next(
        getattr(config, name)
        for name in ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_epsilon")
        if hasattr(config, name)
    )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope:
        rotary_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    else:
        rotary_dim = config.rotary_dim if spec.rotary_style else 0
    scaling = parse_rope_scaling(rope, rotary_dim, config.max_position_embeddings)
    activation = getattr(config, "hidden_act", None) or config.activation_function
    return ModelConfig(
        model_type=model_type,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        rope_scaling=scaling,
        activation=ACTIVATIONS[activation],
        norm_epsilon=norm_epsilon,
        is_parallel=spec.is_parallel and getattr(config, "use_parallel_residual", True),
        attn_scales=tuple(scale / (layer + 1 if is_scaled_by_layer else 1) for layer in range(num_layers)),
        sliding_windows=_read_sliding_windows(config, num_layers),
        context_length=min(config.max_position_embeddings, scaling.max_length or config.max_position_embeddings),
        intermediate_size=getattr(config, "intermediate_size", None)
        or getattr(config, "n_inner", None)
        or 4 * hidden_size,
        vocab_size=config.vocab_size,
        tie_word_embeddings=bool(config.tie_word_embeddings),
        no_bias=frozenset(name for name, switch in spec.no_bias if not (switch and getattr(config, switch))),
    )


def _read_sliding_windows(config: TransformersConfig, num_layers: int) -> tuple[int, ...]:
    layer_types = getattr(config, "attention_layers", None) or getattr(config, "layer_types", None)
    window = getattr(config, "window_size", None) or getattr(config, "sliding_window", None) or 0
    if layer_types is None:
        return (window,) * num_layers
    if len(layer_types) != num_layers:
        raise ValueError("each layer needs a type of attention")
    windows = {"global": 0, "full_attention": 0, "local": window, "sliding_attention": window}
    return tuple(windows[layer_type] for layer_type in layer_types)


LM_HEAD_NAMES = ("lm_head", "embed_out")


def compute_weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Compute the shape of every weight of a complete checkpoint, by name.

    The LM head, unless it is tied, has the first of its names.
    """
    spec, hidden_size = config.architecture, config.hidden_size
    shapes = {
        f"{spec.embedding}.weight": (config.vocab_size, hidden_size),
        **_compute_norm_shapes(config, spec.final_norm),
    }
    if spec.position_embedding:
        shapes[f"{spec.position_embedding}.weight"] = (config.context_length, hidden_size)
    if not config.tie_word_embeddings:
        shapes[f"{LM_HEAD_NAMES[0]}.weight"] = (config.vocab_size, hidden_size)
    if spec.has_lm_head_bias:
        shapes[f"{LM_HEAD_NAMES[0]}.bias"] = (config.vocab_size,)
    for layer in range(config.num_layers):
        prefix = spec.layer_prefix.format(layer)
        for name in spec.norms:
            shapes.update(_compute_norm_shapes(config, prefix + name))
        for name, out_size, in_size in _list_linear_layers(config):
            shapes[f"{prefix}{name}.weight"] = (in_size, out_size) if spec.is_transposed else (out_size, in_size)
            if name not in config.no_bias:
                shapes[f"{prefix}{name}.bias"] = (out_size,)
    return shapes


def _compute_norm_shapes(config: ModelConfig, name: str) -> dict[str, tuple[int, ...]]:
    suffixes = ("weight",) if config.architecture.is_rms_norm else ("weight", "bias")
    return {f"{name}.{suffix}": (config.hidden_size,) for suffix in suffixes}


def _list_linear_layers(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Yield name, output size and input size of each linear layer within a layer."""
    spec, q_size, kv_size = (
        config.architecture,
        config.num_heads * config.head_dim,
        config.num_kv_heads * config.head_dim,
    )
    sizes = (q_size, kv_size, kv_size) if len(spec.qkv_proj) == 3 else (q_size + 2 * kv_size,)
    yield from ((name, size, config.hidden_size) for name, size in zip(spec.qkv_proj, sizes, strict=True))
    yield spec.o_proj, config.hidden_size, q_size
    yield from ((name, config.intermediate_size, config.hidden_size) for name in spec.gate_up_proj)
    yield spec.down_proj, config.hidden_size, config.intermediate_size


def load_layer_weights(config: ModelConfig, weights: StateDict, layer: int) -> LayerWeights:
    """Load the weights of one layer into the common form."""
    spec = config.architecture
    prefix = spec.layer_prefix.format(layer)

    def load(name: str) -> WeightAndBias:
        weight, bias = weights[f"{prefix}{name}.weight"], weights.get(f"{prefix}{name}.bias")
        if spec.is_transposed and len(weight.shape) == 2:
            weight = to_tensor(weight).t()
        return WeightAndBias(weight, None if bias is None else to_tensor(bias))

    input_name, mlp_name = spec.norms
    qkv_proj = _stack_linears([load(name) for name in spec.qkv_proj])  # (q, k and v, hidden_size)
    order = _compute_qkv_order(config, qkv_proj.weight.device)
    qkv_proj = WeightAndBias(
        select_rows(qkv_proj.weight, order),
        None if qkv_proj.bias is None else qkv_proj.bias.index_select(0, order),
    )
    gate_up_proj = _stack_linears([load(name) for name in spec.gate_up_proj])  # (gate and up, hidden_size)
    input_norm, mlp_norm = load(input_name), load(mlp_name)
    if config.is_parallel and mlp_name != input_name:
        qkv_proj, gate_up_proj = _fold_norm(input_norm, qkv_proj), _fold_norm(mlp_norm, gate_up_proj)
        input_norm = _make_identity_norm(input_norm)
    return LayerWeights(
        input_norm=input_norm,
        mlp_norm=None if config.is_parallel else mlp_norm,
        qkv_proj=qkv_proj,
        o_proj=load(spec.o_proj),
        gate_up_proj=gate_up_proj,
        down_proj=load(spec.down_proj),
    )


def _fold_norm(norm: WeightAndBias, layer: WeightAndBias) -> WeightAndBias:
    """Fold a norm's weight and bias into the layer behind it, which then reads an identity norm."""
    if _is_identity(norm):
        return layer
    weight, scale = to_tensor(layer.weight).float(), to_tensor(norm.weight).float()
    bias = None if layer.bias is None else layer.bias.float()
    if norm.bias is not None:
        bias = weight @ norm.bias.float() + (0.0 if bias is None else bias)
    return WeightAndBias(weight * scale, bias)


def _is_identity(norm: WeightAndBias) -> bool:
    """Return True if a norm only normalizes, as one that was folded beforehand."""
    return bool((to_tensor(norm.weight) == 1).all()) and (norm.bias is None or not bool(norm.bias.any()))


def _make_identity_norm(norm: WeightAndBias) -> WeightAndBias:
    ones = torch.ones_like(to_tensor(norm.weight))
    return WeightAndBias(ones, None if norm.bias is None else torch.zeros_like(norm.bias))


def _stack_linears(layers: list[WeightAndBias]) -> WeightAndBias:
    """Stack linear layers of the same input into one."""
    if len(layers) == 1:
        return layers[0]
    weight, present = stack_rows([layer.weight for layer in layers]), [layer.bias for layer in layers]
    if (one := next((bias for bias in present if bias is not None), None)) is None:
        return WeightAndBias(weight, None)
    biases = [
        one.new_zeros(layer.weight.shape[0]) if bias is None else bias
        for layer, bias in zip(layers, present, strict=True)
    ]
    return WeightAndBias(weight, torch.cat(biases))


def _compute_qkv_order(config: ModelConfig, device: torch.device) -> Tensor:
    """Compute for each row of the common form the row of the stored matrix.

    The common form has all heads' q, then k, then v, with the rotary dimensions of q and k interleaved.
    """
    num_heads, num_kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    spec, rotary_dim = config.architecture, config.rotary_dim
    rows = torch.arange((num_heads + 2 * num_kv_heads) * head_dim, device=device)
    if spec.qkv_packing == "per_head" and num_kv_heads == num_heads:
        # (heads, q k v, head_dim) to (q k v, heads, head_dim)
        rows = rows.view(num_heads, 3, head_dim).transpose(0, 1).reshape(-1)
    elif spec.qkv_packing == "codegen":
        q, v, k = rows.view(4, 3, num_heads // 4 * head_dim).unbind(1)  # (4, heads / 4 * head_dim) each
        rows = torch.cat([q, k, v]).reshape(-1)
    if spec.rotary_style == "half":
        qk = rows[: (num_heads + num_kv_heads) * head_dim].view(-1, head_dim)  # (heads of q and k, head_dim)
        halves = qk[:, :rotary_dim].view(-1, 2, rotary_dim // 2)  # (heads, half, pair)
        qk[:, :rotary_dim] = halves.mT.reshape(-1, rotary_dim)  # (heads, pair and half)
    return rows
