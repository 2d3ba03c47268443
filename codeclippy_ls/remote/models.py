"""Choose a service's model for a role from its list of models: name, context length, abilities. Pure."""

from __future__ import annotations

from codeclippy_ls.remote.errors import ErrorKind, RemoteError
from codeclippy_ls.remote.events import JsonObject
from codeclippy_ls.tasks.model_info import ModelInfo

# If the service says nothing; every model of today has as much.
_DEFAULT_CONTEXT_LENGTH = 2048
# Unless the settings say more: reading more than this anew at each pause costs a cluster more than it brings
# (docs/scaling.md has the calculation).
_MAX_DEFAULT_CONTEXT_LENGTH = 8192
_CONTEXT_LENGTH_FIELDS = (
    "max_model_len",
    "n_ctx",
    "context_length",
    "context_window",
    "max_context_length",
    "n_ctx_train",
)
# Parts of the names of models that follow instructions.
_INSTRUCT_NAMES = ("instruct", "chat", "-it", ":it", "assistant", "gpt-oss", "qwen3-coder")


def select_model(listed: JsonObject, wanted: str, context_length: int, for_edits_only: bool, url: str) -> ModelInfo:
    """Choose a role's model and collect its metadata.

    Args:
        listed: the response of `/v1/models`.
        wanted: the model's name in the settings; empty chooses the first one.
        context_length: the one in the settings; 0 is what the service says, up to 8192.
        for_edits_only: whether the settings name the model for edits, so that it is expected to follow instructions.

    Raises:
        RemoteError: there is no model.
    """
    entries = [entry for entry in _entries(listed) if isinstance(entry.get("id"), str) and entry["id"]]
    entry = next((entry for entry in entries if entry["id"] == wanted), None)
    if entry is None and not wanted:
        entry = entries[0] if entries else None
    name = wanted or (entry["id"] if entry is not None else "")
    if not name:
        raise RemoteError(f'{url} lists no model; name one in "model.completion"', ErrorKind.MISSING)
    chat = for_edits_only or any(part in name.lower() for part in _INSTRUCT_NAMES)
    listed_length = _context_length(entry or {}) or _DEFAULT_CONTEXT_LENGTH
    length = context_length or min(listed_length, _MAX_DEFAULT_CONTEXT_LENGTH)
    owner = (entry or {}).get("owned_by")
    served = owner if isinstance(owner, str) and owner else "a service"
    return ModelInfo(name, is_chat=chat, context_length=length, device=url, served_by=served)


def _entries(listed: JsonObject) -> list[JsonObject]:
    entries = listed.get("data")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _context_length(entry: JsonObject) -> int:
    """Return the context length that the service states for a model, 0 if it states none."""
    for fields in (entry, entry.get("meta")):
        for name in _CONTEXT_LENGTH_FIELDS if isinstance(fields, dict) else ():
            value = fields.get(name) if isinstance(fields, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0
