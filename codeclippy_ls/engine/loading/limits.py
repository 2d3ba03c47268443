"""Bounds of a checkpoint that anybody may have made, checked before anything of it is read or allocated.

Its entries are regular files, so that opening one never blocks. The model that its configuration describes is no larger
than its weights' files can fill, and fits into the memory that is free. Handles files and plain values only.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from codeclippy_ls.engine.loading.files import read_json_object, reject_placeholder
from codeclippy_ls.inference.errors import ModelError

_MAX_TEXT_BYTES = 256 << 20  # of a JSON or text file; the largest tokenizers have 35 MB
_PARAMETERS_PER_BYTE = 8  # at most: no format has less than a bit for each
_MIN_LIMIT = 10**7  # parameters, which are harmless however small the files are
_MAX_POSITIONS = 1 << 24
# Pairs of dimensions of one matrix, each by the names that architectures give them.
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_MATRICES = (
    (("vocab_size",), _HIDDEN),
    (("num_hidden_layers", "n_layer", "num_layers", "n_layers"), _HIDDEN),
    (("intermediate_size", "n_inner", "ffn_dim", "d_ff"), _HIDDEN),
    (("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), ("head_dim", *_HIDDEN)),
    (("num_local_experts", "num_experts", "n_routed_experts"), _HIDDEN),
)
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
# Integers that take no memory: ids, seeds, and lengths that count only as far as a text reaches.
_HARMLESS = re.compile(r"token_?id|position|n_ctx|length|seq_len|window|seed")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def check_files(folder: Path) -> None:
    """Reject a folder with anything but folders and regular files, a text file that is too large, or a placeholder.

    Raises:
        ModelError: opening or reading it could block, or take all memory, or would find no weights.
    """
    for path in folder.iterdir():
        try:
            status = path.stat()
        except OSError:  # a link that leads nowhere is a missing file
            continue
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path} is not a regular file; a checkpoint folder contains only files")
        if path.suffix in (".json", ".txt", ".jinja", ".model") and status.st_size > _MAX_TEXT_BYTES:
            raise ModelError(f"{path} has {status.st_size >> 20} MiB; the limit for such a file is 256 MiB")
        if path.suffix in (".safetensors", ".bin"):
            reject_placeholder(path)


def check_sizes(folder: Path) -> None:
    """Reject a configuration that describes a larger model than the weights' files can hold.

    Raises:
        ModelError: a dimension, or the product of two, is beyond that.
    """
    path = folder / "config.json"
    if not path.is_file() or not (weight_bytes := sum(_list_weight_sizes(folder))):
        return
    limit = max(weight_bytes * _PARAMETERS_PER_BYTE, _MIN_LIMIT)
    values = read_json_object(path)
    nested = [value for value in values.values() if isinstance(value, dict)]
    if not any((problem := _find_absurd_size(one, limit)) for one in (values, *nested)):
        return
    raise ModelError(
        f"{path} cannot be used: {problem}, which is more than the {weight_bytes:,} bytes of weights can hold; the "
        "files do not belong together"
    )


def check_memory(folder: Path, dtype: torch.dtype, is_int8: bool) -> None:
    """Reject a model whose weights certainly do not fit into the memory that is free, rather than fill it.

    Raises:
        ModelError: it names both sizes.
    """
    sizes = list(_list_weight_sizes(folder))
    # Files hold four bytes a parameter at most, so this is the least that the weights can take.
    needed = sum(sizes) * (1 if is_int8 else dtype.itemsize) // 4
    if not (folder / "model.safetensors").exists() and any(folder.glob(_WEIGHTS[1])):
        needed = max(needed, *sizes)  # to be converted, each in memory
    available = read_available_memory()
    if available is not None and needed > available:
        raise ModelError(
            f"the model in {folder} needs at least {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB "
            "are free; choose a smaller model, or end other programs and load it again"
        )


def _list_weight_sizes(folder: Path) -> Iterator[int]:
    for pattern in _WEIGHTS:
        if files := [path for path in folder.glob(pattern) if path.is_file()]:
            return iter([path.stat().st_size for path in files])
    return iter(())


def _find_absurd_size(values: Mapping[str, Any], limit: int) -> str:
    """Return what is too large in a configuration; empty if nothing is."""
    for pair in _MATRICES:
        for first in _find_sizes(values, pair[0]):
            for second in _find_sizes(values, pair[1])[:1]:
                if first[1] * second[1] > limit:
                    return f"{first[0]} is {first[1]:,} and {second[0]} is {second[1]:,}"
    for name, value in _find_sizes(values, _POSITIONS):
        if value > _MAX_POSITIONS:
            return f"{name} is {value:,}"
    for name, content in values.items():
        if not _HARMLESS.search(name) and (largest := _find_largest(content)) > limit:
            return f"{name} contains {largest:,}"
    return ""


def _find_sizes(values: Mapping[str, Any], names: tuple[str, ...]) -> list[tuple[str, int]]:
    return [
        (name, value) for name in names if isinstance(value := values.get(name), int) and not isinstance(value, bool)
    ]


def _find_largest(content: Any) -> int:
    """Return the largest integer in lists within lists, which may stand for repetitions; 0 without one."""
    stack, largest = [content], 0
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, int):
            largest = max(largest, one)
    return largest


def read_available_memory() -> int | None:
    """Return the bytes that can be allocated without ending other programs: the system's, or the cgroup's.

    ``None`` if the system does not say.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        found = (kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0)) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return min([found, *_list_cgroup_rooms()])


def _list_cgroup_rooms() -> Iterator[int]:
    """Yield the bytes that are left in each cgroup (version 2) around this process that has a limit."""
    try:
        name = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::")[2].strip()
    except OSError:
        return
    root = Path("/sys/fs/cgroup")
    for folder in (root / name.lstrip("/"), *(root / name.lstrip("/")).parents):
        try:
            limit, used = (int((folder / f"memory.{one}").read_text()) for one in ("max", "current"))
            cache = re.search(r"^file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):  # no limit ("max"), or no such file
            continue
        yield max(limit - used + int(cache[1] if cache else 0), 0)
