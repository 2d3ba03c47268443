"""Where a checkpoint's files are, as safetensors: a local folder, the hub's cache or the hub, converted where need be.

No free pickle is read: safetensors first, else ``torch.load(weights_only=True)``, kept as safetensors for the next
start. Knows files only; what they mean is the affair of ``models``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import torch

from codeclippy_ls.engine.loading.tokenizer import brief, reject_placeholder
from codeclippy_ls.inference.errors import ModelError
from codeclippy_ls.inference.spec import SHIPPED_FOLDER


def find_checkpoint(name: str) -> Path:
    """The folder of the checkpoint that a setting names.

    Raises:
        ModelError: there is none, or it cannot be downloaded.
    """
    if not name:
        return SHIPPED_FOLDER
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        what = "is a file, not a folder" if path.is_file() else "is no folder and no hub name (owner/model)"
    except (OSError, RuntimeError) as error:
        raise ModelError(f'setting "model": {_clipped(name)} cannot be looked up: {brief(error)}') from error
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) or path.is_file():
        raise ModelError(f'setting "model": {_clipped(name)} {what}')
    return _from_hub(name)


def _clipped(name: str) -> str:
    return repr(name if len(name) <= 200 else name[:199] + "…")


def _from_hub(name: str) -> Path:
    """A hub repository's snapshot, from the local cache or downloaded: the user asked for it by name."""
    from huggingface_hub import HfApi, snapshot_download

    wanted = ["*.json", "*.txt", "tokenizer.model"]
    # By one kind of weights after the other: a repository that has both is not downloaded whole.
    for weights in ("*.safetensors", "pytorch_model*.bin"):
        try:
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, weights], local_files_only=True))
        except Exception:  # not in the cache yet, or not all of it
            continue
        if any(folder.glob(weights)):
            return folder
    try:
        files = HfApi().list_repo_files(name)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
        return Path(snapshot_download(name, allow_patterns=[*wanted, weights]))
    except Exception as error:  # network and hub errors of many kinds
        raise ModelError(
            f"the model {name!r} is no folder, is not on this machine and cannot be downloaded "
            f'({brief(error).partition(". ")[0]}); set "model" to a local folder, or remove the setting '
            "to use the shipped model"
        ) from error


def ensure_safetensors(folder: Path) -> Path:
    """The folder itself, or the kept copy of its weights in which ``pytorch_model.bin`` became safetensors."""
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        single = folder / "pytorch_model.bin"
        weights = [single] if single.is_file() else sorted(folder.glob("pytorch_model-*.bin"))
        if not weights:
            raise ModelError(f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin")
    for file in weights:
        reject_placeholder(file)
    if weights[0].suffix == ".safetensors":
        _refuse_index(folder / "model.safetensors.index.json")
        return folder
    return _convert_checkpoint(folder, weights)


SCALE = ".scale"  # of the name of an int8 matrix: its factors, one per row


def read_int8_weights(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
    """The weights of a folder whose matrices are int8 with a factor per row, in ``dtype``; None for any other folder.

    This is how the shipped model is kept small: ``weight = int8 * scale[:, None]``, the rest as it is.
    """
    from safetensors import safe_open

    file = folder / "model.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as stored:
        if (stored.metadata() or {}).get("matrices") != "int8 per row":
            return None
        names = set(stored.keys())
        tensors: dict[str, torch.Tensor] = {}
        for name in sorted(names):
            value = stored.get_tensor(name)
            if name + SCALE in names:
                value = value.float().mul_(stored.get_tensor(name + SCALE).float()[:, None])
            if not name.endswith(SCALE):
                tensors[name] = value.to(dtype)
    return tensors


def _refuse_index(index: Path) -> None:
    """Refuse an index that leads away from safetensors in the folder itself."""
    if not index.is_file():
        return
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        strange = [file for file in files if not re.fullmatch(r"[^/\\]+\.safetensors", file)]
    except Exception as error:  # anything may stand there
        raise ModelError(f"{index} cannot be read: {brief(error)}") from error
    if strange:
        raise ModelError(f"{index} names {strange[0]!r}, which is no safetensors file of its folder")


def _convert_checkpoint(folder: Path, weights: list[Path]) -> Path:
    """The kept copy, made at the first start; older copies of the same checkpoint go."""
    stamp = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in weights]
    kept = cache_folder() / "converted" / _digest([str(folder.resolve())])
    target = kept / _digest(stamp)
    if target.is_dir():
        return target
    try:
        kept.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed, so that a start that is cut off leaves nothing half done.
        aside = Path(tempfile.mkdtemp(dir=kept))
        try:
            _convert(weights, aside)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except ModelError:
        raise
    except Exception as error:
        if not target.is_dir():  # else another process was first
            raise ModelError(
                f"the weights in {folder} cannot be kept as safetensors in {kept}: {brief(error)}"
            ) from error
    for other in kept.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _convert(weights: list[Path], aside: Path) -> None:
    """Write each file of weights as safetensors, one at a time in memory, with an index over them."""
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    for number, file in enumerate(weights, 1):
        tensors = _unpickled(file)
        name = f"model-{number:05}-of-{len(weights):05}.safetensors"
        save_file(tensors, aside / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, name))
    index = {"metadata": {}, "weight_map": places}
    (aside / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _unpickled(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.bin`` by name, none sharing memory with another; nothing in it is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{file} is refused: it is damaged, or holds more than weights ({type(error).__name__})"
        ) from error
    tensors: dict[str, torch.Tensor] = {}
    memory: set[int] = set()
    for key, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor):
            place = value.untyped_storage().data_ptr()
            tensors[str(key)] = value.clone().contiguous() if place in memory else value.contiguous()
            memory.add(place)
    if not tensors:
        raise ModelError(f"{file} holds no weights by name")
    return tensors


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$XDG_CACHE_HOME/codeclippy-ls``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeclippy-ls"
