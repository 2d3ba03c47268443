"""`ModelSpec`: the model to load, as plain values; and the shipped model's card. Readable without torch."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED_FOLDER = Path(__file__).parent.parent / "model"


class ModelRole(str, enum.Enum):
    """Role of a model in the server; requests name their model by it."""

    COMPLETE = "complete"
    EDIT = "edit"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to load, and how.

    Attributes:
        name: folder, GGUF file, Ollama's name or hub name; empty is the shipped model.
        device: ``auto``, ``cpu``, ``cuda``, ``balanced``, ...
        dtype: number format, or ``auto``.
        threads: CPU threads; 0 measures which number is fastest.
    """

    name: str = ""
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0


def read_shipped_card() -> dict[str, Any]:
    """Read the shipped model's ``model.json``: name, version, hash of the weights, parameters."""
    card: dict[str, Any] = json.loads((SHIPPED_FOLDER / "model.json").read_text(encoding="utf-8"))
    return card
