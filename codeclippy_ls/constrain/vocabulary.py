"""Index of a tokenizer's ids by their bytes."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Protocol

_LONGEST_TOKEN = 64


class Tokenizer(Protocol):
    """What constraints need of a tokenizer."""

    @property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id; empty for control tokens."""

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of text that follows other tokens."""

    def __hash__(self) -> int:
        """By identity: a vocabulary is kept for each tokenizer."""


class Vocabulary:
    """A tokenizer's ids, by their bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.token_bytes = tokenizer.token_bytes
        self.sorted = sorted((data, id) for id, data in enumerate(self.token_bytes) if data)
        self.ids: dict[bytes, list[int]] = {}
        for data, id in self.sorted:
            self.ids.setdefault(data, []).append(id)
        self._within: dict[bytes, tuple[int, ...]] = {}

    @cached_property
    def line(self) -> tuple[int, ...]:
        """Ids of text within a line, and of text that ends one; never a token that goes on in the next line."""
        return tuple(id for data, id in self.sorted if data.find(b"\n") in (-1, len(data) - 1) and b"\r" not in data)

    def within(self, begun: bytes) -> tuple[int, ...]:
        """Those ids of ``line`` that leave UTF-8 as it must be, after the first bytes of a character, or none."""
        if begun not in self._within:
            table = self.token_bytes
            self._within[begun] = tuple(id for id in self.line if unfinished(begun + table[id]) is not None)
        return self._within[begun]

    @cached_property
    def by_blanks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those ids of ``within(b"")`` that begin with something else than a blank or a line end, and the others."""
        blanks = [id for id in self.within(b"") if self.token_bytes[id][:1] in (b" ", b"\n")]
        others = set(blanks)
        return tuple(id for id in self.within(b"") if id not in others), tuple(blanks)

    @cached_property
    def substitutions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that go on in the next line, and for each the one that ends the line as it does.

        A model that writes the line end and the next line's sign or blanks in one token has chosen to end the line.
        """
        pairs = []
        for data, id in self.sorted:
            end = data.find(b"\n") + 1
            if 0 < end < len(data) and (heirs := self.ids.get(data[:end]) or self.ids.get(data[: end - 1])):
                pairs.append((id, heirs[0]))
        return tuple(id for id, _ in pairs), tuple(heir for _, heir in pairs)

    @cached_property
    def digits(self) -> tuple[int, ...]:
        """Ids of decimal digits, of a number's length at most."""
        return tuple(id for data, id in self.sorted if data.isdigit() and data.isascii() and len(data) <= 4)

    def encoded(self, text: bytes) -> tuple[int, ...] | None:
        """Ids of text that follows other tokens; ``None`` where the vocabulary cannot write it.

        As the tokenizer cuts it, unless that changes the text (some normalise it): then by the longest tokens.
        """
        ids = tuple(self.tokenizer.encode_continuation(text.decode()))
        if b"".join(self.token_bytes[id] for id in ids) == text:
            return ids
        found: list[int] = []
        while text:
            heads = self.heads(text)
            if not heads:
                return None
            found.append(heads[-1])
            text = text[len(self.token_bytes[heads[-1]]) :]
        return tuple(found)

    def heads(self, text: bytes) -> list[int]:
        """Ids whose bytes are a head of ``text``, or all of it, the shortest first."""
        found: list[int] = []
        for length in range(1, min(len(text), _LONGEST_TOKEN) + 1):
            found += self.ids.get(text[:length], ())
        return found

    def beginning(self, head: bytes) -> Iterable[tuple[bytes, int]]:
        """Bytes and ids of the tokens that begin with ``head``."""
        index = bisect_left(self.sorted, (head, -1))
        while index < len(self.sorted) and self.sorted[index][0].startswith(head):
            yield self.sorted[index]
            index += 1


def unfinished(data: bytes) -> bytes | None:
    """The first bytes of a character that the data breaks off in; ``None`` where it is no UTF-8 at all."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return None
    return decoder.getstate()[0]


@lru_cache(maxsize=8)
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer, made once."""
    return Vocabulary(tokenizer)
