"""A user's account with models where other programs keep them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import gguf

TITLE = "Qwen2.5 Coder Toy Instruct"
# The one that `fill_account` shows to be found, by its program.
OLLAMA_NAME = "ollama:qwen2.5-coder:0.5b"
_DIGEST = "0123456789abcdef" * 4


def write_toy_model(path: Path) -> Path:
    """Write the header of a small model: it is listed, and a scripted server loads anything."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name(TITLE)
    writer.add_license("apache-2.0")
    for add, value in (
        (writer.add_embedding_length, 896),
        (writer.add_block_count, 24),
        (writer.add_feed_forward_length, 4864),
        (writer.add_head_count, 14),
        (writer.add_head_count_kv, 2),
        (writer.add_file_type, 15),
    ):
        add(value)
    writer.add_token_list([f"token{number}" for number in range(2000)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fill_account(home: Path, model: Path) -> dict[str, str]:
    """Put a model into the stores of Ollama, LM Studio, the hub and llama.cpp; return its names by program."""
    store = home / ".ollama" / "models"
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / "qwen2.5-coder" / "0.5b"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{_DIGEST}"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    files = {
        "Ollama": store / "blobs" / f"sha256-{_DIGEST}",
        "LM Studio": home / ".lmstudio" / "models" / "owner" / "coder" / model.name,
        "Hugging Face Hub": home / ".cache/huggingface/hub/models--owner--coder-GGUF/snapshots/abc" / model.name,
        "settings": home / "mine" / model.name,
    }
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(model, path)
        except OSError:  # on another disk
            shutil.copy(model, path)
    return {program: str(path) for program, path in files.items()} | {"Ollama": OLLAMA_NAME}
