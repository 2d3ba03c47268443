"""Prefix KV caches: find the longest common prefix, take it, crop it, put it back.

A prompt that shares its head with an earlier one pays only for what is new. An entry that is taken has left the
store, so nobody else can crop it meanwhile. Within a byte budget the least recently used entries go first. Belongs to
the engine thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Prefix:
    """The tokens whose keys and values ``cache`` holds, in order. ``cache`` is transformers' ``DynamicCache``."""

    cache: Any
    tokens: list[int] = field(default_factory=list)

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        surplus = len(self.tokens) - length
        if surplus > 0:
            self.cache.crop(-surplus)
            del self.tokens[length:]

    def copy(self, length: int, empty: Any) -> Prefix:
        """The first ``length`` tokens in a cache of their own; ``empty`` is a new cache to fill."""
        for index, layer in enumerate(self.cache.layers):
            empty.update(layer.keys[..., :length, :].clone(), layer.values[..., :length, :].clone(), index)
        return Prefix(empty, self.tokens[:length])

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers if layer.is_initialized)


class PrefixCache:
    """The last few prompts' prefixes of one model, least recently used first."""

    def __init__(self, budget: int, entries: int = 8) -> None:
        self._budget = budget
        self._entries = entries
        self._prefixes: list[Prefix] = []

    def take(self, tokens: Sequence[int], new_cache: Any) -> Prefix:
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
            return found.copy(length, new_cache())
        del self._prefixes[best]
        found.crop(length)
        return found

    def put(self, prefix: Prefix) -> None:
        """Keep a prefix for later prompts, and let the oldest go where the budget is spent."""
        if not prefix.tokens or prefix.bytes > self._budget:
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
        return sum(prefix.bytes for prefix in self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from their start."""
    for index, (one, other) in enumerate(zip(left, right)):  # noqa: B905 - of different lengths on purpose
        if one != other:
            return index
    return min(len(left), len(right))
