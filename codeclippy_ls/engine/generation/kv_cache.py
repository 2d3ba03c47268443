"""The KV cache protocol, the input of a forward pass, and the prefixes kept from one prompt to the next.

A prompt that starts like an earlier one pays only for the tokens that are new. An acquired entry has left the store, so
nobody else can crop it. Beyond the byte budget the least recently used entries are dropped. Belongs to the engine
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class KVCache(Protocol):
    """The keys and values of a run of tokens, in all layers of one model."""

    @property
    def length(self) -> int:
        """Number of tokens held."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""

    def crop(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""

    def copy(self, length: int) -> KVCache:
        """Copy the first ``length`` tokens into memory of their own."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """Tokens to run on top of ``kv_cache``, and for how many trailing positions to return logits.

    With ``num_logits=0`` the tokens are only prefilled; the LM head is skipped.
    """

    token_ids: Sequence[int]
    kv_cache: KVCache
    num_logits: int = 1


@dataclass(slots=True)
class CachedPrefix:
    """A KV cache with the tokens that it holds, in order."""

    kv_cache: KVCache
    token_ids: list[int] = field(default_factory=list)

    def crop(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""
        if length < len(self.token_ids):
            self.kv_cache.crop(length)
            del self.token_ids[length:]

    def copy(self, length: int) -> CachedPrefix:
        """Copy the first ``length`` tokens with a KV cache of their own."""
        return CachedPrefix(self.kv_cache.copy(length), self.token_ids[:length])


class PrefixCache:
    """The prefixes of one model's last few prompts, least recently used first."""

    def __init__(self, budget: int, max_entries: int = 8) -> None:
        self._budget = budget
        self._max_entries = max_entries
        self._prefixes: list[CachedPrefix] = []

    def acquire(self, token_ids: Sequence[int], new_cache: Callable[[], KVCache]) -> CachedPrefix:
        """Take out the longest cached prefix of ``token_ids``, at least one token shorter; an empty one if none helps.

        An entry of which less than half matches is copied rather than cropped: it is another document's.

        Args:
            new_cache: creates an empty KV cache.
        """
        lengths = [common_prefix_length(prefix.token_ids, token_ids) for prefix in self._prefixes]
        best = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        if best is None or (length := min(lengths[best], len(token_ids) - 1)) <= 0:
            return CachedPrefix(new_cache())
        found = self._prefixes[best]
        if len(found.token_ids) > 2 * length:
            return found.copy(length)
        del self._prefixes[best]
        found.crop(length)
        return found

    def release(self, prefix: CachedPrefix) -> None:
        """Keep a prefix for later prompts; drop the oldest entries if the budget is exceeded."""
        if not prefix.token_ids or prefix.kv_cache.nbytes > self._budget:
            return
        self._prefixes.append(prefix)
        while len(self._prefixes) > self._max_entries or self.nbytes > self._budget:
            del self._prefixes[0]

    def clear(self) -> None:
        """Drop all entries."""
        self._prefixes.clear()

    @property
    def nbytes(self) -> int:
        """Memory of all entries in bytes."""
        return sum(prefix.kv_cache.nbytes for prefix in self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the tokens that two sequences share from their start."""
    for index, (one, other) in enumerate(zip(left, right)):  # noqa: B905 - of different lengths on purpose
        if one != other:
            return index
    return min(len(left), len(right))
