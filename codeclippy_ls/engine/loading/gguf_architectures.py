"""Table of the GGUF architectures: what each is called by transformers, and what its converter did to the weights.

A row of `GGUF_ARCHITECTURES` says under which names transformers knows the weights of one of llama.cpp's architectures,
how to undo its converter's changes, and how its metadata becomes a ``config.json``. Facts come from llama.cpp's
``conversion`` scripts and its graphs. Knows no files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from codeclippy_ls.catalog.gguf_header import GgufError, GgufHeader, reject_other_kinds
from codeclippy_ls.engine.decoder.architectures import ARCHITECTURES

Values = dict[str, Any]

FACTORS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
_MAX_FACTORS = 4096  # numbers in one of these: a frequency of a head each
_MAX_SIZE = 1 << 24  # of any dimension; the widest models have 65,536, the longest contexts ten million tokens

# Names within a layer that most architectures share: llama.cpp's, transformers'.
_LLAMA_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA2_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LLAMA_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """One row.

    Attributes:
        model_type: transformers' name.
        make_values: makes what ``config.json`` has beyond the common sizes.
        extra_parts: names within a layer that differ from, or are added to, those of llama.
        are_qk_permuted: the rows of q and k are in the order of neighbouring rotary pairs.
        is_qkv_stacked: q, k and v of all heads are stacked, where transformers stores them per head.
        norm_offset: what the converter added to the norms' weights.
    """

    model_type: str
    make_values: Callable[[GgufHeader, Values], Values]
    extra_parts: Mapping[str, str] = field(default_factory=dict)
    are_qk_permuted: bool = False
    is_qkv_stacked: bool = False
    norm_offset: float = 0.0

    def name_weight(self, name: str) -> str:
        """Return transformers' name of a tensor.

        Raises:
            GgufError: the architecture has no such tensor.
        """
        stem, _, parameter = name.rpartition(".")
        if stem.startswith("blk."):
            _, index, part = stem.split(".", 2)
            prefix, parts = self._layer_names()
            if part in parts and index.isdecimal() and parameter in ("weight", "bias"):
                return f"{prefix.format(int(index))}{parts[part]}.{parameter}"
        elif stem in (outer := self._outer_names()) and parameter in ("weight", "bias"):
            return f"{outer[stem]}.{parameter}"
        raise GgufError(f"has a tensor {name[:60]!r}, which this version does not know for its architecture")

    def _layer_names(self) -> tuple[str, dict[str, str]]:
        spec = ARCHITECTURES.get(self.model_type)
        if spec is None:
            return "model.layers.{}.", {**_LLAMA_PARTS, **self.extra_parts}
        qkv = ("attn_q", "attn_k", "attn_v") if len(spec.qkv_proj) == 3 else ("attn_qkv",)
        gate_up = ("ffn_gate", "ffn_up")[-len(spec.gate_up_proj) :]
        names = {
            "attn_norm": spec.norms[0],
            **({"ffn_norm": spec.norms[1]} if spec.norms[0] != spec.norms[1] else {}),
            **dict(zip(qkv, spec.qkv_proj, strict=True)),
            "attn_output": spec.o_proj,
            **dict(zip(gate_up, spec.gate_up_proj, strict=True)),
            "ffn_down": spec.down_proj,
        }
        return spec.layer_prefix, {**names, **self.extra_parts}

    def _outer_names(self) -> dict[str, str]:
        spec = ARCHITECTURES.get(self.model_type)
        if spec is None:
            return _LLAMA_OUTER
        names = {"token_embd": spec.embedding, "output_norm": spec.final_norm, "output": "lm_head"}
        return {**names, "position_embd": spec.position_embedding} if spec.position_embedding else names


def _require(header: GgufHeader, key: str) -> Any:
    value = header.get(key)
    if value is None:
        raise GgufError(f"is incomplete: its header lacks {header.architecture}.{key}")
    return value


def _read_floats(header: GgufHeader, name: str) -> list[float] | None:
    """Read a small tensor of the header's file; ``None`` if there is none.

    Raises:
        GgufError: it is not a short list of numbers.
    """
    info = next((tensor for tensor in header.tensors if tensor.name == name), None)
    if info is None:
        return None
    if info.type_name != "F32" or info.nbytes > _MAX_FACTORS * 4:
        raise GgufError(f"is damaged: its tensor {name!r} is not a short list of numbers")
    with info.path.open("rb") as file:
        file.seek(info.offset)
        return list(struct.unpack(f"<{info.nbytes // 4}f", file.read(info.nbytes)))


def _make_divisors(divisors: list[float], context_length: int, amplitude: float = 1.0) -> Values:
    """Make rotary parameters of a divisor for each frequency, as transformers' type with such divisors."""
    return {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "factor": 1.0,
        "attention_factor": amplitude,
        "original_max_position_embeddings": context_length,
    }


def _read_rope(header: GgufHeader, values: Values) -> Values:
    """Read the rotary embedding's parameters.

    Raises:
        GgufError: it is scaled in a way that is not supported.
    """
    rope: Values = {"rope_type": "default", "rope_theta": float(header.get("rope.freq_base", 10000.0))}
    if (divisors := _read_floats(header, "rope_freqs.weight")) is not None:  # Llama 3.1 and later
        return rope | _make_divisors(divisors, values["max_position_embeddings"])
    kind, factor = header.get("rope.scaling.type", "none"), header.get("rope.scaling.factor", 0.0)
    factor = factor or header.get("rope.scale_linear", 0.0)
    if kind in ("linear", "yarn") or (kind == "none" and factor not in (0.0, 1.0)):
        rope |= {"rope_type": "yarn" if kind == "yarn" else "linear", "factor": float(factor or 1.0)}
        if kind == "yarn":
            rope["original_max_position_embeddings"] = _require(header, "rope.scaling.original_context_length")
    elif kind not in ("none", "longrope"):
        raise GgufError(f"scales its positions by {kind!r}, which is not supported")
    return rope


def _make_llama(header: GgufHeader, values: Values) -> Values:
    return {
        "hidden_act": "silu",
        "rms_norm_eps": _require(header, "attention.layer_norm_rms_epsilon"),
        "rope_parameters": _read_rope(header, values),
        "attention_bias": False,
        "mlp_bias": False,
        "pretraining_tp": 1,
    }


def _make_qwen2(header: GgufHeader, values: Values) -> Values:
    llama = _make_llama(header, values)
    return llama | {
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": ["full_attention"] * values["num_hidden_layers"],
    }


def _make_starcoder2(header: GgufHeader, values: Values) -> Values:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": _require(header, "attention.layer_norm_epsilon"),
        "rope_parameters": _read_rope(header, values),
        "use_bias": True,
        "sliding_window": None,
    }


def _make_gpt2(header: GgufHeader, values: Values) -> Values:
    return {
        "n_embd": values["hidden_size"],
        "n_head": values["num_attention_heads"],
        "n_layer": values["num_hidden_layers"],
        "n_positions": values["max_position_embeddings"],
        "n_inner": values["intermediate_size"],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": _require(header, "attention.layer_norm_epsilon"),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    }


def _make_gpt_bigcode(header: GgufHeader, values: Values) -> Values:
    if values["num_key_value_heads"] != 1:
        raise GgufError("has several heads of keys and values, which its architecture is not supported with")
    return _make_gpt2(header, values) | {"activation_function": "gelu_pytorch_tanh", "multi_query": True}


def _make_partial_rope(header: GgufHeader, values: Values) -> Values:
    rotary_dim = header.get("rope.dimension_count", values["head_dim"])
    return _read_rope(header, values) | {"partial_rotary_factor": rotary_dim / values["head_dim"]}


def _make_gpt_neox(header: GgufHeader, values: Values) -> Values:
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": _require(header, "attention.layer_norm_epsilon"),
        "rope_parameters": _make_partial_rope(header, values),
        "use_parallel_residual": bool(header.get("use_parallel_residual", True)),
        "attention_bias": True,
    }


def _make_phi(header: GgufHeader, values: Values) -> Values:
    return {
        "hidden_act": "gelu_new",
        "layer_norm_eps": _require(header, "attention.layer_norm_epsilon"),
        "rope_parameters": _make_partial_rope(header, values),
        "qk_layernorm": False,
    }


def _make_phi3(header: GgufHeader, values: Values) -> Values:
    rope = _make_partial_rope(header, values)
    context_length = values["max_position_embeddings"]
    if (short := _read_floats(header, "rope_factors_short.weight")) is not None:
        # Behind the original context all keys would have to be computed anew with other factors.
        original = header.get("rope.scaling.original_context_length", context_length)
        context_length = min(context_length, original)
        amplitude = header.get("rope.scaling.attn_factor", 1.0)
        rope |= _make_divisors(short, context_length, amplitude)
    return {
        "hidden_act": "silu",
        "rms_norm_eps": _require(header, "attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope,
        "max_position_embeddings": context_length,
        "original_max_position_embeddings": context_length,
        "sliding_window": header.get("attention.sliding_window"),
        "pad_token_id": None,
    }


def _make_gemma(header: GgufHeader, values: Values) -> Values:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": _require(header, "attention.layer_norm_rms_epsilon"),
        "rope_parameters": _read_rope(header, values),
        "attention_bias": False,
    }


def _make_gemma2(header: GgufHeader, values: Values) -> Values:
    # llama.cpp divides the scores of the 27B by the width over the heads, and of the others by the head size.
    is_27b = values["num_hidden_layers"] == 46
    scalar = values["hidden_size"] // values["num_attention_heads"] if is_27b else values["head_dim"]
    return _make_gemma(header, values) | {
        "attn_logit_softcapping": header.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": header.get("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": scalar,
        "sliding_window": header.get("attention.sliding_window", 4096),
    }


def _make_gemma3(header: GgufHeader, values: Values) -> Values:
    is_27b = values["num_hidden_layers"] == 62
    full = _read_rope(header, values) | {"rope_theta": float(header.get("rope.freq_base", 1e6))}
    local = {"rope_type": "default", "rope_theta": float(header.get("rope.freq_base_swa", 10000.0))}
    return _make_gemma(header, values) | {
        "rope_parameters": {"full_attention": full, "sliding_attention": local},
        "query_pre_attn_scalar": values["hidden_size"] // values["num_attention_heads"]
        if is_27b
        else values["head_dim"],
        "sliding_window": header.get("attention.sliding_window", 1024),
        "layer_types": [
            "sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in range(values["num_hidden_layers"])
        ],
    }


def _make_granite(header: GgufHeader, values: Values) -> Values:
    return _make_llama(header, values) | {
        "embedding_multiplier": header.get("embedding_scale", 1.0),
        "residual_multiplier": header.get("residual_scale", 1.0),
        "attention_multiplier": header.get("attention.scale", values["head_dim"] ** -0.5),
        "logits_scaling": header.get("logit_scale", 1.0),
    }


GGUF_ARCHITECTURES: dict[str, GgufArchitecture] = {
    "llama": GgufArchitecture("llama", _make_llama, are_qk_permuted=True),
    "qwen2": GgufArchitecture("qwen2", _make_qwen2),
    "qwen3": GgufArchitecture("qwen3", _make_qwen2, _QK_NORMS),
    "granite": GgufArchitecture("granite", _make_granite, are_qk_permuted=True),
    "starcoder2": GgufArchitecture("starcoder2", _make_starcoder2),
    "starcoder": GgufArchitecture("gpt_bigcode", _make_gpt_bigcode),
    "gpt2": GgufArchitecture("gpt2", _make_gpt2),
    "gptneox": GgufArchitecture("gpt_neox", _make_gpt_neox, is_qkv_stacked=True),
    "phi2": GgufArchitecture("phi", _make_phi),
    "phi3": GgufArchitecture("phi3", _make_phi3, {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "gemma": GgufArchitecture("gemma", _make_gemma, norm_offset=1.0),
    "gemma2": GgufArchitecture("gemma2", _make_gemma2, _GEMMA2_NORMS, norm_offset=1.0),
    "gemma3": GgufArchitecture("gemma3_text", _make_gemma3, {**_GEMMA2_NORMS, **_QK_NORMS}, norm_offset=1.0),
}


def find_architecture(header: GgufHeader) -> GgufArchitecture:
    """Return the row of a file.

    Raises:
        GgufError: it is no language model, or of an architecture without a row.
    """
    reject_other_kinds(header)
    return GGUF_ARCHITECTURES[header.architecture]


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= _MAX_SIZE


def make_config(header: GgufHeader) -> Values:
    """Make the contents of the ``config.json`` that transformers would have written.

    Raises:
        GgufError: the header lacks something, or says something that is not supported.
    """
    row, shapes = find_architecture(header), {tensor.name: tensor.shape for tensor in header.tensors}
    if "token_embd.weight" not in shapes:
        raise GgufError("is incomplete: it has no embedding")
    hidden_size, num_heads = _require(header, "embedding_length"), _require(header, "attention.head_count")
    sizes: Values = {
        "hidden_size": hidden_size,
        "intermediate_size": _require(header, "feed_forward_length"),
        "num_hidden_layers": _require(header, "block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": header.get("attention.head_count_kv", num_heads),
        "max_position_embeddings": _require(header, "context_length"),
    }
    if wrong := next((key for key, size in sizes.items() if not _is_size(size)), None):
        raise GgufError(f"has a {wrong} of {sizes[wrong]!r:.40}, which is not supported")
    told = (sizes["num_hidden_layers"], hidden_size)
    layers = {name.split(".")[1] for name in shapes if name.startswith("blk.") and name.count(".") > 1}
    found = (len(layers), shapes["token_embd.weight"][-1])
    if told != found:
        raise GgufError("is incomplete: its header tells of {} layers of width {}, not {} of {}".format(*told, *found))
    sizes["head_dim"] = header.get("attention.key_length", hidden_size // num_heads)
    return {
        "model_type": row.model_type,
        **sizes,
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",
        "transformers_version": "5.0.0",
        **row.make_values(header, sizes),
    }
