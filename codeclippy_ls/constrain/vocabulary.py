"""A tokenizer's ids by their bytes, and the constraint that needs no more than that: to begin with a given text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol

_LONGEST_TOKEN = 64


class Tokenizer(Protocol):
    """What constraints need of a tokenizer."""

    @property
    def bytes_of(self) -> list[bytes]:
        """The bytes of each id; empty for control tokens."""

    def encode_continued(self, text: str) -> list[int]:
        """Ids of text that follows other tokens."""

    def __hash__(self) -> int:
        """By identity: a vocabulary is kept for each tokenizer."""


class Vocabulary:
    """A tokenizer's ids, by their bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bytes_of = tokenizer.bytes_of
        self.sorted = sorted((data, id) for id, data in enumerate(self.bytes_of) if data)
        self.ids: dict[bytes, list[int]] = {}
        for data, id in self.sorted:
            self.ids.setdefault(data, []).append(id)

    @cached_property
    def line(self) -> tuple[int, ...]:
        """Ids of text within a line, and of text that ends one; never a token that goes on in the next line."""
        return tuple(id for data, id in self.sorted if data.find(b"\n") in (-1, len(data) - 1) and b"\r" not in data)

    @cached_property
    def digits(self) -> tuple[int, ...]:
        """Ids of decimal digits."""
        return tuple(id for data, id in self.sorted if data.isdigit() and data.isascii())

    def heads(self, text: bytes) -> list[int]:
        """Ids whose bytes are a head of ``text``, or all of it."""
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


@lru_cache(maxsize=8)
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer, made once."""
    return Vocabulary(tokenizer)


@dataclass(frozen=True)
class Heal:
    """The answer begins with ``rest``; after it nothing is constrained."""

    vocabulary: Vocabulary
    rest: bytes

    def allowed(self) -> Sequence[int]:
        """Tokens inside the rest, and tokens that complete it and go on."""
        longer = [id for data, id in self.vocabulary.beginning(self.rest) if data != self.rest]
        return tuple(self.vocabulary.heads(self.rest) + longer)

    def step(self, token: int) -> Heal | None:
        """The rest after a token; free once it is written."""
        data = self.vocabulary.bytes_of[token]
        return None if len(data) >= len(self.rest) else replace(self, rest=self.rest[len(data) :])

    def forced(self) -> Sequence[int]:
        """Nothing: how the rest is cut into tokens is for the model to weigh."""
        return ()


def heal(tokenizer: Tokenizer, text: str) -> Heal | None:
    """A constraint to begin with ``text``, none where that is empty."""
    return Heal(vocabulary(tokenizer), text.encode()) if text else None
