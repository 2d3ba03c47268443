"""A tokenizer as it is after loading, written once: no checks and no rewriting, half a second instead of two.

The chat template is kept as the texts that it gives, because rendering one imports transformers, a second more.

Belongs to an entry of the cache; knows no prompts.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from codeclippy_ls.engine.loading.files import summarize_error
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.inference.errors import ModelError

_DESCRIPTION, _TEXT, _CONTINUATION, _BYTES = (
    "tokenizer-description.json",
    "text.json",
    "continuation.json",
    "token-bytes.bin",
)


def write_tokenizer(tokenizer: Tokenizer, chat: tuple[str, str] | None, folder: Path) -> None:
    """Write a tokenizer that has been checked, and the chat template as its two texts."""
    table, is_same = tokenizer.token_bytes, tokenizer._continuation_backend is tokenizer._backend
    description = {
        "added": tokenizer._added,
        "control": tokenizer._control,
        "is_byte_level": tokenizer._is_byte_level,
        "is_metaspace": tokenizer._is_metaspace,
        "chat": chat,
        "vocab_size": tokenizer.vocab_size,
        "lengths": [len(data) for data in table],
    }
    (folder / _DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    (folder / _BYTES).write_bytes(b"".join(table))
    (folder / _TEXT).write_text(_shorten(tokenizer._backend), encoding="utf-8")
    if not is_same:
        (folder / _CONTINUATION).write_text(_shorten(tokenizer._continuation_backend), encoding="utf-8")


def _shorten(backend: Any) -> str:
    """Return a definition in the form that the library reads fastest: merges as text, no escapes."""
    data = json.loads(backend.to_str())
    merges = data["model"].get("merges")
    if merges and not any(" " in part for merge in merges for part in merge):
        data["model"]["merges"] = [" ".join(merge) for merge in merges]
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


class PreparedTokenizer(Tokenizer):
    """A tokenizer that `write_tokenizer` wrote.

    Attributes:
        chat: the chat template's text before and after a user's message; ``None`` without a template.

    Raises:
        ModelError: the files are damaged.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            self._added, self._control = description["added"], description["control"]
            self._is_byte_level, self._is_metaspace = description["is_byte_level"], description["is_metaspace"]
            self.chat: tuple[str, str] | None = tuple(description["chat"]) if description["chat"] else None
            self.__dict__["vocab_size"] = description["vocab_size"]  # of the cached property
            self._lengths, self._bytes_path = description["lengths"], folder / _BYTES
            self._backend = Backend.from_file(str(folder / _TEXT))
            continuation = folder / _CONTINUATION
            self._continuation_backend = (
                Backend.from_file(str(continuation)) if continuation.is_file() else self._backend
            )
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"the tokenizer in {folder} cannot be read: {summarize_error(error)}") from error

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id, by id; empty for control tokens and unused ids."""
        content, table, end = self._bytes_path.read_bytes(), [], 0
        for length in self._lengths:
            table.append(content[end : end + length])
            end += length
        return table
