"""Write GGUF files of toy models, as llama.cpp's converter would: its names, its order of rows, its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from tests.checkpoints import make_tokenizer_json

VOCAB_SIZE, CONTEXT_LENGTH, HIDDEN_SIZE, HEADS, KV_HEADS, LAYERS = 600, 64, 64, 4, 2, 2
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GPT2_SIZES = {"vocab_size": VOCAB_SIZE, "n_embd": HIDDEN_SIZE, "n_head": HEADS, "n_layer": LAYERS, "n_positions": 64}
# llama.cpp's name: transformers' configuration class, what differs from the toy's sizes.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "granite": ("GraniteConfig", {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0}),
    "starcoder2": ("Starcoder2Config", {"use_bias": True, "sliding_window": None}),
    "starcoder": ("GPTBigCodeConfig", {**_GPT2_SIZES, "n_inner": 96, "multi_query": True}),
    "gpt2": ("GPT2Config", {**_GPT2_SIZES, "n_inner": 96}),
    "gptneox": (
        "GPTNeoXConfig",
        {
            "num_key_value_heads": HEADS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "phi2": (
        "PhiConfig",
        {
            "num_key_value_heads": HEADS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "phi3": ("Phi3Config", {"sliding_window": 32}),
    "gemma": ("GemmaConfig", {"head_dim": 24}),
    "gemma2": ("Gemma2Config", {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 16}),
}


def make_module(architecture: str) -> Any:
    """Make transformers' module of a toy model with random weights, biases and norms included."""
    import transformers

    name, changes = CONFIGS[architecture]
    sizes = {} if name.startswith("GPT2") or "BigCode" in name else _SIZES
    torch.manual_seed(3)
    config = getattr(transformers, name)(**{**sizes, **changes})
    module = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm and "emma" not in config.model_type else 0.0, 0.2)
    return module


def write_model(
    architecture: str,
    module: Any,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    changes: Mapping[str, Any] | None = None,
    parts: int = 1,
    more: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a module as a GGUF file, or as several parts, with a toy tokenizer; return its path, or the first part's.

    Args:
        kind: type of the matrices.
        changes: metadata to add or to replace.
        more: tensors to add.
    """
    tensors = {**list_tensors(architecture, module), **(more or {})}
    split = {"split_max_tensors": -(-len(tensors) // parts)} if parts > 1 else {}
    writer = gguf.GGUFWriter(path, architecture, **split)
    _write_sizes(writer, architecture, module.config)
    write_vocabulary(writer, make_tokenizer_json())
    for key, value in (changes or {}).items():
        writer.kv_data[0].pop(key, None)
        adds = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        adds[type(value)](key, value)
    for name, tensor in tensors.items():
        used = kind if tensor.dim() > 1 and "position" not in name else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if parts == 1 else path.with_name(f"{path.stem}-00001-of-{parts:05}.gguf")


def _write_sizes(writer: gguf.GGUFWriter, architecture: str, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.n_inner)
    writer.add_head_count(config.num_attention_heads)
    is_multi_query = getattr(config, "multi_query", False)
    writer.add_head_count_kv(
        1 if is_multi_query else getattr(config, "num_key_value_heads", config.num_attention_heads)
    )
    writer.add_key_length(head_dim)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
        writer.add_layer_norm_eps(next(getattr(config, name) for name in names if hasattr(config, name)))
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:
        rope = rope["full_attention"]
    if rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)
    if architecture == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def write_vocabulary(writer: gguf.GGUFWriter, definition: str, pre: str = "gpt-2") -> None:
    """Write the vocabulary of a byte-level ``tokenizer.json``; its added tokens are control tokens."""
    data = json.loads(definition)
    control = {token["content"]: token["id"] for token in data["added_tokens"]}
    ids = {**data["model"]["vocab"], **control}
    names = {id: token for token, id in ids.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([names.get(id, f"[PAD{id}]") for id in range(max(ids.values()) + 1)])
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL
            if id in control.values()
            else gguf.TokenType.NORMAL
            if id in names
            else gguf.TokenType.UNUSED
            for id in range(max(ids.values()) + 1)
        ]
    )
    merges = data["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end = control.get("<|endoftext|>", 0)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def list_tensors(architecture: str, module: Any) -> dict[str, Tensor]:
    """List a module's weights under llama.cpp's names, changed as its converter changes them."""
    kinds = {gguf.MODEL_ARCH_NAMES[kind]: kind for kind in gguf.MODEL_ARCH}
    names = gguf.get_tensor_name_map(kinds[architecture], LAYERS)
    is_tied = module.config.tie_word_embeddings
    found = {}
    for name, parameter in module.state_dict().items():
        if name.startswith("lm_head.weight") and is_tied:
            continue
        if name.endswith((".attn.bias", ".masked_bias", ".inv_freq")):
            continue
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        found[new_name] = _convert(architecture, name, parameter.detach().clone()).contiguous()
    return found


def _convert(architecture: str, name: str, weight: Tensor) -> Tensor:
    if architecture in ("llama", "granite") and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = HEADS if "q_proj" in name else KV_HEADS
        return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return weight.t()
    if architecture == "gptneox" and "query_key_value" in name:
        parts = weight.reshape(HEADS, 3, HIDDEN_SIZE // HEADS, -1)
        return torch.cat([parts[:, index] for index in range(3)]).reshape(weight.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    return weight
