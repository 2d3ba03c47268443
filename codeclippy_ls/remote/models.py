"""What a service says of its models, as facts: names, windows, and which of them a job gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codeclippy_ls.remote.errors import ErrorKind, RemoteError
from codeclippy_ls.tasks.model_info import ModelInfo

# Where nothing is known; every model of today has as much.
_UNKNOWN_WINDOW = 2048
# More than this is read anew at each pause costs a cluster more than it brings (docs/scaling.md has the sums).
_WIDEST_UNASKED = 8192
_WINDOWS = ("max_model_len", "n_ctx", "context_length", "context_window", "max_context_length", "n_ctx_train")
# Parts of names of models that follow instructions.
_INSTRUCTED = ("instruct", "chat", "-it", ":it", "assistant", "gpt-oss", "qwen3-coder")


def select_model(found: Any, wanted: str, window: int, job_of_its_own: bool, url: str) -> ModelInfo:
    """Facts of the model that does a job.

    Args:
        found: the answer of `/v1/models`.
        wanted: the model's name in the settings; empty is the first that is served.
        window: the window in the settings; 0 is what the service says, and not too much of it.
        job_of_its_own: whether it was set for edits, and so is believed to follow instructions.

    Raises:
        RemoteError: there is no model.
    """
    entries = [entry for entry in _entries(found) if isinstance(entry.get("id"), str) and entry["id"]]
    entry = next((entry for entry in entries if entry["id"] == wanted), None)
    if entry is None and not wanted:
        entry = entries[0] if entries else None
    name = wanted or (entry["id"] if entry is not None else "")
    if not name:
        raise RemoteError(f'{url} lists no model; name it in "model.completion"', ErrorKind.MISSING)
    chat = job_of_its_own or any(part in name.lower() for part in _INSTRUCTED)
    width = window or min(_window(entry or {}) or _UNKNOWN_WINDOW, _WIDEST_UNASKED)
    owner = (entry or {}).get("owned_by")
    served = owner if isinstance(owner, str) and owner else "a service"
    return ModelInfo(name, chat=chat, window=width, device=url, served=served)


def _entries(found: Any) -> list[Mapping[str, Any]]:
    listed = found.get("data") if isinstance(found, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _window(entry: Mapping[str, Any]) -> int:
    """The tokens that prompt and answer have together, 0 where it is not said."""
    for place in (entry, entry.get("meta")):
        for name in _WINDOWS if isinstance(place, dict) else ():
            value = place.get(name) if isinstance(place, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0
