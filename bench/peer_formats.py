"""A checkpoint of transformers, written as other engines read it. Runs in their environment (`make bench-peers`).

Where an engine lacks a layout, the same weights are laid out as one that it has: CodeGen is Phi after a permutation;
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

Weights = dict[str, torch.Tensor]
GGUF_TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}


@dataclass
class Laid:
    """Weights under GGUF's names, in the layout of one of llama.cpp's architectures."""

    architecture: str
    width: int
    layers: int
    heads: int
    inner: int
    window: int
    epsilon: float
    rotary: int = 0
    base: float = 10000.0
    parallel: bool | None = None
    weights: Weights = field(default_factory=dict)


def read(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The configuration and the weights, in float32, without the name of the model's body."""
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return config, {
        name.removeprefix("transformer.").removeprefix("gpt_neox."): weight.float() for name, weight in found.items()
    }


def laid(folder: Path) -> Laid:
    """The checkpoint in one of the layouts that other engines have.

    Raises:
        ValueError: there is none for its architecture.
    """
    config, weights = read(folder)
    kind = config["model_type"]
    if kind not in _LAYOUTS:
        raise ValueError(f"no layout for {kind}")
    return _LAYOUTS[kind](config, weights)


def _ends(made: Laid, weights: Weights, norm: str, embedding: str, head: str) -> Laid:
    """Put in what is outside the layers."""
    for part in ("weight", "bias"):
        made.weights[f"output_norm.{part}"] = weights[f"{norm}.{part}"]
    made.weights["token_embd.weight"] = weights[f"{embedding}.weight"]
    if f"{head}.weight" in weights:
        made.weights["output.weight"] = weights[f"{head}.weight"]
    if f"{head}.bias" in weights:
        made.weights["output.bias"] = weights[f"{head}.bias"]
    return made


def _layer(made: Laid, weights: Weights, index: int, names: dict[str, str], start: str, turned: bool = False) -> None:
    """Put in matrices and biases of a layer by pairs of names; ``turned`` where they are stored by input."""
    for ours, theirs in names.items():
        weight = weights[f"{start}{theirs}.weight"]
        made.weights[f"blk.{index}.{ours}.weight"] = weight.T.contiguous() if turned and weight.dim() == 2 else weight
        bias = weights.get(f"{start}{theirs}.bias")
        made.weights[f"blk.{index}.{ours}.bias"] = torch.zeros(weight.shape[0]) if bias is None else bias


def _neox(config: dict[str, Any], weights: Weights) -> Laid:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    made = Laid(
        "gptneox",
        width,
        config["num_hidden_layers"],
        heads,
        config["intermediate_size"],
        config["max_position_embeddings"],
        config["layer_norm_eps"],
        int(share * (width // heads)),
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
    for index in range(made.layers):
        start = f"layers.{index}."
        _layer(made, weights, index, names, start)
        for part in ("weight", "bias"):  # head by head query, key and value: all queries, all keys, all values
            stored = weights[f"{start}attention.query_key_value.{part}"]
            parts = stored.view(heads, 3, width // heads, -1).transpose(0, 1)
            made.weights[f"blk.{index}.attn_qkv.{part}"] = parts.reshape(stored.shape).contiguous()
    head = "lm_head" if "lm_head.weight" in weights else "embed_out"
    made = _ends(made, weights, "final_layer_norm", "embed_in", head)
    made.weights.setdefault("output.weight", made.weights["token_embd.weight"])  # llama.cpp wants both
    return made


def _gpt2(config: dict[str, Any], weights: Weights) -> Laid:
    width = config["n_embd"]
    made = Laid(
        "gpt2",
        width,
        config["n_layer"],
        config["n_head"],
        config.get("n_inner") or 4 * width,
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
    for index in range(made.layers):
        _layer(made, weights, index, names, f"h.{index}.", turned=True)
    made.weights["position_embd.weight"] = weights["wpe.weight"]
    return _ends(made, weights, "ln_f", "wte", "lm_head")


def _neo(config: dict[str, Any], weights: Weights) -> Laid:
    """As GPT-2, with the queries multiplied by what GPT-2 divides the scores by."""
    width, heads = config["hidden_size"], config["num_heads"]
    made = Laid(
        "gpt2",
        width,
        config["num_layers"],
        heads,
        config.get("intermediate_size") or 4 * width,
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
    for index in range(made.layers):
        start = f"h.{index}."
        _layer(made, weights, index, names, start)
        query, key, value = (weights[f"{start}attn.attention.{name}_proj.weight"] for name in "qkv")
        made.weights[f"blk.{index}.attn_qkv.weight"] = torch.cat([query * math.sqrt(width // heads), key, value])
        made.weights[f"blk.{index}.attn_qkv.bias"] = torch.zeros(3 * width)
    made.weights["position_embd.weight"] = weights["wpe.weight"]
    return _ends(made, weights, "ln_f", "wte", "lm_head")


def _codegen(config: dict[str, Any], weights: Weights) -> Laid:
    """As Phi: queries, values and keys lie in four blocks, and rotated pairs are neighbours instead of halves."""
    width, heads, rotary = config["n_embd"], config["n_head"], config["rotary_dim"]
    size = width // heads
    made = Laid(
        "phi2",
        width,
        config["n_layer"],
        heads,
        config.get("n_inner") or 4 * width,
        config["n_positions"],
        config["layer_norm_epsilon"],
        rotary,
    )
    names = {"attn_norm": "ln_1", "attn_output": "attn.out_proj", "ffn_up": "mlp.fc_in", "ffn_down": "mlp.fc_out"}
    order = torch.cat([torch.arange(0, rotary, 2), torch.arange(1, rotary, 2), torch.arange(rotary, size)])
    for index in range(made.layers):
        start = f"h.{index}."
        _layer(made, weights, index, names, start)
        stored = weights[f"{start}attn.qkv_proj.weight"].view(4, 3, width // 4, width)
        query, value, key = (stored[:, part].reshape(heads, size, width) for part in range(3))
        parts = torch.cat([query[:, order], key[:, order], value])
        made.weights[f"blk.{index}.attn_qkv.weight"] = parts.reshape(3 * width, width)
        made.weights[f"blk.{index}.attn_qkv.bias"] = torch.zeros(3 * width)
    return _ends(made, weights, "ln_f", "wte", "lm_head")


_LAYOUTS: dict[str, Callable[[dict[str, Any], Weights], Laid]] = {
    "gpt_neox": _neox,
    "gpt2": _gpt2,
    "gpt_neo": _neo,
    "codegen": _codegen,
}


def described(writer: Any, made: Laid) -> int:
    """Say the model's sizes in a GGUF file; how many words it has."""
    words = made.weights["token_embd.weight"].shape[0]
    writer.add_context_length(made.window)
    writer.add_embedding_length(made.width)
    writer.add_block_count(made.layers)
    writer.add_feed_forward_length(made.inner)
    writer.add_head_count(made.heads)
    writer.add_layer_norm_eps(made.epsilon)
    if made.rotary:
        writer.add_rope_dimension_count(made.rotary)
        writer.add_rope_freq_base(made.base)
    if made.parallel is not None:
        writer.add_parallel_residual(made.parallel)
    writer.add_vocab_size(words)
    return words


def write_gguf(folder: Path, path: Path, form: str) -> None:
    """A GGUF file. Matrices in ``form``, all else in float32.

    It is asked by token ids, but llama.cpp's server also says what it wrote as text and does not start without a
    tokenizer. So there is one of the right size that can spell each byte; its end is the last token.
    """
    import gguf

    made = laid(folder)
    writer = gguf.GGUFWriter(path, made.architecture)
    words = described(writer, made)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(spelled(words))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(words - 1)
    writer.add_eos_token_id(words - 1)
    writer.add_add_bos_token(False)
    kind = gguf.GGMLQuantizationType[GGUF_TYPES[form]]
    for name, weight in made.weights.items():
        whole = weight.dim() == 1 or name.startswith("position")
        used = gguf.GGMLQuantizationType.F32 if whole else kind
        writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def spelled(count: int) -> list[str]:
    """So many different words: the bytes as GPT-2 writes them, then numbers."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    return (letters + [f"t{index}" for index in range(len(letters), count)])[:count]


def as_gpt2(folder: Path) -> Any:
    """A GPT-Neo checkpoint as transformers' GPT-2 module."""
    import transformers

    config, weights = read(folder)
    made = _neo(config, weights)
    module = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config["vocab_size"],
            n_positions=made.window,
            n_embd=made.width,
            n_layer=made.layers,
            n_head=made.heads,
            n_inner=made.inner,
            layer_norm_epsilon=made.epsilon,
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
    state = {"wte.weight": made.weights["token_embd.weight"], "wpe.weight": made.weights["position_embd.weight"]}
    for part in ("weight", "bias"):
        state[f"ln_f.{part}"] = made.weights[f"output_norm.{part}"]
        for index in range(made.layers):
            for ours, theirs in names.items():
                weight = made.weights[f"blk.{index}.{ours}.{part}"]
                state[f"h.{index}.{theirs}.{part}"] = weight.T if weight.dim() == 2 else weight
    module.transformer.load_state_dict(state, strict=False)
    module.tie_weights()
    return module.eval()


def module_of(folder: Path) -> Any:
    """transformers' module, in float32; GPT-Neo as GPT-2."""
    import transformers

    if json.loads((folder / "config.json").read_text())["model_type"] == "gpt_neo":
        return as_gpt2(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def write_ctranslate2(folder: Path, to: Path, form: str) -> None:
    """A CTranslate2 model by its own converter's loaders; its tokens are the ids as words.

    Raises:
        ValueError: it has no loader for the architecture.
    """
    from ctranslate2.converters import transformers as converters

    module = module_of(folder)
    if rope := getattr(module.config, "rope_parameters", None):  # names of transformers 4, which the loaders know
        module.config.rotary_pct = rope.get("partial_rotary_factor", 1.0)
        module.config.rotary_emb_base = rope.get("rope_theta", 10000.0)
        module.embed_out = module.get_output_embeddings()
    loader = converters._MODEL_LOADERS.get(type(module.config).__name__)
    if loader is None:
        raise ValueError(f"no layout for {module.config.model_type}")
    with torch.no_grad():
        spec = loader.get_model_spec(module)
    spec.register_vocabulary([str(index) for index in range(module.config.vocab_size)])
    for name in ("unk_token", "bos_token", "eos_token"):
        setattr(spec.config, name, "0")
    spec.validate()
    spec.optimize(quantization=form)
    to.mkdir(parents=True, exist_ok=True)
    spec.save(str(to))
