"""Read weights from a checkpoint's safetensors files, tensor by tensor, when they are asked for.

Matrices may be stored as int8 with a scale per row, which keeps the shipped model small: ``weight = int8 * scale[:,
None]``. Knows files and names; knows nothing of the weights' meaning.
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

SCALE = ".scale"  # suffix of an int8 matrix's name: its scales, (rows,)
INT8_METADATA = {"matrices": "int8 per row"}  # of a file with such matrices
# Masks and frequencies that old checkpoints store like weights.
_BUFFER_NAME = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


class SafetensorsWeights(Mapping[str, Tensor]):
    """Tensors by name, each read and copied to the device when it is accessed.

    Args:
        files: open safetensors files.

    Attributes:
        is_int8: the matrices are stored as int8.
    """

    def __init__(self, files: list[Any], device: torch.device) -> None:
        self._device = device
        self._files = {
            name: file
            for file in files
            for name in file.keys()  # noqa: SIM118
            if not _BUFFER_NAME.search(name)
        }
        self.is_int8 = any(INT8_METADATA.items() <= (file.metadata() or {}).items() for file in files)

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self._files[name].get_tensor(name)
        if self.is_int8 and name + SCALE in self._files:
            scale = self._files[name + SCALE].get_tensor(name + SCALE)  # (rows,)
            value = value.float().mul_(scale.float()[:, None])  # (rows, columns)
        # Always a copy: a memory-mapped tensor would change, or disappear, with the file.
        return value.to(self._device, copy=True)

    def __contains__(self, name: object) -> bool:
        return name in self._files and not (self.is_int8 and str(name).endswith(SCALE))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._files if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def read_shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading the tensor."""
        return tuple(self._files[name].get_slice(name).get_shape())


def open_if_complete(
    folder: Path, config: ModelConfig, device: torch.device, stack: ExitStack
) -> SafetensorsWeights | None:
    """Open a folder's weights if their names and shapes are exactly those of the configuration.

    Otherwise return ``None``: transformers knows more names, or says what is wrong.

    Args:
        stack: closes the files.
    """
    from safetensors import safe_open

    try:
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in _list_files(folder)]
        weights = SafetensorsWeights(files, device)
        shapes = {_unify_lm_head_name(name): weights.read_shape(name) for name in weights}
    except Exception:  # damaged files raise a dozen types
        return None
    return weights if shapes == compute_weight_shapes(config) else None


def read_int8_weights(folder: Path, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """Read all weights of a folder with int8 matrices, in ``dtype``; ``None`` for any other folder."""
    from safetensors import safe_open

    file = folder / "model.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as opened:
        weights = SafetensorsWeights([opened], torch.device("cpu"))
        return {name: weights[name].to(dtype) for name in sorted(weights)} if weights.is_int8 else None


def _list_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    file_by_weight = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(file_by_weight.values()))]


def _unify_lm_head_name(name: str) -> str:
    module, dot, parameter = name.partition(".")
    return f"{LM_HEAD_NAMES[0]}{dot}{parameter}" if module in LM_HEAD_NAMES else name
