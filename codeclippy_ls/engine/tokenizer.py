"""Text to token ids and back, for one checkpoint.

User text is encoded by a copy of the tokenizer whose control tokens are ordinary vocabulary: whatever a file
contains, it never becomes a control id. Control tokens are looked up by name instead. Ids are decoded as bytes, so
that output cut inside a character is seen and held back. Knows nothing of prompts or models.

Only the engine thread may use a tokenizer: the library's fast tokenizers are not safe across threads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from codeclippy_ls.engine.errors import ModelError


class Tokenizer:
    """A tokenizer read from the text of a ``tokenizer.json``.

    Raises:
        ModelError: the text is no tokenizer, or control tokens could be written by user text.
    """

    def __init__(self, definition: str) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            data = json.loads(definition)
            added = {token["content"]: int(token["id"]) for token in data.get("added_tokens", [])}
            self._backend = Backend.from_str(json.dumps(_without_control_tokens(data)))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"tokenizer.json cannot be read: {error}") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self._added = added
        self._control = {token: id for token, id in added.items() if not token.isspace()}
        self._metaspace = '"▁"' in json.dumps([data.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")],
                                              ensure_ascii=False)
        self._refuse_leaks()

    @cached_property
    def size(self) -> int:
        """Number of ids, holes included: one more than the largest id."""
        ids = [*self._backend.get_vocab(with_added_tokens=True).values(), *self._added.values()]
        return max(ids) + 1

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids that are no text: the added tokens but for those of pure whitespace."""
        return frozenset(self._control.values())

    def id_of(self, token: str) -> int | None:
        """The id of a control token by its exact name; ``None`` where the vocabulary has no such token."""
        found = self._control.get(token)
        return found if found is not None else self._backend.token_to_id(token)

    def control_id(self, token: str) -> int | None:
        """As ``id_of``, but only for tokens that were added on purpose, never for a word of the vocabulary."""
        return self._control.get(token)

    def encode(self, text: str) -> list[int]:
        """Ids of user text; none of them is a control token's."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_continued(self, text: str) -> list[int]:
        """As ``encode``, for text that follows other tokens: without the blank some tokenizers put in front."""
        if not self._metaspace:
            return self.encode(text)
        anchor = self.encode("\n")
        ids = self.encode("\n" + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self.encode(text)

    @cached_property
    def bytes_of(self) -> list[bytes]:
        """The bytes each id stands for, by id; empty for control tokens and holes."""
        table = [b""] * self.size
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            if token not in self._control:
                table[id] = token.encode() if token in self._added else self._token_bytes(token)
        return table

    def _token_bytes(self, token: str) -> bytes:
        if not self._metaspace:
            return b"".join(_BYTE_OF.get(character, character.encode()) for character in token)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that a run of ids stands for."""
        table = self.bytes_of
        return b"".join(table[id] for id in ids if id < len(table))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a run of ids; bytes of an unfinished last character are held back, bad bytes are U+FFFD."""
        return decode_complete(self.decode_bytes(ids))

    def _refuse_leaks(self) -> None:
        for token in self._control:
            if set(self.encode(token)) & set(self._control.values()):
                raise ModelError(f"the tokenizer turns the text {token!r} into a control token")


def decode_complete(data: bytes) -> str:
    """UTF-8 to text without an unfinished last character; other bad bytes become U+FFFD."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # no continuation byte: the character begins here
            needs = 4 if 0xF0 <= byte < 0xF8 else 3 if 0xE0 <= byte < 0xF0 else 2 if 0xC0 <= byte < 0xE0 else 1
            if back < needs:
                data = data[:-back]
            break
    return data.decode("utf-8", "replace")


def _without_control_tokens(data: dict[str, Any]) -> dict[str, Any]:
    """The definition with its added tokens as plain vocabulary, but for whitespace ones, which are text.

    They move into the model's vocabulary, where no merge leads to them, rather than away, because the library
    numbers the added tokens that remain by the vocabulary's size.
    """
    model = data["model"]
    kept = []
    for token in data.get("added_tokens", []):
        if isinstance(model.get("vocab"), dict):
            model["vocab"].setdefault(token["content"], token["id"])
        if token["content"].isspace():
            kept.append({**token, "special": False})
    return {**data, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}


def _byte_of() -> dict[str, bytes]:
    """The byte each character of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(256 + index): bytes([byte]) for index, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_of()


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder; older folders without a whole ``tokenizer.json`` are converted.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    if path.is_file() and not (folder / "added_tokens.json").exists():
        try:
            return Tokenizer(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        definition = fast.backend_tokenizer.to_str()
    except Exception as error:  # every kind is raised here for a damaged folder
        raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error
    return Tokenizer(definition)
