"""Find the models that other programs keep on this machine: each with the name by which its owner knows it.

Only manifests and the names of files are read; nothing is written, moved or followed out of a program's folder except
the hub's own links. Places are listed in docs/models.md. Knows no file format.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

_MAX_MANIFEST_BYTES = 1 << 20
_MAX_DEPTH = 4  # of folders below a program's own
_MAX_FILES = 5000  # that are looked at in one place
_OLLAMA_REGISTRIES = ("registry.ollama.ai", "ollama.com")
_OLLAMA_MODEL_LAYER = "application/vnd.ollama.image.model"
_LATER_PART = re.compile(r"-(?!00001-of-)\d{5}-of-\d{5}\.gguf$")
OLLAMA_PREFIX = "ollama:"
DOWNLOADS = "Code Clippy"  # whose the downloaded models are


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model where a program put it.

    Attributes:
        name: what a setting calls it.
        path: a GGUF file, or a folder in the Hugging Face layout.
        program: whose it is.
    """

    name: str
    path: Path
    program: str


def list_stored_models(folders: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> list[StoredModel]:
    """List the models on this machine, each file once.

    Args:
        folders: more folders to look into.
    """
    home = Path(environment.get("HOME") or Path.home())
    found = [
        *_list_downloads(find_download_folder()),
        *_list_ollama(_find_ollama_folders(environment, home)),
        *_list_files("LM Studio", (home / ".lmstudio/models", home / ".cache/lm-studio/models")),
        *_list_files("llama.cpp", _find_llama_folders(environment, home)),
        *_list_hub(_find_hub_folder(environment, home)),
        *_list_files("Jan", (home / "jan/models", *_find_data_folders("Jan/data/models", environment, home))),
        *_list_files("GPT4All", _find_data_folders("nomic.ai/GPT4All", environment, home)),
        *_list_files("settings", (Path(folder).expanduser() for folder in folders)),
    ]
    return list({model.path: model for model in reversed(found)}.values())[::-1]


def find_ollama_model(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of a model by Ollama's name for it; without a tag it is the latest one."""
    home = Path(environment.get("HOME") or Path.home())
    wanted = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    models = _list_ollama(_find_ollama_folders(environment, home))
    return next((model.path for model in models if model.name == OLLAMA_PREFIX + wanted), None)


def find_download_folder() -> Path:
    """Return the folder of the models that `codeclippy-ls models get` downloads: ``owner/name`` below it."""
    return platformdirs.user_data_path("codeclippy-ls", appauthor=False) / "models"


def find_downloaded_model(name: str) -> Path | None:
    """Return a downloaded model by its hub name, with the file behind it if it is a GGUF file; ``None`` without one."""
    path = find_download_folder() / name
    is_model = path.suffix.lower() == ".gguf" and path.is_file()
    return path if is_model or ((path / "config.json").is_file() and _has_weights(path)) else None


def _find_ollama_folders(environment: Mapping[str, str], home: Path) -> list[Path]:
    if chosen := environment.get("OLLAMA_MODELS"):
        return [Path(chosen)]
    return [home / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]


def _find_llama_folders(environment: Mapping[str, str], home: Path) -> list[Path]:
    if chosen := environment.get("LLAMA_CACHE"):
        return [Path(chosen)]
    return [home / ("Library/Caches/llama.cpp" if sys.platform == "darwin" else ".cache/llama.cpp")]


def _find_data_folders(name: str, environment: Mapping[str, str], home: Path) -> list[Path]:
    """Return where a desktop program may keep its models, by the system's habits."""
    if sys.platform == "darwin":
        return [home / "Library/Application Support" / name]
    if sys.platform == "win32":
        return [Path(environment[key]) / name for key in ("APPDATA", "LOCALAPPDATA") if environment.get(key)]
    kinds = (("XDG_CONFIG_HOME", ".config"), ("XDG_DATA_HOME", ".local/share"))
    return [Path(environment.get(key) or home / default) / name for key, default in kinds]


def _find_hub_folder(environment: Mapping[str, str], home: Path) -> Path:
    if chosen := environment.get("HF_HUB_CACHE"):
        return Path(chosen)
    hub_home = environment.get("HF_HOME")
    return Path(hub_home) / "hub" if hub_home else home / ".cache/huggingface/hub"


def _list_downloads(folder: Path) -> Iterator[StoredModel]:
    """List what was downloaded for us, under its hub names."""
    for model in _list_files(DOWNLOADS, (folder,)):
        yield StoredModel(model.path.relative_to(folder).as_posix(), model.path, DOWNLOADS)


def _list_ollama(folders: Iterable[Path]) -> Iterator[StoredModel]:
    """List Ollama's models. In the newer layout a tag is a link to a manifest among the blobs."""
    for folder in folders:
        for layout in ("manifests", "manifest-v2"):
            for manifest in sorted(_walk(folder / layout, _MAX_DEPTH)):
                parts = manifest.relative_to(folder / layout).parts
                path = _read_manifest(manifest, folder / "blobs")
                if len(parts) > 2 and path is not None:
                    yield StoredModel(OLLAMA_PREFIX + _name_ollama_model(parts), path, "Ollama")


def _name_ollama_model(parts: tuple[str, ...]) -> str:
    registry, *middle, tag = parts
    if registry in _OLLAMA_REGISTRIES:
        middle = middle[1:] if middle[0] == "library" else middle
    else:
        middle = [registry, *middle]
    return f"{'/'.join(middle)}:{tag}"


def _read_manifest(manifest: Path, blobs: Path) -> Path | None:
    """Return the file that a manifest names; ``None`` if there is none, or it is another kind of model."""
    try:
        if manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        digest = next(str(layer["digest"]) for layer in layers if layer["mediaType"] == _OLLAMA_MODEL_LAYER)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return None
    if re.fullmatch(r"sha256[:-][0-9a-f]{64}", digest) is None:
        return None
    names = (digest.replace(":", "-"), digest)
    return next((blobs / name for name in names if (blobs / name).is_file()), None)


def _list_files(program: str, folders: Iterable[Path]) -> Iterator[StoredModel]:
    """List the GGUF files below folders, of split ones the first part, and checkpoint folders."""
    for folder in folders:
        for file in sorted(_walk(folder, _MAX_DEPTH)):
            if file.suffix.lower() == ".gguf" and not _LATER_PART.search(file.name):
                yield StoredModel(str(file), file, program)
            elif file.name == "config.json" and _has_weights(file.parent):
                yield StoredModel(str(file.parent), file.parent, program)


def _list_hub(folder: Path) -> Iterator[StoredModel]:
    """List the newest snapshot of each repository: as a name if it has safetensors, else its GGUF files."""
    for repository in sorted(folder.glob("models--*")):
        snapshots = sorted((repository / "snapshots").glob("*"), key=_get_time)
        if not snapshots:
            continue
        owner, _, name = repository.name.removeprefix("models--").partition("--")
        if (snapshots[-1] / "config.json").exists() and _has_weights(snapshots[-1]):
            yield StoredModel(f"{owner}/{name}" if name else owner, snapshots[-1], "Hugging Face Hub")
            continue
        for file in sorted(snapshots[-1].glob("**/*.gguf")):
            if not _LATER_PART.search(file.name):
                yield StoredModel(str(file), file, "Hugging Face Hub")


def _get_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files below a folder; folders are not entered through links."""
    left, waiting = _MAX_FILES, [(folder, depth)]
    while waiting:
        current, levels = waiting.pop()
        try:
            entries = list(os.scandir(current))
        except OSError:
            continue
        for entry in entries:
            left -= 1
            if left < 0:
                return
            if entry.is_dir(follow_symlinks=False):
                waiting += [(Path(entry.path), levels - 1)] if levels else []
            elif entry.is_file():
                yield Path(entry.path)
