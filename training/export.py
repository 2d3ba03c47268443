"""Write a checkpoint as a folder that plain transformers loads, with a description that contains its hash.

The folder holds config.json, generation_config.json, model.safetensors (tied weights once), the two files of the
tokenizer and model.json. Weights are bf16. With `--format int8`, matrices are int8 with one factor per row, which
halves the file; only the server reads that format. The export is loaded again as the server loads it: bf16 must give
the same logits bit for bit, int8 nearly the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.engine.loading.weights import SCALE
from codeclippy_ls.inference.spec import ModelSpec
from training.tokenizer import CONTROL_TOKENS
from training.train import HERE, Checkpoint, ModelConfig, cast_to_bf16, make_model


def load_checkpoint_model(checkpoint: Checkpoint) -> GPTNeoXForCausalLM:
    """Load the model of a checkpoint in bf16, for inference."""
    model = cast_to_bf16(make_model(ModelConfig(**checkpoint["config"]))).eval()
    model.load_state_dict(checkpoint["weights"])
    return model


def describe_model(
    name: str, version: str, weights: Path, model: GPTNeoXForCausalLM, checkpoint: Checkpoint
) -> dict[str, str | int]:
    """Make the content of model.json."""
    return {
        "name": name,
        "version": version,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "window": checkpoint["config"]["context_length"],
        "vocabulary": checkpoint["config"]["vocab_size"],
        "tokens_seen": checkpoint["progress"]["tokens"],
        "steps": checkpoint["progress"]["steps"],
        "training_seconds": round(checkpoint["progress"]["elapsed"]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "licence": "Apache-2.0",
    }


def quantize_int8(weights: Path) -> None:
    """Rewrite a file of bf16 weights: matrices become int8 with a float32 factor per row (maximum 127)."""
    packed: dict[str, torch.Tensor] = {}
    for name, value in load_file(weights).items():
        if value.ndim == 2:
            scale = value.float().abs().amax(1).clamp_min(1e-12) / 127
            packed[name + SCALE] = scale
            value = (value.float() / scale[:, None]).round().to(torch.int8)
        packed[name] = value
    save_file(packed, weights, metadata={"format": "pt", "matrices": "int8 per row"})


def export(
    checkpoint_file: Path, tokenizer: Path, folder: Path, name: str, version: str, form: str = "bf16"
) -> dict[str, str | int]:
    """Write the files of the model; other files of the folder (README.md) stay."""
    checkpoint: Checkpoint = torch.load(checkpoint_file, map_location="cpu", weights_only=True)
    model = load_checkpoint_model(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if form == "int8":
        quantize_int8(folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable only by its owner
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder / file)
    check_export(folder, model, exact=form == "bf16")
    about = describe_model(name, version, folder / "model.safetensors", model, checkpoint)
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


@torch.no_grad()
def check_export(folder: Path, model: GPTNeoXForCausalLM, exact: bool) -> None:
    """Check that the server's loader gives the checkpoint's logits, and that the control tokens have their ids.

    Raises:
        ValueError: the logits or the ids differ.
    """
    again = load(ModelSpec(str(folder), device="cpu", dtype="bfloat16"), native=False).module
    ids = torch.arange(64)[None] * 97 % model.config.vocab_size
    wanted, found = model(ids).logits.float(), again(ids).logits.float()
    error = float((found - wanted).norm() / wanted.norm())
    if error > (0.0 if exact else 0.05):
        raise ValueError(f"the logits of the export differ from those of the checkpoint by {error:.4f}")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) != list(range(8)):
        raise ValueError("the control tokens do not have the ids 0 to 7")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--checkpoint", type=Path, help="default: <work>/run/checkpoint.pt")
    parser.add_argument("--to", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--name", default="clippy-tiny")
    parser.add_argument("--version", default="0.2")
    parser.add_argument("--format", choices=("bf16", "int8"), default="bf16")
    options = parser.parse_args()
    checkpoint = options.checkpoint or options.work / "run" / "checkpoint.pt"
    tokenizer = options.work / "tokenizer"
    print(json.dumps(export(checkpoint, tokenizer, options.to, options.name, options.version, options.format)))


if __name__ == "__main__":
    main()
