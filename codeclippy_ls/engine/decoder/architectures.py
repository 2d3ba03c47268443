"""What tells one decoder architecture from another: where its weights are, how they are packed, which parts it has.

A row of ``ARCHITECTURES`` for each architecture, a `ModelConfig` for each configuration. `read` brings the weights of
any of them into one form: q, k and v under each other, in pairs where they are turned by position, gate and up too.
A configuration that would need anything not described here has no shape (`is_supported` says False), so that the caller
runs transformers' own module. Knows nothing of number formats or of how the decoder runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class ArchitectureSpec:
    """Names of the weights, without ``.weight``, and what the architecture does with them.

    Attributes:
        layer: what the names within a layer begin with.
        norms: before the attention and before the MLP; the same name twice where they share one.
        packed: of one matrix for q, k and v: ``blocks`` under each other, ``heads`` q, k, v of each head, ``quarters``
            q, v, k of each of four groups of heads.
        rises: up, or gate and up.
        turned: by position, of q and k: ``halves`` the first with the second half, ``pairs`` neighbours.
        parallel: attention and MLP read the same hidden states.
        bare: what has no bias, or one only where the configuration's switch of that name is on.
        voiced: the head has a bias.
    """

    embedding: str
    layer: str
    norms: tuple[str, str]
    qkv: tuple[str, ...]
    out: str
    rises: tuple[str, ...]
    down: str
    last_norm: str
    positions: str = ""
    packed: str = "blocks"
    transposed: bool = False
    turned: str = ""
    rms: bool = False
    parallel: bool = False
    scaled: bool = True
    bare: tuple[tuple[str, str], ...] = ()
    voiced: bool = False


def _bare(switch: str, *names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, switch) for name in names)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_LLAMA = ArchitectureSpec(
    embedding="model.embed_tokens",
    layer="model.layers.{}.",
    norms=("input_layernorm", "post_attention_layernorm"),
    qkv=_QKV,
    out="self_attn.o_proj",
    rises=_GATED[:2],
    down=_GATED[2],
    last_norm="model.norm",
    turned="halves",
    rms=True,
    bare=_bare("attention_bias", *_QKV, "self_attn.o_proj") + _bare("mlp_bias", *_GATED),
)

ARCHITECTURES = {
    "gpt_neo": ArchitectureSpec(
        embedding="transformer.wte",
        positions="transformer.wpe",
        layer="transformer.h.{}.",
        norms=("ln_1", "ln_2"),
        qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        out="attn.attention.out_proj",
        rises=("mlp.c_fc",),
        down="mlp.c_proj",
        last_norm="transformer.ln_f",
        scaled=False,
        bare=_bare("", "attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    ),
    "gpt2": ArchitectureSpec(
        embedding="transformer.wte",
        positions="transformer.wpe",
        layer="transformer.h.{}.",
        norms=("ln_1", "ln_2"),
        qkv=("attn.c_attn",),
        out="attn.c_proj",
        rises=("mlp.c_fc",),
        down="mlp.c_proj",
        last_norm="transformer.ln_f",
        transposed=True,
    ),
    "gpt_bigcode": ArchitectureSpec(  # its matrix is packed by heads where each head has its own keys
        embedding="transformer.wte",
        positions="transformer.wpe",
        layer="transformer.h.{}.",
        norms=("ln_1", "ln_2"),
        qkv=("attn.c_attn",),
        packed="heads",
        out="attn.c_proj",
        rises=("mlp.c_fc",),
        down="mlp.c_proj",
        last_norm="transformer.ln_f",
    ),
    "codegen": ArchitectureSpec(
        embedding="transformer.wte",
        layer="transformer.h.{}.",
        norms=("ln_1", "ln_1"),
        qkv=("attn.qkv_proj",),
        packed="quarters",
        out="attn.out_proj",
        rises=("mlp.fc_in",),
        down="mlp.fc_out",
        last_norm="transformer.ln_f",
        turned="pairs",
        parallel=True,
        bare=_bare("", "attn.qkv_proj", "attn.out_proj"),
        voiced=True,
    ),
    "gptj": ArchitectureSpec(
        embedding="transformer.wte",
        layer="transformer.h.{}.",
        norms=("ln_1", "ln_1"),
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        out="attn.out_proj",
        rises=("mlp.fc_in",),
        down="mlp.fc_out",
        last_norm="transformer.ln_f",
        turned="pairs",
        parallel=True,
        bare=_bare("", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
        voiced=True,
    ),
    "gpt_neox": ArchitectureSpec(
        embedding="gpt_neox.embed_in",
        layer="gpt_neox.layers.{}.",
        norms=("input_layernorm", "post_attention_layernorm"),
        qkv=("attention.query_key_value",),
        packed="heads",
        out="attention.dense",
        rises=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        last_norm="gpt_neox.final_layer_norm",
        turned="halves",
        parallel=True,
        bare=_bare("attention_bias", "attention.query_key_value", "attention.dense"),
    ),
    "phi": ArchitectureSpec(
        embedding="model.embed_tokens",
        layer="model.layers.{}.",
        norms=("input_layernorm", "input_layernorm"),
        qkv=_QKV,
        out="self_attn.dense",
        rises=("mlp.fc1",),
        down="mlp.fc2",
        last_norm="model.final_layernorm",
        turned="halves",
        parallel=True,
        voiced=True,
    ),
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, bare=_bare("", *_QKV, "self_attn.o_proj", *_GATED)),
    "qwen2": replace(_LLAMA, bare=_bare("", "self_attn.o_proj", *_GATED)),
    "starcoder2": ArchitectureSpec(
        embedding="model.embed_tokens",
        layer="model.layers.{}.",
        norms=("input_layernorm", "post_attention_layernorm"),
        qkv=_QKV,
        out="self_attn.o_proj",
        rises=("mlp.c_fc",),
        down="mlp.c_proj",
        last_norm="model.norm",
        turned="halves",
        bare=_bare("use_bias", *_QKV, "self_attn.o_proj", "mlp.c_fc", "mlp.c_proj"),
    ),
}

# Names in configurations; "gelu_fast" is the same function as the other tanh forms, written otherwise.
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
    """A configuration in this module's words.

    Attributes:
        groups: heads of keys and values.
        turned: how many dimensions of a head are turned by position; 0 for learned positions.
        theta: base of the turns' frequencies.
        scales: of the attention scores, for each layer.
        spans: how many tokens a layer sees back, itself included; 0 is all.
        window: the most tokens; of learned positions there are no more.
        inner: the width within the MLP.
        tied: the head is the embedding.
        bare: parts of a layer without a bias.
    """

    kind: str
    layers: int
    width: int
    heads: int
    groups: int
    size: int
    turned: int
    theta: float
    activation: str
    epsilon: float
    parallel: bool
    scales: tuple[float, ...]
    spans: tuple[int, ...]
    window: int
    inner: int
    vocabulary: int
    tied: bool
    bare: frozenset[str]

    @property
    def layout(self) -> ArchitectureSpec:
        """The row of the table."""
        return ARCHITECTURES[self.kind]

    @property
    def repeats(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.groups

    @property
    def parameters(self) -> int:
        """Numbers in the weights."""
        return sum(math.prod(form) for form in compute_weight_shapes(self).values())


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer as it is multiplied: (out, in) and its bias."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer in the common form; ``second_norm`` is None where the MLP reads what the attention reads.

    Where both read the same hidden states by norms of their own, these are in the layers' weights: then there is one.
    """

    norm: Matrix
    qkv: Matrix
    out: Matrix
    second_norm: Matrix | None
    rise: Matrix
    down: Matrix


def is_supported(config: Any) -> bool:
    """Whether the decoder computes exactly what transformers does for this configuration."""
    return parse_config(config) is not None


def parse_config(config: Any) -> ModelConfig | None:
    """The configuration in this module's words; None where it needs something that is not described here."""
    kind = getattr(config, "model_type", None)
    layout = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if layout is None or _strange(config):
        return None
    try:
        shape = _shape(config, layout)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):  # a configuration may say anything
        return None
    counts = (
        shape.layers,
        shape.width,
        shape.heads,
        shape.groups,
        shape.size,
        shape.window,
        shape.inner,
        shape.vocabulary,
    )
    whole = all(isinstance(count, int) and count > 0 for count in counts)
    if not whole:
        return None
    fits = shape.heads % shape.groups == 0 and shape.turned % 2 == 0 and 0 <= shape.turned <= shape.size
    turns = shape.turned > 0 if layout.turned else shape.turned == 0
    quarters = layout.packed != "quarters" or shape.heads % 4 == 0
    return shape if fits and turns and quarters else None


def _strange(config: Any) -> bool:
    """Whether a switch is set that changes what is computed and is not followed here."""
    rope = getattr(config, "rope_parameters", None) or {}
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    switches = ("qk_layernorm", "add_cross_attention", "is_encoder_decoder", "quantization_config")
    return (
        any(getattr(config, switch, None) for switch in switches)
        or getattr(config, "rope_scaling", None) not in (None, {}, rope)
        or rope.get("rope_type", "default") != "default"
        or activation not in ACTIVATIONS
    )


def _shape(config: Any, layout: ArchitectureSpec) -> ModelConfig:
    layers, heads, width = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    kind = config.model_type
    size = getattr(config, "head_dim", None) or width // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    if kind == "gpt_bigcode":
        groups = 1 if config.multi_query else heads
    scale = size**-0.5 if layout.scaled and getattr(config, "scale_attn_weights", True) else 1.0
    by_layer = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    epsilon = next(
        getattr(config, name)
        for name in ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_epsilon")
        if hasattr(config, name)
    )
    rope = getattr(config, "rope_parameters", None) or {}
    turned = int(size * rope.get("partial_rotary_factor", 1.0)) if rope else config.rotary_dim if layout.turned else 0
    activation = getattr(config, "hidden_act", None) or config.activation_function
    return ModelConfig(
        kind=kind,
        layers=layers,
        width=width,
        heads=heads,
        groups=groups,
        size=size,
        turned=turned,
        theta=float(rope.get("rope_theta", 10000.0)),
        activation=ACTIVATIONS[activation],
        epsilon=epsilon,
        parallel=layout.parallel and getattr(config, "use_parallel_residual", True),
        scales=tuple(scale / (layer + 1 if by_layer else 1) for layer in range(layers)),
        spans=_spans(config, layers),
        window=config.max_position_embeddings,
        inner=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        bare=frozenset(name for name, switch in layout.bare if not (switch and getattr(config, switch))),
    )


def _spans(config: Any, layers: int) -> tuple[int, ...]:
    kinds = getattr(config, "attention_layers", None) or getattr(config, "layer_types", None)
    span = getattr(config, "window_size", None) or getattr(config, "sliding_window", None) or 0
    if kinds is None:
        return (span,) * layers
    if len(kinds) != layers:
        raise ValueError("a kind of attention for each layer is needed")
    spans = {"global": 0, "full_attention": 0, "local": span, "sliding_attention": span}
    return tuple(spans[kind] for kind in kinds)


LM_HEAD_NAMES = ("lm_head", "embed_out")  # names of the matrix that makes logits


def compute_weight_shapes(shape: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of a whole checkpoint by name, with its form; the head under the first of its names, if untied."""
    layout, width = shape.layout, shape.width
    found = {f"{layout.embedding}.weight": (shape.vocabulary, width), **_norm_forms(shape, layout.last_norm)}
    if layout.positions:
        found[f"{layout.positions}.weight"] = (shape.window, width)
    if not shape.tied:
        found[f"{LM_HEAD_NAMES[0]}.weight"] = (shape.vocabulary, width)
    if layout.voiced:
        found[f"{LM_HEAD_NAMES[0]}.bias"] = (shape.vocabulary,)
    for layer in range(shape.layers):
        start = layout.layer.format(layer)
        for name in layout.norms:
            found.update(_norm_forms(shape, start + name))
        for name, rows, columns in _linears(shape):
            found[f"{start}{name}.weight"] = (columns, rows) if layout.transposed else (rows, columns)
            if name not in shape.bare:
                found[f"{start}{name}.bias"] = (rows,)
    return found


def _norm_forms(shape: ModelConfig, name: str) -> dict[str, tuple[int, ...]]:
    ends = ("weight",) if shape.layout.rms else ("weight", "bias")
    return {f"{name}.{end}": (shape.width,) for end in ends}


def _linears(shape: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs of each linear layer within a layer."""
    layout, own, shared = shape.layout, shape.heads * shape.size, shape.groups * shape.size
    rows = (own, shared, shared) if len(layout.qkv) == 3 else (own + 2 * shared,)
    yield from ((name, count, shape.width) for name, count in zip(layout.qkv, rows, strict=True))
    yield layout.out, shape.width, own
    yield from ((name, shape.inner, shape.width) for name in layout.rises)
    yield layout.down, shape.width, shape.inner


def read(shape: ModelConfig, weights: Weights, layer: int) -> LayerWeights:
    """The weights of one layer in the common form."""
    layout = shape.layout
    start = layout.layer.format(layer)

    def one(name: str) -> Matrix:
        weight = weights[f"{start}{name}.weight"]
        bias = weights.get(f"{start}{name}.bias")
        return Matrix(weight.t() if layout.transposed and weight.dim() == 2 else weight, bias)

    first, second = layout.norms
    qkv = stacked([one(name) for name in layout.qkv])
    order = _order(shape, qkv.weight.device)
    qkv = Matrix(qkv.weight.index_select(0, order), None if qkv.bias is None else qkv.bias.index_select(0, order))
    rise, norm, other = stacked([one(name) for name in layout.rises]), one(first), one(second)
    if shape.parallel and second != first:
        qkv, rise, norm = _after(norm, qkv), _after(other, rise), _plain(norm)
    return LayerWeights(
        norm=norm,
        second_norm=None if shape.parallel else other,
        qkv=qkv,
        out=one(layout.out),
        rise=rise,
        down=one(layout.down),
    )


def _after(norm: Matrix, layer: Matrix) -> Matrix:
    """A layer that reads a norm without factors as it was meant to read this one."""
    weight, factors = layer.weight.float(), norm.weight.float()
    bias = None if layer.bias is None else layer.bias.float()
    if norm.bias is not None:
        bias = weight @ norm.bias.float() + (0.0 if bias is None else bias)
    return Matrix(weight * factors, bias)


def _plain(norm: Matrix) -> Matrix:
    return Matrix(torch.ones_like(norm.weight), None if norm.bias is None else torch.zeros_like(norm.bias))


def stacked(parts: list[Matrix]) -> Matrix:
    """Several linear layers of the same input as one."""
    if len(parts) == 1:
        return parts[0]
    biases = [part.weight.new_zeros(part.weight.shape[0]) if part.bias is None else part.bias for part in parts]
    some = any(part.bias is not None for part in parts)
    return Matrix(torch.cat([part.weight for part in parts]), torch.cat(biases) if some else None)


def _order(shape: ModelConfig, device: torch.device) -> Tensor:
    """Which row of the stored matrix comes where: q, k and v of all heads under each other, turned ones in pairs."""
    heads, groups, size, layout = shape.heads, shape.groups, shape.size, shape.layout
    stored = torch.arange((heads + 2 * groups) * size, device=device)
    if layout.packed == "heads" and groups == heads:
        stored = stored.view(heads, 3, size).transpose(0, 1).reshape(-1)
    elif layout.packed == "quarters":  # q, v, k in each of them
        q, v, k = stored.view(4, 3, heads // 4 * size).unbind(1)
        stored = torch.cat([q, k, v]).reshape(-1)
    if layout.turned == "halves":
        both = stored[: (heads + groups) * size].view(-1, size)
        both[:, : shape.turned] = both[:, : shape.turned].view(-1, 2, shape.turned // 2).mT.reshape(-1, shape.turned)
    return stored
