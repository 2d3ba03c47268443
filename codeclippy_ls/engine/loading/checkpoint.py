"""Find a checkpoint's folder, and convert its weights to safetensors if necessary.

A checkpoint is a local folder or GGUF file, or a repository in the hub's cache or on the hub. No pickle that could run
code is read: safetensors first, otherwise ``torch.load(weights_only=True)``, converted once into the user's cache
folder. Handles files only; `loader` interprets them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import torch

from codeclippy_ls.catalog.prepared_cache import find_cache_folder
from codeclippy_ls.catalog.stores import OLLAMA_PREFIX, find_downloaded_model, find_ollama_model
from codeclippy_ls.engine.loading.files import reject_placeholder, summarize_error
from codeclippy_ls.engine.loading.gguf_checkpoint import is_gguf
from codeclippy_ls.inference.errors import ModelError
from codeclippy_ls.inference.spec import SHIPPED_FOLDER

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_HUB_FILE = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:/\w[\w.-]*)+\.gguf", re.ASCII)


def find_checkpoint(name: str) -> Path:
    """Return the folder or GGUF file that a setting names; downloads it if it is a hub name.

    A folder of the current one needs a dot in front (``./owner/model``), or another form than a hub name's.

    Raises:
        ModelError: there is none, or it cannot be downloaded.
    """
    if not name:
        return SHIPPED_FOLDER
    shown_name = repr(name if len(name) <= 200 else name[:199] + "…")
    setting = f'setting "model.completion" or "model.edit": {shown_name}'
    if name.startswith(OLLAMA_PREFIX):
        if (blob := find_ollama_model(name.removeprefix(OLLAMA_PREFIX))) is not None:
            return blob
        raise ModelError(
            f"{setting} is not in Ollama's store; `codeclippy-ls models` lists what is, or `ollama pull` it"
        )
    # Never in the current folder: that may be somebody else's repository, with a checkpoint of that name.
    if _HUB_NAME.fullmatch(name):
        return find_downloaded_model(name) or _find_hub_snapshot(name)
    if _HUB_FILE.fullmatch(name) and (file := find_downloaded_model(name)) is not None:
        return file
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{setting} cannot be looked up: {summarize_error(error)}") from error
    if is_file:
        if is_gguf(path):
            return path
        raise ModelError(f"{setting} is a file; set a folder, a GGUF file or a hub name (owner/model)")
    raise ModelError(f"{setting} is neither a folder, a GGUF file nor a hub name (owner/model)")


def _find_hub_snapshot(name: str) -> Path:
    """Return a hub repository's snapshot from the local cache, or download it: the user asked for it by name."""
    from huggingface_hub import HfApi, snapshot_download

    other_files = ["*.json", "*.txt", "tokenizer.model"]
    # One kind of weights after the other, so that of a repository with both kinds only one is downloaded.
    for weights in ("*.safetensors", "pytorch_model*.bin"):
        try:
            folder = Path(snapshot_download(name, allow_patterns=[*other_files, weights], local_files_only=True))
        except Exception:  # not in the cache, or not completely
            continue
        if any(folder.glob(weights)):
            return folder
    try:
        files = HfApi().list_repo_files(name)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
        return Path(snapshot_download(name, allow_patterns=[*other_files, weights]))
    except Exception as error:  # network and hub errors of many types
        cause = summarize_error(error).partition(". ")[0]
        raise ModelError(
            f"the model {name!r} of the hub is not on this machine and cannot be downloaded ({cause}); set "
            '"model.completion" or "model.edit" to a local folder (in the current one: "./owner/model"), or remove the '
            "setting to use the shipped model"
        ) from error


def ensure_safetensors(folder: Path) -> Path:
    """Return a folder with the weights as safetensors: the same one, or a converted copy of ``pytorch_model.bin``."""
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        single = folder / "pytorch_model.bin"
        weights = [single] if single.is_file() else sorted(folder.glob("pytorch_model-*.bin"))
        if not weights:
            raise ModelError(f"{folder} contains no weights: neither model.safetensors nor pytorch_model.bin")
    for file in weights:
        reject_placeholder(file)
    if weights[0].suffix == ".safetensors":
        _check_index(folder / "model.safetensors.index.json")
        return folder
    return _convert_once(folder, weights)


def _check_index(index: Path) -> None:
    """Reject an index that refers to anything but safetensors files in its own folder."""
    if not index.is_file():
        return
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        rejected = [file for file in files if not re.fullmatch(r"[^/\\]+\.safetensors", file)]
    except Exception as error:  # it may contain anything
        raise ModelError(f"{index} cannot be read: {summarize_error(error)}") from error
    if rejected:
        raise ModelError(f"{index} refers to {rejected[0]!r}, which is not a safetensors file in the same folder")


def _convert_once(folder: Path, weights: list[Path]) -> Path:
    """Return the converted copy, made at the first start; delete older copies of the same checkpoint."""
    file_stamps = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in weights]
    copies = find_cache_folder() / "converted" / _hash([str(folder.resolve())])
    target = copies / _hash(file_stamps)
    if target.is_dir():
        return target
    try:
        copies.mkdir(parents=True, exist_ok=True)
        # Written into a temporary folder and renamed, so that an interrupted start leaves no incomplete copy.
        temporary = Path(tempfile.mkdtemp(dir=copies))
        try:
            _write_safetensors(weights, temporary)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except ModelError:
        raise
    except Exception as error:
        if not target.is_dir():  # otherwise another process converted it first
            raise ModelError(
                f"the weights in {folder} cannot be converted to safetensors in {copies}: {summarize_error(error)}"
            ) from error
    for other in copies.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _write_safetensors(weights: list[Path], folder: Path) -> None:
    """Convert each file, one at a time in memory, and write the index of all."""
    from safetensors.torch import save_file

    file_by_weight: dict[str, str] = {}
    for number, file in enumerate(weights, 1):
        tensors = _load_bin(file)
        name = f"model-{number:05}-of-{len(weights):05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        file_by_weight.update(dict.fromkeys(tensors, name))
    index = {"metadata": {}, "weight_map": file_by_weight}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    """Load a ``.bin`` file's tensors by name, without running any code in it; no two share memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{file} was not loaded: it is damaged, or contains more than weights ({type(error).__name__})"
        ) from error
    tensors: dict[str, torch.Tensor] = {}
    seen_storages: set[int] = set()
    for key, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage().data_ptr()
            tensors[str(key)] = value.clone().contiguous() if storage in seen_storages else value.contiguous()
            seen_storages.add(storage)
    if not tensors:
        raise ModelError(f"{file} contains no weights by name")
    return tensors
