"""What to load, as plain values: readable without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent.parent / "model"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A folder or hub name (empty: the shipped model), a device and a number format or ``auto``, CPU threads or 0."""

    name: str = ""
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0


def shipped_card() -> dict[str, Any]:
    """Facts about the shipped model (``model.json``): name, version, hash of the weights, parameters."""
    card: dict[str, Any] = json.loads((SHIPPED / "model.json").read_text(encoding="utf-8"))
    return card


def on_disk() -> list[str]:
    """Names of the hub's models in the local cache, without asking the hub."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots")
    return sorted(folder.parent.name.removeprefix("models--").replace("--", "/", 1) for folder in folders)
