"""Write a checkpoint as a folder that plain transformers loads, with a description that names its hash.

The folder holds config.json, generation_config.json, model.safetensors (bf16, tied weights once), the tokenizer's two
files and model.json. The export is read back and must give the same logits, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM

from training.tokenizer import CONTROL_TOKENS
from training.train import HERE, Shape, in_bf16, new_model


def checkpoint_model(checkpoint: dict[str, Any]) -> GPTNeoXForCausalLM:
    """The model of a checkpoint, in bf16, for inference."""
    model = in_bf16(new_model(Shape(**checkpoint["shape"]))).eval()
    model.load_state_dict(checkpoint["weights"])
    return model


def description(
    name: str, version: str, weights: Path, model: GPTNeoXForCausalLM, checkpoint: dict[str, Any]
) -> dict[str, Any]:
    """What model.json says."""
    return {
        "name": name,
        "version": version,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "window": checkpoint["shape"]["window"],
        "vocabulary": checkpoint["shape"]["vocabulary"],
        "tokens_seen": checkpoint["progress"]["tokens"],
        "steps": checkpoint["progress"]["steps"],
        "training_seconds": round(checkpoint["progress"]["elapsed"]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "licence": "Apache-2.0",
    }


def export(checkpoint_file: Path, tokenizer: Path, folder: Path, name: str, version: str) -> dict[str, Any]:
    """Write the folder; files of it that are not ours to write (README.md) stay."""
    checkpoint = torch.load(checkpoint_file, map_location="cpu", weights_only=True)
    model = checkpoint_model(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written readable by its owner alone
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder / file)
    check(folder, model)
    about = description(name, version, folder / "model.safetensors", model, checkpoint)
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


@torch.no_grad()
def check(folder: Path, model: GPTNeoXForCausalLM) -> None:
    """The folder loads with the Auto classes, gives identical logits, and its control tokens have their ids."""
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True).eval()
    ids = torch.arange(64)[None] * 97 % model.config.vocab_size
    assert torch.equal(model(ids).logits, again(ids).logits), "the export does not give the logits of the checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == list(range(8)), "control tokens have other ids"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--checkpoint", type=Path, help="default: <work>/run/checkpoint.pt")
    parser.add_argument("--to", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--name", default="clippy-tiny")
    parser.add_argument("--version", default="0.1")
    options = parser.parse_args()
    checkpoint = options.checkpoint or options.work / "run" / "checkpoint.pt"
    print(json.dumps(export(checkpoint, options.work / "tokenizer", options.to, options.name, options.version)))


if __name__ == "__main__":
    main()
