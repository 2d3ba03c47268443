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

from codeclippy_ls.inference.errors import ModelError


class Tokenizer:
    """A tokenizer read from the text of a ``tokenizer.json``.

    Args:
        definition: the text.
        rows: how many ids the model knows, where it is known. An added token beyond them (many fine-tuned checkpoints
            have a padding token that was never given an embedding) does not exist then.

    Raises:
        ModelError: the text is no tokenizer, it is not the model's, or control tokens could be written by user text.
    """

    def __init__(self, definition: str, rows: int | None = None) -> None:
        try:
            data = _known(json.loads(definition), rows)
            self._added = {token["content"]: int(token["id"]) for token in data["added_tokens"]}
            self._control = {token: id for token, id in self._added.items() if not token.isspace()}
            plain = _without_control_tokens(data, self._control)
            self._backend = _backend(plain)
            continued = _without_blank(plain)
            self._continued = self._backend if continued == plain else _backend(continued)
            layout = json.dumps(
                [data.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False
            )
            self._byte_level, self._metaspace = '"ByteLevel"' in layout, '"▁"' in layout
            self._refuse_leaks()
            self._refuse_unknown_ids(rows)
        except ModelError:
            raise
        except BaseException as error:  # the library raises bare Exception, and panics, which are not even that
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ModelError(f"tokenizer.json cannot be read: {brief(error)}") from error

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, holes included: one more than the largest id."""
        ids = [*self._backend.get_vocab(with_added_tokens=True).values(), *self._added.values()]
        return max(ids) + 1

    @cached_property
    def control_token_ids(self) -> frozenset[int]:
        """Ids that are no text: the added tokens but for those of pure whitespace."""
        return frozenset(self._control.values())

    def token_to_id(self, token: str) -> int | None:
        """The id of a control token by its exact name; ``None`` where the vocabulary has no such token."""
        found = self._control.get(token)
        return found if found is not None else self._backend.token_to_id(token)

    def control_token_to_id(self, token: str) -> int | None:
        """As ``token_to_id``, but only for tokens that were added on purpose, never for a word of the vocabulary."""
        return self._control.get(token)

    def encode(self, text: str) -> list[int]:
        """Ids of user text; none of them is a control token's."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """As ``encode``, for text that follows other tokens: without the blank some tokenizers put in front."""
        ids: list[int] = self._continued.encode(text, add_special_tokens=False).ids
        return ids

    def encode_template(self, text: str) -> list[int]:
        """Ids of a template's own text, never a user's: control tokens are looked up by name."""
        names = sorted(self._control, key=len, reverse=True)
        found: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]:
            if part in self._control:
                found.append(self._control[part])
            elif part:
                found += self.encode_continuation(part) if found else self.encode(part)
        return found

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for, by id; empty for control tokens and holes."""
        table = [b""] * self.vocab_size
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            if token not in self._control:
                table[id] = token.encode() if token in self._added else self._decode_token(token)
        return table

    def _decode_token(self, token: str) -> bytes:
        if self._byte_level:
            return b"".join(_BYTE_OF.get(character, character.encode()) for character in token)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return bytes([int(match[1], 16)])
        return (token.replace("▁", " ") if self._metaspace else token).encode()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that a run of ids stands for."""
        table = self.token_bytes
        return b"".join(table[id] for id in ids if id < len(table))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a run of ids; bytes of an unfinished last character are held back, bad bytes are U+FFFD."""
        return decode_complete(self.decode_bytes(ids))

    def _refuse_leaks(self) -> None:
        self.encode("\n é\U0001f600")  # some faults show only here
        names: dict[int, str] = {}
        for token, id in [*self._backend.get_vocab(with_added_tokens=True).items(), *self._added.items()]:
            if names.setdefault(id, token) != token:
                raise ModelError(f"the tokenizer gives the id {id} to both {names[id]!r} and {token!r}")
        for token in self._control:
            if (
                set(self.encode(token)) & self.control_token_ids
                or set(self.encode_continuation(token)) & self.control_token_ids
            ):
                raise ModelError(f"the tokenizer turns the text {token!r} into a control token")

    def _refuse_unknown_ids(self, rows: int | None) -> None:
        if rows is not None and self.vocab_size > rows:
            raise ModelError(
                f"the tokenizer has ids up to {self.vocab_size - 1}, the model has {rows}: they do not belong together"
            )


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


def brief(error: BaseException) -> str:
    """The first line of an error's message, for a sentence of ours, which continues behind it."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
    return first if len(first) <= 300 else first[:299] + "…"


def _backend(data: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer as Backend

    made = Backend.from_str(json.dumps(data))
    made.no_truncation()
    made.no_padding()
    return made


def _known(data: dict[str, Any], rows: int | None) -> dict[str, Any]:
    """The definition with its own parts alone that the model knows.

    Raises:
        ModelError: it is of a kind whose ids cannot be told as bytes.
    """
    model = data["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram")
    # The library aborts the process over a prefix that the merges do not have.
    if kind not in ("BPE", "Unigram") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ModelError(f"the tokenizer is of a kind ({kind}) that does not keep text as it stands")
    added = data.get("added_tokens") or []
    lost = {token["content"] for token in added if rows is not None and token["id"] >= rows}
    if lost and isinstance(model["vocab"], dict):
        model = {**model, "vocab": {token: id for token, id in model["vocab"].items() if token not in lost}}
    return {**data, "model": model, "added_tokens": [token for token in added if token["content"] not in lost]}


def _without_control_tokens(data: dict[str, Any], control: dict[str, int]) -> dict[str, Any]:
    """The definition with its added tokens as plain vocabulary, but for whitespace ones, which are text.

    They move into the model's vocabulary, where no merge leads to them (Code Llama has merges that would), rather than
    away, because the library numbers the added tokens that remain by the vocabulary's size.
    """
    model = dict(data["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {**{token["content"]: token["id"] for token in data["added_tokens"]}, **model["vocab"]}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _merged(merge) not in control]
    kept = [{**token, "special": False} for token in data["added_tokens"] if token["content"].isspace()]
    return {**data, "model": model, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}


def _merged(merge: str | list[str]) -> str:
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _without_blank(data: dict[str, Any]) -> dict[str, Any]:
    """The definition without the steps that put a blank in front of a text."""
    return {**data, **{key: _step_without_blank(data.get(key)) for key in ("normalizer", "pre_tokenizer")}}


def _step_without_blank(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Metaspace":
        return {**{key: value for key, value in step.items() if key != "add_prefix_space"}, "prepend_scheme": "never"}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    for parts in ("normalizers", "pretokenizers"):
        if parts in step:
            step = {**step, parts: [part for part in map(_step_without_blank, step[parts]) if part is not None]}
    return step


def _byte_of() -> dict[str, bytes]:
    """The byte each character of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(256 + index): bytes([byte]) for index, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_of()


def read_tokenizer(folder: Path, rows: int | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint folder; older folders without a ``tokenizer.json`` are converted.

    Args:
        folder: the checkpoint.
        rows: how many ids its model knows, where it is known.

    Raises:
        ModelError: there is none, it cannot be read, or it is not the model's.
    """
    path = folder / "tokenizer.json"
    reject_placeholder(path)
    try:
        definition = path.read_text(encoding="utf-8") if path.is_file() else _converted(folder)
        extra = folder / "added_tokens.json"
        if extra.is_file():
            definition = _with_added(definition, json.loads(extra.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {brief(error)}") from error
    try:
        return Tokenizer(definition, rows)
    except ModelError as error:
        raise ModelError(f"the tokenizer in {folder} cannot be used: {error}") from error


def reject_placeholder(file: Path) -> None:
    """Refuse what stands where a file of a checkpoint should: a Git LFS pointer, or the page of a web site.

    Raises:
        ModelError: the file is one of these.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(64).lstrip().lower()
    except OSError:  # not there: for the reader to say
        return
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if head.startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{file} is a web page, not a part of a model; download it again")


def _converted(folder: Path) -> str:
    """The text of the ``tokenizer.json`` that an older folder would have."""
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.model")):
        raise ModelError(f"{folder} has no tokenizer.json; a checkpoint folder needs its tokenizer")
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return str(fast.backend_tokenizer.to_str())
    except Exception as error:  # every kind is raised here for a damaged folder
        raise ModelError(
            f"{folder} has no tokenizer.json, and its older tokenizer cannot be converted: {brief(error)}"
        ) from error


def _with_added(definition: str, extra: dict[str, int]) -> str:
    """The definition with the tokens of an ``added_tokens.json`` that it lacks."""
    data = json.loads(definition)
    added = data.get("added_tokens") or []
    there = {token["content"] for token in added}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    missing = [{"id": id, "content": token, **plain} for token, id in extra.items() if token not in there]
    return json.dumps({**data, "added_tokens": [*added, *missing]}) if missing else definition
