"""Choose a service's model for a role from its list of models: name, context length, abilities. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from codeclippy_ls.prompts.control_tokens import select_listed_tokens
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
# Key under which the answer of the properties' path is added to the list of models.
PROPERTIES = "properties"
# By `owned_by`. vLLM answers only if it was started with --enable-tokenizer-info-endpoint.
_PROPERTIES_PATHS = {"llamacpp": "/props", "vllm": "/tokenizer_info"}
_TOKEN_FIELD = re.compile(r"(?:^|_)tokens?(?:_|$)")
# Parts of the names of models that follow instructions.
_INSTRUCT_NAMES = ("instruct", "chat", "-it", ":it", "assistant", "gpt-oss", "qwen3-coder")


def select_model(listed: JsonObject, wanted: str, context_length: int, for_edits_only: bool, url: str) -> ModelInfo:
    """Choose a role's model and collect its metadata.

    Args:
        listed: the response of `/v1/models`, with that of `find_properties_path` under `PROPERTIES`.
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
    listed_tokens = select_listed_tokens(_find_token_fields([entry, listed.get(PROPERTIES)]))
    return ModelInfo(
        name, is_chat=chat, context_length=length, device=url, served_by=served, listed_tokens=listed_tokens
    )


def find_properties_path(listed: JsonObject) -> str:
    """Return the path below the service's root at which it lists its model's control tokens; empty if unknown."""
    owners = (str(entry.get("owned_by")) for entry in _entries(listed))
    return next((_PROPERTIES_PATHS[owner] for owner in owners if owner in _PROPERTIES_PATHS), "")


def _find_token_fields(value: Any, is_token: bool = False, depth: int = 6) -> Iterator[object]:
    """Find the values of fields that are called tokens, at any place."""
    if isinstance(value, dict) and depth:
        for name, inner in value.items():
            yield from _find_token_fields(inner, is_token or _TOKEN_FIELD.search(str(name)) is not None, depth - 1)
    elif isinstance(value, list) and depth:
        for inner in value:
            yield from _find_token_fields(inner, is_token, depth - 1)
    elif is_token:
        yield value


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
