"""Text to token ids and back, for one checkpoint.

User text is encoded by a copy of the tokenizer in which control tokens are ordinary vocabulary: whatever a file
contains, it never becomes a control token's id. Control tokens are looked up by name instead. Ids are decoded to bytes,
so that an incomplete last character is noticed and held back. Knows nothing of prompts or models.

Only the engine thread may use a tokenizer: the library's fast tokenizers are not thread-safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from codeclippy_ls.engine.loading.files import reject_placeholder, summarize_error
from codeclippy_ls.inference.errors import ModelError, is_recoverable


def read_tokenizer(folder: Path, num_embeddings: int | None = None) -> Tokenizer:
    """Read the tokenizer of a checkpoint folder; older folders without a ``tokenizer.json`` are converted.

    Args:
        num_embeddings: number of ids that the model has, if known.

    Raises:
        ModelError: there is none, it cannot be read, or it does not belong to the model.
    """
    path = folder / "tokenizer.json"
    reject_placeholder(path)
    try:
        definition = path.read_text(encoding="utf-8") if path.is_file() else _convert_old_files(folder)
        added_tokens = folder / "added_tokens.json"
        if added_tokens.is_file():
            definition = _add_tokens(definition, json.loads(added_tokens.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {summarize_error(error)}") from error
    try:
        return Tokenizer(definition, num_embeddings)
    except ModelError as error:
        raise ModelError(f"the tokenizer in {folder} cannot be used: {error}") from error


def _convert_old_files(folder: Path) -> str:
    """Return the ``tokenizer.json`` that an older folder would have."""
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.model")):
        raise ModelError(f"{folder} has no tokenizer.json; a checkpoint folder needs its tokenizer")
    from transformers import AutoTokenizer

    try:
        fast_tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return str(fast_tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # damaged folders raise all types
        raise ModelError(
            f"{folder} has no tokenizer.json, and its older tokenizer cannot be converted: {summarize_error(error)}"
        ) from error


def _add_tokens(definition: str, id_by_token: dict[str, int]) -> str:
    """Add the tokens of an ``added_tokens.json`` that the definition lacks."""
    data = json.loads(definition)
    added = data.get("added_tokens") or []
    known = {token["content"] for token in added}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    missing = [{"id": id, "content": token, **flags} for token, id in id_by_token.items() if token not in known]
    return json.dumps({**data, "added_tokens": [*added, *missing]}) if missing else definition


class Tokenizer:
    """A tokenizer made of the text of a ``tokenizer.json``.

    Args:
        definition: the text.
        num_embeddings: number of ids that the model has, if known. Added tokens beyond it are dropped: many fine-tuned
            checkpoints have a padding token that was never given an embedding.

    Raises:
        ModelError: the text is not a tokenizer, it does not belong to the model, or user text could become a control
            token.
    """

    def __init__(self, definition: str, num_embeddings: int | None = None) -> None:
        try:
            data = _drop_unknown_tokens(json.loads(definition), num_embeddings)
            self._added = {token["content"]: int(token["id"]) for token in data["added_tokens"]}
            self._control = {token: id for token, id in self._added.items() if not token.isspace()}
            text_data = _demote_control_tokens(data, self._control)
            self._backend = _make_backend(text_data)
            continuation_data = _remove_space_prefix(text_data)
            is_same = continuation_data == text_data
            self._continuation_backend = self._backend if is_same else _make_backend(continuation_data)
            steps = json.dumps(
                [data.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False
            )
            self._is_byte_level, self._is_metaspace = '"ByteLevel"' in steps, '"▁"' in steps
            self._check_control_tokens()
            self._check_vocab_size(num_embeddings)
        except ModelError:
            raise
        except BaseException as error:  # the library raises bare Exception, and panics, which are not even that
            if not is_recoverable(error):
                raise
            raise ModelError(f"tokenizer.json cannot be read: {summarize_error(error)}") from error

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, unused ones included: one more than the largest id."""
        ids = [*self._backend.get_vocab(with_added_tokens=True).values(), *self._added.values()]
        return max(ids) + 1

    @cached_property
    def control_token_ids(self) -> frozenset[int]:
        """Ids that are not text: the added tokens, except those that consist of whitespace."""
        return frozenset(self._control.values())

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id, by id; empty for control tokens and unused ids."""
        table = [b""] * self.vocab_size
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            if token not in self._control:
                table[id] = token.encode() if token in self._added else self._decode_token(token)
        return table

    @cached_property
    def newline_token_ids(self) -> frozenset[int]:
        """Ids of the tokens that begin with a line end."""
        return frozenset(id for id, data in enumerate(self.token_bytes) if data[:1] in (b"\n", b"\r"))

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a control token, or else of a vocabulary entry, by its exact name."""
        id = self._control.get(token)
        return id if id is not None else self._backend.token_to_id(token)

    def control_token_to_id(self, token: str) -> int | None:
        """Like `token_to_id`, but only for added control tokens, never for a vocabulary entry."""
        return self._control.get(token)

    def encode(self, text: str) -> list[int]:
        """Encode user text; the result contains no control token."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Encode user text that follows other tokens, without the space that some tokenizers insert before a text."""
        ids: list[int] = self._continuation_backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_template(self, text: str) -> list[int]:
        """Encode a chat template's own text, never a user's: control tokens are looked up by name."""
        names = sorted(self._control, key=len, reverse=True)
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]:
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids += self.encode_continuation(part) if ids else self.encode(part)
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode ids to bytes."""
        table = self.token_bytes
        return b"".join(table[id] for id in ids if id < len(table))

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text; see `decode_complete`."""
        return decode_complete(self.decode_bytes(ids))

    def _decode_token(self, token: str) -> bytes:
        if self._is_byte_level:
            return b"".join(_BYTE_BY_CHARACTER.get(character, character.encode()) for character in token)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return bytes([int(match[1], 16)])
        return (token.replace("▁", " ") if self._is_metaspace else token).encode()

    def _check_control_tokens(self) -> None:
        """Reject a tokenizer by which user text could become a control token."""
        self.encode("\n é\U0001f600")  # some faults of a definition raise only here
        name_by_id: dict[int, str] = {}
        for token, id in [*self._backend.get_vocab(with_added_tokens=True).items(), *self._added.items()]:
            if name_by_id.setdefault(id, token) != token:
                raise ModelError(f"the tokenizer gives the id {id} to both {name_by_id[id]!r} and {token!r}")
        for token in self._control:
            if (set(self.encode(token)) | set(self.encode_continuation(token))) & self.control_token_ids:
                raise ModelError(f"the tokenizer turns the text {token!r} into a control token")

    def _check_vocab_size(self, num_embeddings: int | None) -> None:
        if num_embeddings is not None and self.vocab_size > num_embeddings:
            raise ModelError(
                f"the tokenizer has ids up to {self.vocab_size - 1}, but the model has only {num_embeddings} ids: they "
                "do not belong together"
            )


def decode_complete(data: bytes) -> str:
    """Decode UTF-8 without an incomplete last character; other invalid bytes become U+FFFD."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # not a continuation byte: the last character begins here
            length = 4 if 0xF0 <= byte < 0xF8 else 3 if 0xE0 <= byte < 0xF0 else 2 if 0xC0 <= byte < 0xE0 else 1
            if back < length:
                data = data[:-back]
            break
    return data.decode("utf-8", "replace")


def _drop_unknown_tokens(data: dict[str, Any], num_embeddings: int | None) -> dict[str, Any]:
    """Remove the added tokens that the model has no embedding for.

    Raises:
        ModelError: it is of a type whose tokens cannot be converted to bytes.
    """
    model = data["model"]
    model_type = model.get("type") or ("BPE" if "merges" in model else "Unigram")
    has_affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    # The library aborts the process over a prefix that the merges do not have.
    if model_type not in ("BPE", "Unigram") or has_affixes:
        raise ModelError(f"the tokenizer is of a type ({model_type}) that does not preserve text exactly")
    added = data.get("added_tokens") or []
    dropped = {token["content"] for token in added if num_embeddings is not None and token["id"] >= num_embeddings}
    if dropped and isinstance(model["vocab"], dict):
        model = {**model, "vocab": {token: id for token, id in model["vocab"].items() if token not in dropped}}
    return {**data, "model": model, "added_tokens": [token for token in added if token["content"] not in dropped]}


def _demote_control_tokens(data: dict[str, Any], control: dict[str, int]) -> dict[str, Any]:
    """Turn the added tokens into ordinary vocabulary, except those of whitespace, which are text.

    They move into the model's vocabulary, where no merge leads to them (Code Llama has merges that would), rather than
    being removed, because the library numbers the remaining added tokens by the vocabulary's size.
    """
    model = dict(data["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {**{token["content"]: token["id"] for token in data["added_tokens"]}, **model["vocab"]}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _join_merge(merge) not in control]
    kept = [{**token, "special": False} for token in data["added_tokens"] if token["content"].isspace()]
    return {**data, "model": model, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}


def _join_merge(merge: str | list[str]) -> str:
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _remove_space_prefix(data: dict[str, Any]) -> dict[str, Any]:
    """Remove the steps that insert a space before a text."""
    return {**data, **{key: _remove_space_step(data.get(key)) for key in ("normalizer", "pre_tokenizer")}}


def _remove_space_step(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Metaspace":
        return {**{key: value for key, value in step.items() if key != "add_prefix_space"}, "prepend_scheme": "never"}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    for parts in ("normalizers", "pretokenizers"):
        if parts in step:
            step = {**step, parts: [part for part in map(_remove_space_step, step[parts]) if part is not None]}
    return step


def _make_backend(data: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(json.dumps(data))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _make_byte_table() -> dict[str, bytes]:
    """Make GPT-2's table: the byte that each character of a byte-level vocabulary stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(256 + index): bytes([byte]) for index, byte in enumerate(others)})
    return table


_BYTE_BY_CHARACTER = _make_byte_table()
