"""Read weights from a checkpoint's safetensors files, tensor by tensor, when they are asked for.

Matrices may be stored as int8 with a scale per row, which keeps the shipped model small: ``weight = int8 * scale[:,
None]``. Knows files and names; knows nothing of the weights' meaning.
"""

from __future__ import annotations

import json
import re
import struct
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.architectures import LM_HEAD_NAMES, ModelConfig, compute_weight_shapes
from codeclippy_ls.engine.decoder.quantized_rows import QuantizedRows, Weight, to_tensor

SCALE = ".scale"  # suffix of an int8 matrix's name: its scales, (rows,)
INT8_METADATA = {"matrices": "int8 per row"}  # of a file with such matrices
# Masks and frequencies that old checkpoints store like weights.
_BUFFER_NAME = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


class SafetensorsWeights(Mapping[str, Weight]):
    """Weights by name, each read and copied to the device when it is accessed.

    Args:
        files: open safetensors files.
        keep_int8: return int8 matrices as `QuantizedRows` rather than as floats.
        mapped: the file that int8 matrices are not copied from but mapped; it must never change. One of ours.

    Attributes:
        is_int8: the matrices are stored as int8.
    """

    def __init__(
        self, files: list[Any], device: torch.device, keep_int8: bool = False, mapped: Path | None = None
    ) -> None:
        self._device, self._keep_int8 = device, keep_int8
        self._files = {
            name: file
            for file in files
            for name in file.keys()  # noqa: SIM118
            if not is_buffer_name(name)
        }
        self.is_int8 = any(INT8_METADATA.items() <= (file.metadata() or {}).items() for file in files)
        self._mapped = MappedRows(mapped) if mapped is not None and self.is_int8 and keep_int8 else None

    def __getitem__(self, name: str) -> Weight:
        if not self.is_int8 or name + SCALE not in self._files:
            # Always a copy: a memory-mapped tensor would change, or disappear, with the file.
            value: Tensor = self._files[name].get_tensor(name)
            return value.to(self._device, copy=True)
        scales = self._files[name + SCALE].get_tensor(name + SCALE).float()  # (rows,)
        if self._mapped is not None:
            return QuantizedRows(self._mapped.read(name), scales.clone())
        quantized = QuantizedRows(self._files[name].get_tensor(name), scales)
        if self._keep_int8:
            return QuantizedRows(quantized.rows.clone(), scales.clone())
        return quantized.float().to(self._device)

    def __contains__(self, name: object) -> bool:
        return name in self._files and not (self.is_int8 and str(name).endswith(SCALE))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._files if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def read_shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading the tensor."""
        return tuple(self._files[name].get_slice(name).get_shape())


class MappedRows:
    """The int8 matrices of a safetensors file, mapped layer by layer: the memory is free when a layer is not used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        self._start = 8 + size
        self._shapes = {name: tuple(value["shape"]) for name, value in header.items() if name != "__metadata__"}
        self._offsets = {name: value["data_offsets"] for name, value in header.items() if name != "__metadata__"}
        self._layers: dict[str, list[str]] = {}
        for name in self._offsets:
            self._layers.setdefault(self._find_layer(name), []).append(name)
        self._maps: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()

    def read(self, name: str) -> Tensor:
        """Return a matrix, in memory that is read from the file when it is used."""
        layer = self._find_layer(name)
        first, _ = self._offsets[self._layers[layer][0]]
        start, end = self._offsets[name]
        if (whole := self._maps.get(layer)) is None:
            _, last = self._offsets[self._layers[layer][-1]]
            content = np.memmap(self._path, np.int8, "c", offset=self._start + first, shape=(last - first,))
            whole = self._maps[layer] = torch.from_numpy(content)
        return whole[start - first : end - first].view(self._shapes[name])

    def _find_layer(self, name: str) -> str:
        """Return what the tensors of one mapping have in common; each tensor outside of the layers has its own."""
        match = re.search(r"^(.*?\.\d+)\.", name)
        if match is None or name.endswith(SCALE):
            return name
        return match[1]


def open_if_complete(
    folder: Path,
    config: ModelConfig,
    device: torch.device,
    stack: ExitStack,
    keep_int8: bool = False,
    is_mapped: bool = False,
) -> SafetensorsWeights | None:
    """Open a folder's weights if their names and shapes are exactly those of the configuration.

    Otherwise return ``None``: transformers knows more names, or says what is wrong.

    Args:
        stack: closes the files.
        keep_int8: return int8 matrices as `QuantizedRows`.
        is_mapped: map them; the folder is one of ours, whose files never change.
    """
    from safetensors import safe_open

    try:
        paths = _list_files(folder)
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in paths]
        weights = SafetensorsWeights(files, device, keep_int8, paths[0] if is_mapped else None)
        shapes = {unify_lm_head_name(name): weights.read_shape(name) for name in weights}
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
        return {name: to_tensor(weights[name]).to(dtype) for name in sorted(weights)} if weights.is_int8 else None


def _list_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    file_by_weight = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(file_by_weight.values()))]


def is_buffer_name(name: str) -> bool:
    """Return whether a stored tensor is a mask or a frequency, not a weight."""
    return _BUFFER_NAME.search(name) is not None


def unify_lm_head_name(name: str) -> str:
    """Return the first of the LM head's names instead of another one."""
    module, dot, parameter = name.partition(".")
    return f"{LM_HEAD_NAMES[0]}{dot}{parameter}" if module in LM_HEAD_NAMES else name
