"""Weights as they lie in a checkpoint's safetensors, read one by one when they are asked for.

Knows files and names, and what is stored for what: matrices may be int8 with a factor per row. Whether they are the
right ones is the affair of who asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.architectures import LM_HEAD_NAMES, ModelConfig, compute_weight_shapes
from codeclippy_ls.engine.loading.checkpoint import SCALE

# Masks and frequencies that old checkpoints hold as if they were weights.
_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


class SafetensorsWeights(Mapping[str, Tensor]):
    """Tensors by name, brought to a device.

    Args:
        files: open safetensors files.
    """

    def __init__(self, files: list[Any], device: torch.device) -> None:
        self._device = device
        self._files = {name: file for file in files for name in file.keys() if not _BUFFER.search(name)}  # noqa: SIM118
        self._packed = any((file.metadata() or {}).get("matrices") == "int8 per row" for file in files)

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self._files[name].get_tensor(name)
        if self._factored(name):
            value = value.float().mul_(self._files[name + SCALE].get_tensor(name + SCALE).float()[:, None])
        # A copy: what is only mapped would change, or be gone, with the file.
        return value.to(self._device, copy=True)

    def __contains__(self, name: object) -> bool:
        return name in self._files and not (self._packed and str(name).endswith(SCALE))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._files if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def form(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def _factored(self, name: str) -> bool:
        return self._packed and name + SCALE in self._files


def open_if_complete(
    folder: Path, config: ModelConfig, device: torch.device, stack: ExitStack
) -> SafetensorsWeights | None:
    """A folder's weights if they are exactly those of the configuration, else None: then transformers knows other names
    for them, or says what is wrong.

    Args:
        stack: closes the files.
    """
    from safetensors import safe_open

    try:
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in _files(folder)]
        stored = SafetensorsWeights(files, device)
        found = {_usual(name): stored.form(name) for name in stored}
    except Exception:  # damaged files raise a dozen kinds
        return None
    return stored if found == compute_weight_shapes(config) else None


def _usual(name: str) -> str:
    """The head's first name for whichever it has."""
    head, dot, end = name.partition(".")
    return f"{LM_HEAD_NAMES[0]}{dot}{end}" if head in LM_HEAD_NAMES else name


def _files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    places = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(places.values()))]
