"""Conversion of transformers checkpoints to the formats of other engines, in their environment (`make bench-peers`).

If an engine lacks an architecture, the weights are converted to one that it has: CodeGen is Phi after a permutation;
GPT-Neo becomes GPT-2, whose layers all attend to everything, so that its texts differ from the 257th token on while
the work is the same or a little more. Knows nothing of this project but its checkpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

StateDict = dict[str, torch.Tensor]
GGUF_TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}


@dataclass
class GgufModel:
    """Weights under GGUF's names, for one of llama.cpp's architectures."""

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    context_length: int
    norm_epsilon: float
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    is_parallel: bool | None = None  # None for architectures without the choice
    weights: StateDict = field(default_factory=dict)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], StateDict]:
    """Read the configuration and the weights, in float32, without the prefix of the model's body."""
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    found: StateDict = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return config, {
        name.removeprefix("transformer.").removeprefix("gpt_neox."): weight.float() for name, weight in found.items()
    }


def convert_checkpoint(folder: Path) -> GgufModel:
    """Convert a checkpoint to an architecture that other engines have.

    Raises:
        ValueError: there is none for its own.
    """
    config, weights = read_checkpoint(folder)
    model_type = config["model_type"]
    if model_type not in _CONVERTERS:
        raise ValueError(f"{model_type} cannot be converted")
    return _CONVERTERS[model_type](config, weights)


def _add_outer_weights(
    model: GgufModel, weights: StateDict, final_norm: str, embedding: str, lm_head: str
) -> GgufModel:
    """Add the weights outside the layers."""
    for part in ("weight", "bias"):
        model.weights[f"output_norm.{part}"] = weights[f"{final_norm}.{part}"]
    model.weights["token_embd.weight"] = weights[f"{embedding}.weight"]
    if f"{lm_head}.weight" in weights:
        model.weights["output.weight"] = weights[f"{lm_head}.weight"]
    if f"{lm_head}.bias" in weights:
        model.weights["output.bias"] = weights[f"{lm_head}.bias"]
    return model


def _add_layer(
    model: GgufModel,
    weights: StateDict,
    index: int,
    names: dict[str, str],
    prefix: str,
    is_transposed: bool = False,
) -> None:
    """Add a layer's weights and biases, by GGUF's and transformers' names; transposed ones are stored (in, out)."""
    for gguf_name, name in names.items():
        weight = weights[f"{prefix}{name}.weight"]
        model.weights[f"blk.{index}.{gguf_name}.weight"] = (
            weight.T.contiguous() if is_transposed and weight.dim() == 2 else weight
        )
        bias = weights.get(f"{prefix}{name}.bias")
        model.weights[f"blk.{index}.{gguf_name}.bias"] = torch.zeros(weight.shape[0]) if bias is None else bias


def _convert_gpt_neox(config: dict[str, Any], weights: StateDict) -> GgufModel:
    hidden_size, num_heads = config["hidden_size"], config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    rotary_factor = rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    model = GgufModel(
        "gptneox",
        hidden_size,
        config["num_hidden_layers"],
        num_heads,
        config["intermediate_size"],
        config["max_position_embeddings"],
        config["layer_norm_eps"],
        int(rotary_factor * (hidden_size // num_heads)),
        rope.get("rope_theta", config.get("rotary_emb_base", 10000.0)),
        config["use_parallel_residual"],
    )
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_output": "attention.dense",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    }
    for index in range(model.num_layers):
        prefix = f"layers.{index}."
        _add_layer(model, weights, index, names, prefix)
        for part in ("weight", "bias"):  # query, key and value of each head become all queries, all keys, all values
            stored = weights[f"{prefix}attention.query_key_value.{part}"]
            parts = stored.view(num_heads, 3, hidden_size // num_heads, -1).transpose(0, 1)
            model.weights[f"blk.{index}.attn_qkv.{part}"] = parts.reshape(stored.shape).contiguous()
    lm_head = "lm_head" if "lm_head.weight" in weights else "embed_out"
    model = _add_outer_weights(model, weights, "final_layer_norm", "embed_in", lm_head)
    model.weights.setdefault("output.weight", model.weights["token_embd.weight"])  # llama.cpp needs both
    return model


def _convert_gpt2(config: dict[str, Any], weights: StateDict) -> GgufModel:
    hidden_size = config["n_embd"]
    model = GgufModel(
        "gpt2",
        hidden_size,
        config["n_layer"],
        config["n_head"],
        config.get("n_inner") or 4 * hidden_size,
        config["n_positions"],
        config["layer_norm_epsilon"],
    )
    names = {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    }
    for index in range(model.num_layers):
        _add_layer(model, weights, index, names, f"h.{index}.", is_transposed=True)
    model.weights["position_embd.weight"] = weights["wpe.weight"]
    return _add_outer_weights(model, weights, "ln_f", "wte", "lm_head")


def _convert_gpt_neo(config: dict[str, Any], weights: StateDict) -> GgufModel:
    """Convert to GPT-2, with the queries multiplied by the factor by which GPT-2 divides the scores."""
    hidden_size, num_heads = config["hidden_size"], config["num_heads"]
    model = GgufModel(
        "gpt2",
        hidden_size,
        config["num_layers"],
        num_heads,
        config.get("intermediate_size") or 4 * hidden_size,
        config["max_position_embeddings"],
        config["layer_norm_epsilon"],
    )
    names = {
        "attn_norm": "ln_1",
        "attn_output": "attn.attention.out_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    }
    for index in range(model.num_layers):
        prefix = f"h.{index}."
        _add_layer(model, weights, index, names, prefix)
        query, key, value = (weights[f"{prefix}attn.attention.{name}_proj.weight"] for name in "qkv")
        model.weights[f"blk.{index}.attn_qkv.weight"] = torch.cat(
            [query * math.sqrt(hidden_size // num_heads), key, value]
        )
        model.weights[f"blk.{index}.attn_qkv.bias"] = torch.zeros(3 * hidden_size)
    model.weights["position_embd.weight"] = weights["wpe.weight"]
    return _add_outer_weights(model, weights, "ln_f", "wte", "lm_head")


def _convert_codegen(config: dict[str, Any], weights: StateDict) -> GgufModel:
    """Convert to Phi: queries, values and keys are stored in four blocks, and rotary pairs are interleaved."""
    hidden_size, num_heads, rotary_dim = config["n_embd"], config["n_head"], config["rotary_dim"]
    head_dim = hidden_size // num_heads
    model = GgufModel(
        "phi2",
        hidden_size,
        config["n_layer"],
        num_heads,
        config.get("n_inner") or 4 * hidden_size,
        config["n_positions"],
        config["layer_norm_epsilon"],
        rotary_dim,
    )
    names = {"attn_norm": "ln_1", "attn_output": "attn.out_proj", "ffn_up": "mlp.fc_in", "ffn_down": "mlp.fc_out"}
    order = torch.cat(
        [torch.arange(0, rotary_dim, 2), torch.arange(1, rotary_dim, 2), torch.arange(rotary_dim, head_dim)]
    )
    for index in range(model.num_layers):
        prefix = f"h.{index}."
        _add_layer(model, weights, index, names, prefix)
        stored = weights[f"{prefix}attn.qkv_proj.weight"].view(4, 3, hidden_size // 4, hidden_size)
        query, value, key = (stored[:, part].reshape(num_heads, head_dim, hidden_size) for part in range(3))
        parts = torch.cat([query[:, order], key[:, order], value])
        model.weights[f"blk.{index}.attn_qkv.weight"] = parts.reshape(3 * hidden_size, hidden_size)
        model.weights[f"blk.{index}.attn_qkv.bias"] = torch.zeros(3 * hidden_size)
    return _add_outer_weights(model, weights, "ln_f", "wte", "lm_head")


_CONVERTERS: dict[str, Callable[[dict[str, Any], StateDict], GgufModel]] = {
    "gpt_neox": _convert_gpt_neox,
    "gpt2": _convert_gpt2,
    "gpt_neo": _convert_gpt_neo,
    "codegen": _convert_codegen,
}


def write_sizes(writer: Any, model: GgufModel) -> int:
    """Write the model's sizes to a GGUF file; return the size of its vocabulary."""
    vocab_size = model.weights["token_embd.weight"].shape[0]
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(model.num_layers)
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_head_count(model.num_heads)
    writer.add_layer_norm_eps(model.norm_epsilon)
    if model.rotary_dim:
        writer.add_rope_dimension_count(model.rotary_dim)
        writer.add_rope_freq_base(model.rope_theta)
    if model.is_parallel is not None:
        writer.add_parallel_residual(model.is_parallel)
    writer.add_vocab_size(vocab_size)
    return vocab_size


def write_gguf(folder: Path, path: Path, form: str) -> None:
    """Write a GGUF file, with matrices in ``form`` and all else in float32.

    Requests are token ids, but llama.cpp's server also returns text and does not start without a tokenizer. So there is
    one of the right size that can spell each byte; its end token is the last.
    """
    import gguf

    model = convert_checkpoint(folder)
    writer = gguf.GGUFWriter(path, model.architecture)
    vocab_size = write_sizes(writer, model)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list_dummy_tokens(vocab_size))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(vocab_size - 1)
    writer.add_eos_token_id(vocab_size - 1)
    writer.add_add_bos_token(False)
    kind = gguf.GGMLQuantizationType[GGUF_TYPES[form]]
    for name, weight in model.weights.items():
        is_unquantized = weight.dim() == 1 or name.startswith("position")
        used = gguf.GGMLQuantizationType.F32 if is_unquantized else kind
        writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def list_dummy_tokens(count: int) -> list[str]:
    """List ``count`` different tokens: the bytes as GPT-2 writes them, then numbers."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    return (letters + [f"t{index}" for index in range(len(letters), count)])[:count]


def load_gpt_neo_as_gpt2(folder: Path) -> Any:
    """Load a GPT-Neo checkpoint as transformers' GPT-2 module."""
    import transformers

    config, weights = read_checkpoint(folder)
    model = _convert_gpt_neo(config, weights)
    module = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config["vocab_size"],
            n_positions=model.context_length,
            n_embd=model.hidden_size,
            n_layer=model.num_layers,
            n_head=model.num_heads,
            n_inner=model.intermediate_size,
            layer_norm_epsilon=model.norm_epsilon,
            activation_function="gelu_new",
        )
    )
    names = {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    }
    state = {"wte.weight": model.weights["token_embd.weight"], "wpe.weight": model.weights["position_embd.weight"]}
    for part in ("weight", "bias"):
        state[f"ln_f.{part}"] = model.weights[f"output_norm.{part}"]
        for index in range(model.num_layers):
            for gguf_name, name in names.items():
                weight = model.weights[f"blk.{index}.{gguf_name}.{part}"]
                state[f"h.{index}.{name}.{part}"] = weight.T if weight.dim() == 2 else weight
    module.transformer.load_state_dict(state, strict=False)
    module.tie_weights()
    return module.eval()


def load_module(folder: Path) -> Any:
    """Load transformers' module, in float32; GPT-Neo as GPT-2."""
    import transformers

    if json.loads((folder / "config.json").read_text())["model_type"] == "gpt_neo":
        return load_gpt_neo_as_gpt2(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def write_ctranslate2(folder: Path, target: Path, form: str) -> None:
    """Write a CTranslate2 model by its own converter's loaders; its tokens are the ids as text.

    Raises:
        ValueError: it has no loader for the architecture.
    """
    from ctranslate2.converters import transformers as converters

    module = load_module(folder)
    if rope := getattr(module.config, "rope_parameters", None):  # transformers 4's names, which the loaders use
        module.config.rotary_pct = rope.get("partial_rotary_factor", 1.0)
        module.config.rotary_emb_base = rope.get("rope_theta", 10000.0)
        module.embed_out = module.get_output_embeddings()
    loader = converters._MODEL_LOADERS.get(type(module.config).__name__)
    if loader is None:
        raise ValueError(f"CTranslate2 has no loader for {module.config.model_type}")
    with torch.no_grad():
        spec = loader.get_model_spec(module)
    spec.register_vocabulary([str(index) for index in range(module.config.vocab_size)])
    for name in ("unk_token", "bos_token", "eos_token"):
        setattr(spec.config, name, "0")
    spec.validate()
    spec.optimize(quantization=form)
    target.mkdir(parents=True, exist_ok=True)
    spec.save(str(target))
