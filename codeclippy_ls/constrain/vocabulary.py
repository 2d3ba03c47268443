"""Index of a tokenizer's ids by their bytes."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Protocol

_MAX_TOKEN = 64  # bytes


class ConstraintTokenizer(Protocol):
    """The part of a tokenizer that constraints need."""

    @property
    def token_bytes(self) -> list[bytes]:
        """Bytes of each id; empty for control tokens."""

    def encode_continuation(self, text: str) -> list[int]:
        """Encode text that follows other tokens."""

    def __hash__(self) -> int:
        """Hash by identity: a vocabulary is cached for each tokenizer."""


class Vocabulary:
    """A tokenizer's ids, indexed by their bytes."""

    def __init__(self, tokenizer: ConstraintTokenizer) -> None:
        self.tokenizer = tokenizer
        self.token_bytes = tokenizer.token_bytes
        self.sorted_tokens = sorted((data, id) for id, data in enumerate(self.token_bytes) if data)
        self.ids: dict[bytes, list[int]] = {}
        for data, id in self.sorted_tokens:
            self.ids.setdefault(data, []).append(id)
        self._within_line: dict[bytes, tuple[int, ...]] = {}

    @cached_property
    def line_ids(self) -> tuple[int, ...]:
        """Ids of text within a line or at its end; never a token that continues in the next line."""
        return tuple(
            id for data, id in self.sorted_tokens if data.find(b"\n") in (-1, len(data) - 1) and b"\r" not in data
        )

    def within_line(self, partial: bytes) -> tuple[int, ...]:
        """Return the ids of ``line_ids`` that continue valid UTF-8 after the incomplete character ``partial``."""
        if partial not in self._within_line:
            table = self.token_bytes
            self._within_line[partial] = tuple(
                id for id in self.line_ids if find_incomplete_character(partial + table[id]) is not None
            )
        return self._within_line[partial]

    @cached_property
    def ids_by_space(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of ``within_line(b"")`` that do not begin with a space or a line end, and those that do."""
        spaces = [id for id in self.within_line(b"") if self.token_bytes[id][:1] in (b" ", b"\n")]
        space_ids = set(spaces)
        return tuple(id for id in self.within_line(b"") if id not in space_ids), tuple(spaces)

    @cached_property
    def substitutions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that continue in the next line, and for each the id that ends the line in the same way.

        A model that writes the line end and the start of the next line in one token has chosen to end the line.
        """
        pairs = []
        for data, id in self.sorted_tokens:
            end = data.find(b"\n") + 1
            if 0 < end < len(data) and (substitutes := self.ids.get(data[:end]) or self.ids.get(data[: end - 1])):
                pairs.append((id, substitutes[0]))
        return tuple(id for id, _ in pairs), tuple(substitute for _, substitute in pairs)

    @cached_property
    def digit_ids(self) -> tuple[int, ...]:
        """Ids of one to four decimal digits."""
        return tuple(id for data, id in self.sorted_tokens if data.isdigit() and data.isascii() and len(data) <= 4)

    def encode(self, text: bytes) -> tuple[int, ...] | None:
        """Encode text that follows other tokens; return ``None`` if the vocabulary cannot.

        The tokenizer's own ids are used unless they change the text (some normalise it); then the longest tokens.
        """
        ids = tuple(self.tokenizer.encode_continuation(text.decode()))
        if b"".join(self.token_bytes[id] for id in ids) == text:
            return ids
        found: list[int] = []
        while text:
            found_prefixes = self.find_prefixes(text)
            if not found_prefixes:
                return None
            found.append(found_prefixes[-1])
            text = text[len(self.token_bytes[found_prefixes[-1]]) :]
        return tuple(found)

    def find_prefixes(self, text: bytes) -> list[int]:
        """Return ids whose bytes are a prefix of ``text``, or all of it, the shortest first."""
        found: list[int] = []
        for length in range(1, min(len(text), _MAX_TOKEN) + 1):
            found += self.ids.get(text[:length], ())
        return found

    def iterate_starting_with(self, start: bytes) -> Iterable[tuple[bytes, int]]:
        """Yield bytes and ids of the tokens that begin with ``start``."""
        index = bisect_left(self.sorted_tokens, (start, -1))
        while index < len(self.sorted_tokens) and self.sorted_tokens[index][0].startswith(start):
            yield self.sorted_tokens[index]
            index += 1


def find_incomplete_character(data: bytes) -> bytes | None:
    """Return the bytes of an incomplete character at the end of the data; ``None`` if it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return None
    return decoder.getstate()[0]


@lru_cache(maxsize=8)
def get_vocabulary(tokenizer: ConstraintTokenizer) -> Vocabulary:
    """Return the vocabulary of a tokenizer, made once."""
    return Vocabulary(tokenizer)
