"""Keys and values of our own decoder, and the attention of a pass over them.

A pass reads the tokens of several feeds together; an `AttentionBatch` knows where they stand and what each may see.
`RaggedBatch` is the one for any feeds; `graphs` has one for passes of a fixed form. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.generation.kv_cache import ModelInput

GROWTH = 256  # tokens by which the memory of keys and values grows
_MANY, _STEP = 16, 64  # tokens from which attention is given keys by steps, and the step


class AttentionBatch(Protocol):
    """The tokens of a pass, one under another."""

    turns: Tensor | None

    def taken(self, table: Tensor) -> Tensor:
        """The rows of a table by position that the tokens have."""

    def written(self, layer: int, qkv: Tensor) -> Tensor:
        """q of (tokens, q, k and v), turned; keys and values go to the caches."""

    def attended(self, layer: int, qkv: Tensor) -> Tensor:
        """Attention of (tokens, q, k and v) to (tokens, heads * size); keys and values go to the caches."""


class ContiguousKVCache:
    """Keys and values of the tokens read so far, in memory of its own that grows in steps.

    (layers, 2, groups, capacity, size): a head's tokens lie side by side, since reading them is most of what attention
    costs; a third less than with tokens outermost. A step writes once per layer, and cropping is a number.

    Attributes:
        length: how many tokens it holds.
        layers: of each layer all of its memory, and keys and values as attention takes them, (1, groups, capacity,
            size).
        kept: how many of the first tokens are still what they were when it was last copied to a slot of `graphs`.
    """

    __slots__ = ("__weakref__", "_store", "_window", "kept", "layers", "length")

    def __init__(self, store: Tensor, window: int) -> None:
        self._window = window
        self.length = self.kept = 0
        self._place(store)

    def _place(self, store: Tensor) -> None:
        self._store = store
        self.layers = [(both, both[:1], both[1:]) for both in store.unbind(0)]

    @property
    def nbytes(self) -> int:
        """Memory, that for tokens to come included."""
        return self._store.nbytes

    @property
    def capacity(self) -> int:
        """How many tokens it has memory for."""
        return self._store.shape[3]

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)
        self.kept = min(self.kept, length)

    @torch.inference_mode()
    def copy(self, length: int) -> ContiguousKVCache:
        """The first ``length`` tokens in memory of their own."""
        made = ContiguousKVCache(self._sized(min(length, self.length)), self._window)
        made.length = min(length, self.length)
        made.part(0, made.length).copy_(self.part(0, made.length))
        return made

    def part(self, first: int, end: int) -> Tensor:
        """Keys and values of some tokens, (layers, 2, groups, tokens, size)."""
        return self._store[..., first:end, :]

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens."""
        if length <= self._store.shape[3]:
            return
        larger = self._sized(max(length, self.length * 5 // 4))
        larger[..., : self.length, :] = self._store[..., : self.length, :]
        self._place(larger)

    def _sized(self, length: int) -> Tensor:
        layers, two, groups, _, size = self._store.shape
        capacity = min(-(-length // GROWTH) * GROWTH, max(length, self._window))
        return self._store.new_zeros(layers, two, groups, capacity, size)  # attention may be given more, masked


class _BatchEntry:
    """One feed's place in a packed pass: its tokens, its cache, and the masks of its attention."""

    __slots__ = ("_masks", "cache", "end", "past", "start", "total")

    def __init__(self, feed: ModelInput, start: int) -> None:
        assert isinstance(feed.kv_cache, ContiguousKVCache), "a cache of this decoder's"
        self.cache = feed.kv_cache
        self.start, self.end = start, start + len(feed.token_ids)
        self.past = feed.kv_cache.length
        self.total = self.past + len(feed.token_ids)
        self._masks: dict[int, Tensor] = {}

    def seen(self, span: int) -> tuple[int, int]:
        """The first token that attention is given, and how many from there; the mask hides those that no token sees.

        Many tokens are given whole steps: torch makes a kernel for every length of bfloat16 on CPUs with matrix tiles
        and keeps it, 0.1 MB each.
        """
        first = max(0, self.past + 1 - span) if span else 0
        if self.end - self.start < _MANY:
            return first, self.total - first
        first -= first % _STEP
        return first, min(-(-self.total // _STEP) * _STEP, self.cache.capacity) - first

    def mask(self, span: int, like: Tensor, repeats: int) -> Tensor:
        """What is added to the scores, (repeats * tokens, tokens given); the same for all layers of a span."""
        found = self._masks.get(span)
        if found is None:
            (first, count), device = self.seen(span), like.device
            given = torch.arange(first, first + count, device=device)
            place = torch.arange(self.past, self.total, device=device)[:, None]
            hidden = given > place
            if span:
                hidden |= given <= place - span
            found = torch.zeros(hidden.shape, dtype=like.dtype, device=device).masked_fill_(hidden, -torch.inf)
            self._masks[span] = found = found.repeat(repeats, 1)
        return found


class RaggedBatch:
    """A `AttentionBatch` of any feeds: attention goes feed by feed, each over its own cache.

    Args:
        memory: type of keys, values and the attention over them.
        most: tokens that the positions reach.

    Attributes:
        tokens: of all feeds.
        wanted: the places of the tokens whose logits are wanted.
        end: the number of tokens that the longest has with what its cache holds.

    Raises:
        ValueError: a feed has no tokens, or fewer than rows, or positions end before its last.
    """

    def __init__(
        self, shape: ModelConfig, feeds: Sequence[ModelInput], memory: torch.dtype, most: int | None = None
    ) -> None:
        self._shape, self._memory = shape, memory
        self._seats: list[_BatchEntry] = []
        self.turns: Tensor | None = None
        for feed in feeds:
            seat = _BatchEntry(feed, self._seats[-1].end if self._seats else 0)
            if not (feed.token_ids and 0 <= feed.num_logits <= len(feed.token_ids)) or (
                most is not None and seat.total > most
            ):
                raise ValueError(f"{feed.num_logits} of {len(feed.token_ids)} tokens after {seat.past} do not fit")
            seat.cache.reserve(seat.total)
            self._seats.append(seat)
        self.tokens = [token for feed in feeds for token in feed.token_ids]
        self.wanted = [
            slice(seat.end - feed.num_logits, seat.end) for feed, seat in zip(feeds, self._seats, strict=True)
        ]
        self.end = max(seat.total for seat in self._seats)

    def taken(self, table: Tensor) -> Tensor:
        """As `AttentionBatch` says."""
        return joined([table[seat.past : seat.total] for seat in self._seats])

    def close(self) -> None:
        """The pass is done: the caches hold its tokens."""
        for seat in self._seats:
            seat.cache.length = seat.total

    def attended(self, layer: int, qkv: Tensor) -> Tensor:
        """As `AttentionBatch` says."""
        q = self.written(layer, qkv).to(self._memory)
        if len(self._seats) == 1:
            return self._attend(layer, q, self._seats[0])
        return joined([self._attend(layer, q[seat.start : seat.end], seat) for seat in self._seats])

    def written(self, layer: int, qkv: Tensor) -> Tensor:
        """As `AttentionBatch` says."""
        shape, seats = self._shape, self._seats
        width = shape.heads * shape.size
        if self.turns is not None:
            turn(shape, qkv, self.turns)
        if len(qkv) == 1:  # the same with fewer calls
            new = qkv[:, width:].view(2, shape.groups, 1, shape.size)
        else:
            new = qkv[:, width:].view(-1, 2, shape.groups, shape.size).permute(1, 2, 0, 3)
        for seat in seats:
            both = seat.cache.layers[layer][0]
            both.narrow(2, seat.past, seat.end - seat.start).copy_(
                new if len(seats) == 1 else new[:, :, seat.start : seat.end]
            )
        return qkv[:, :width]

    def _attend(self, layer: int, q: Tensor, seat: _BatchEntry) -> Tensor:
        """One feed's attention."""
        shape = self._shape
        _, keys, values = seat.cache.layers[layer]
        tokens, repeats, scale, span = seat.total - seat.past, shape.repeats, shape.scales[layer], shape.spans[layer]
        first, seen = seat.seen(span)
        if tokens == 1:
            out = functional.scaled_dot_product_attention(
                q.view(1, shape.groups, repeats, shape.size),
                keys.narrow(2, first, seen),
                values.narrow(2, first, seen),
                scale=scale,
            )
            return out.reshape(1, shape.heads * shape.size)
        # Heads that share keys stand below each other, as if they were more tokens: nothing is copied for them.
        q = q.view(tokens, shape.groups, repeats, shape.size).permute(1, 2, 0, 3)
        out = functional.scaled_dot_product_attention(
            q.reshape(1, shape.groups, repeats * tokens, shape.size),
            keys.narrow(2, first, seen),
            values.narrow(2, first, seen),
            attn_mask=seat.mask(span, q, repeats),
            scale=scale,
        )
        out = out.view(shape.groups, repeats, tokens, shape.size).permute(2, 0, 1, 3)
        return out.reshape(tokens, shape.heads * shape.size)


def turn(shape: ModelConfig, qkv: Tensor, turns: Tensor) -> None:
    """Turn q and k by their positions, in place, in float32: neighbours are one complex number.

    Args:
        turns: cosine and sine of each token's position as complex numbers, (tokens, 1, half of the turned dimensions).
    """
    pairs, row = (qkv.shape[0], shape.heads + shape.groups, shape.turned // 2), qkv.stride(0)
    if qkv.dtype is torch.float32:
        qkv.view(torch.complex64).as_strided(pairs, (row // 2, shape.size // 2, 1)).mul_(turns)
    else:
        part = qkv.as_strided((*pairs[:2], shape.turned), (row, shape.size, 1))
        turned = torch.view_as_complex(part.float().view(*pairs, 2)).mul_(turns)
        part.copy_(torch.view_as_real(turned).view(part.shape))


def joined(parts: list[Tensor]) -> Tensor:
    """The tokens of all parts."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
