"""Keys and values of tokens that were read: the face of a KV cache, and the prefixes kept from one prompt to the next.

A prompt that shares its head with an earlier one pays only for what is new. An entry that is taken has left the
store, so nobody else can crop it meanwhile. Within a byte budget the least recently used entries go first. Belongs to
the engine thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class KeyValues(Protocol):
    """The keys and values of a run of tokens in all layers of one model."""

    @property
    def length(self) -> int:
        """How many tokens it holds."""

    @property
    def nbytes(self) -> int:
        """Its memory."""

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""

    def copy(self, length: int) -> KeyValues:
        """The first ``length`` tokens in memory of their own."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens for a model to read after what ``cache`` holds; of how many of the last it is to say what follows.

    With no ``rows`` the tokens are read and nothing is said, which saves the vocabulary's matrix.
    """

    tokens: Sequence[int]
    cache: KeyValues
    rows: int = 1


@dataclass(slots=True)
class Prefix:
    """The tokens whose keys and values ``cache`` holds, in order."""

    cache: KeyValues
    tokens: list[int] = field(default_factory=list)

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if length < len(self.tokens):
            self.cache.crop(length)
            del self.tokens[length:]

    def copy(self, length: int) -> Prefix:
        """The first ``length`` tokens in a cache of their own."""
        return Prefix(self.cache.copy(length), self.tokens[:length])


class PrefixCache:
    """The last few prompts' prefixes of one model, least recently used first."""

    def __init__(self, budget: int, entries: int = 8) -> None:
        self._budget = budget
        self._entries = entries
        self._prefixes: list[Prefix] = []

    def take(self, tokens: Sequence[int], new_cache: Callable[[], KeyValues]) -> Prefix:
        """The prefix to continue ``tokens`` from, shorter than them by one token at least; empty where none helps.

        An entry that goes on differently for long is copied rather than cropped: it is another document's.

        Args:
            new_cache: a function that makes an empty KV cache.
        """
        lengths = [common_length(prefix.tokens, tokens) for prefix in self._prefixes]
        best = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        if best is None or (length := min(lengths[best], len(tokens) - 1)) <= 0:
            return Prefix(new_cache())
        found = self._prefixes[best]
        if len(found.tokens) > 2 * length:
            return found.copy(length)
        del self._prefixes[best]
        found.crop(length)
        return found

    def put(self, prefix: Prefix) -> None:
        """Keep a prefix for later prompts, and let the oldest go where the budget is spent."""
        if not prefix.tokens or prefix.cache.nbytes > self._budget:
            return
        self._prefixes.append(prefix)
        while len(self._prefixes) > self._entries or self.bytes > self._budget:
            del self._prefixes[0]

    def clear(self) -> None:
        """Let everything go."""
        self._prefixes.clear()

    @property
    def bytes(self) -> int:
        """Memory of all entries."""
        return sum(prefix.cache.nbytes for prefix in self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from their start."""
    for index, (one, other) in enumerate(zip(left, right)):  # noqa: B905 - of different lengths on purpose
        if one != other:
            return index
    return min(len(left), len(right))
