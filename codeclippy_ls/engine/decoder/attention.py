"""The native decoder's KV cache, and the attention of a pass over it.

A pass runs the tokens of several inputs together; an `AttentionBatch` knows their positions and attention masks.
`RaggedBatch` is the one for any inputs; `cuda_graphs` has one for passes of a fixed shape. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.generation.kv_cache import ModelInput

CACHE_GROWTH = 256  # tokens by which a cache's memory grows
_MIN_STEPPED_TOKENS = 16  # from this number of tokens on, attention gets whole steps of keys
_KEY_STEP = 64  # tokens


class AttentionBatch(Protocol):
    """The tokens of a pass, concatenated.

    Attributes:
        rotary_table: as `apply_rotary` takes it, of each token; None with learned positions.
    """

    rotary_table: Tensor | None

    def gather_positions(self, table: Tensor) -> Tensor:
        """Gather the rows of a table by position, (positions, ...), for the tokens: (tokens, ...)."""

    def write_kv(self, layer: int, qkv: Tensor) -> Tensor:
        """Write keys and values to the caches; return q with RoPE.

        Args:
            qkv: (tokens, q, k and v).

        Returns:
            (tokens, num_heads * head_dim).
        """

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Write keys and values to the caches; return the attention output.

        Args:
            qkv: (tokens, q, k and v).

        Returns:
            (tokens, num_heads * head_dim).
        """


class ContiguousKVCache:
    """Keys and values of one sequence, in one block of memory that grows in steps.

    The block is (layers, 2, num_kv_heads, capacity, head_dim): a head's tokens are adjacent, since reading them is most
    of the cost of attention; a third less than with tokens outermost. A pass writes once per layer, and cropping
    changes a number.

    Attributes:
        length: number of tokens held.
        layers: for each layer all of its memory, (2, num_kv_heads, capacity, head_dim), and keys and values as
            attention takes them, (1, num_kv_heads, capacity, head_dim).
        synced_length: how many of the first tokens are unchanged since the cache was last synchronized with a slot of
            `cuda_graphs`.
    """

    __slots__ = ("__weakref__", "_block", "_context_length", "layers", "length", "synced_length")

    def __init__(self, block: Tensor, context_length: int) -> None:
        self._context_length = context_length
        self.length = self.synced_length = 0
        self._set_block(block)

    def _set_block(self, block: Tensor) -> None:
        self._block = block
        self.layers = [(kv, kv[:1], kv[1:]) for kv in block.unbind(0)]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, including that for tokens to come."""
        return self._block.nbytes

    @property
    def capacity(self) -> int:
        """Number of tokens that fit in the memory."""
        return self._block.shape[3]

    def crop(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""
        self.length = min(self.length, length)
        self.synced_length = min(self.synced_length, length)

    @torch.inference_mode()
    def copy(self, length: int) -> ContiguousKVCache:
        """Copy the first ``length`` tokens into memory of their own."""
        other = ContiguousKVCache(self._allocate(min(length, self.length)), self._context_length)
        other.length = min(length, self.length)
        other.slice_tokens(0, other.length).copy_(self.slice_tokens(0, other.length))
        return other

    def slice_tokens(self, start: int, end: int) -> Tensor:
        """Return a view of the tokens from ``start`` to ``end``: (layers, 2, num_kv_heads, tokens, head_dim)."""
        return self._block[..., start:end, :]

    def reserve(self, length: int) -> None:
        """Grow the memory to at least ``length`` tokens."""
        if length <= self._block.shape[3]:
            return
        larger = self._allocate(max(length, self.length * 5 // 4))
        larger[..., : self.length, :] = self._block[..., : self.length, :]
        self._set_block(larger)

    def _allocate(self, length: int) -> Tensor:
        layers, two, num_kv_heads, _, head_dim = self._block.shape
        capacity = min(-(-length // CACHE_GROWTH) * CACHE_GROWTH, max(length, self._context_length))
        return self._block.new_zeros(
            layers, two, num_kv_heads, capacity, head_dim
        )  # zeros, since attention may get masked ones


class _BatchEntry:
    """One input of a pass: its range of the concatenated tokens, its cache, and its attention masks.

    Attributes:
        start, end: its range of the pass's tokens.
        past_length: tokens in the cache before the pass.
        total_length: tokens in the cache after it.
    """

    __slots__ = ("_masks", "cache", "end", "past_length", "start", "total_length")

    def __init__(self, model_input: ModelInput, start: int) -> None:
        assert isinstance(model_input.kv_cache, ContiguousKVCache), "a cache of this decoder"
        self.cache = model_input.kv_cache
        self.start, self.end = start, start + len(model_input.token_ids)
        self.past_length = self.cache.length
        self.total_length = self.past_length + len(model_input.token_ids)
        self._masks: dict[int, Tensor] = {}

    def get_key_range(self, sliding_window: int) -> tuple[int, int]:
        """Return the first key that attention gets, and the number of keys; the mask hides those that no token sees.

        Many tokens get whole steps of keys: on CPUs with matrix tiles torch makes a kernel for every length of bfloat16
        and keeps it, 0.1 MB each.
        """
        first = max(0, self.past_length + 1 - sliding_window) if sliding_window else 0
        if self.end - self.start < _MIN_STEPPED_TOKENS:
            return first, self.total_length - first
        first -= first % _KEY_STEP
        return first, min(-(-self.total_length // _KEY_STEP) * _KEY_STEP, self.cache.capacity) - first

    def get_mask(self, sliding_window: int, like: Tensor, repeats: int) -> Tensor:
        """Return the additive mask of the scores, (repeats * tokens, keys), shared by all layers with this window."""
        mask = self._masks.get(sliding_window)
        if mask is None:
            (first, count), device = self.get_key_range(sliding_window), like.device
            key_positions = torch.arange(first, first + count, device=device)
            positions = torch.arange(self.past_length, self.total_length, device=device)[:, None]
            is_hidden = key_positions > positions  # (tokens, keys)
            if sliding_window:
                is_hidden |= key_positions <= positions - sliding_window
            mask = torch.zeros(is_hidden.shape, dtype=like.dtype, device=device).masked_fill_(is_hidden, -torch.inf)
            self._masks[sliding_window] = mask = mask.repeat(repeats, 1)
        return mask


class RaggedBatch:
    """An `AttentionBatch` of any inputs: each attends to its own cache, one after another.

    Args:
        kv_dtype: type of keys, values and the attention over them.
        max_positions: size of the table of learned positions; None with rotary ones.

    Attributes:
        token_ids: of all inputs.
        logits_slices: for each input the tokens whose logits it asks for.
        max_length: length of the longest sequence after the pass.

    Raises:
        ValueError: an input has no tokens, asks for more logits than tokens, or exceeds the learned positions.
    """

    def __init__(
        self,
        config: ModelConfig,
        inputs: Sequence[ModelInput],
        kv_dtype: torch.dtype,
        max_positions: int | None = None,
    ) -> None:
        self._config, self._kv_dtype = config, kv_dtype
        self._entries: list[_BatchEntry] = []
        self.rotary_table: Tensor | None = None
        for one in inputs:
            entry = _BatchEntry(one, self._entries[-1].end if self._entries else 0)
            is_too_long = max_positions is not None and entry.total_length > max_positions
            if not (one.token_ids and 0 <= one.num_logits <= len(one.token_ids)) or is_too_long:
                wanted = f"{len(one.token_ids)} tokens with {one.num_logits} logits"
                raise ValueError(f"{wanted} do not fit after {entry.past_length} tokens")
            entry.cache.reserve(entry.total_length)
            self._entries.append(entry)
        self.token_ids = [token_id for one in inputs for token_id in one.token_ids]
        self.logits_slices = [
            slice(entry.end - one.num_logits, entry.end) for one, entry in zip(inputs, self._entries, strict=True)
        ]
        self.max_length = max(entry.total_length for entry in self._entries)

    def gather_positions(self, table: Tensor) -> Tensor:
        """See `AttentionBatch`."""
        return concatenate([table[entry.past_length : entry.total_length] for entry in self._entries])

    def commit(self) -> None:
        """Count the pass's tokens as held by the caches."""
        for entry in self._entries:
            entry.cache.length = entry.total_length

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """See `AttentionBatch`."""
        q = self.write_kv(layer, qkv).to(self._kv_dtype)
        if len(self._entries) == 1:
            return self._attend_entry(layer, q, self._entries[0])
        return concatenate([self._attend_entry(layer, q[entry.start : entry.end], entry) for entry in self._entries])

    def write_kv(self, layer: int, qkv: Tensor) -> Tensor:
        """See `AttentionBatch`."""
        config, entries = self._config, self._entries
        q_size = config.num_heads * config.head_dim
        if self.rotary_table is not None:
            apply_rotary(config, qkv, self.rotary_table)
        # (2, num_kv_heads, tokens, head_dim)
        if len(qkv) == 1:  # the same with fewer calls
            kv = qkv[:, q_size:].view(2, config.num_kv_heads, 1, config.head_dim)
        else:
            kv = qkv[:, q_size:].view(-1, 2, config.num_kv_heads, config.head_dim).permute(1, 2, 0, 3)
        for entry in entries:
            block = entry.cache.layers[layer][0]
            block.narrow(2, entry.past_length, entry.end - entry.start).copy_(
                kv if len(entries) == 1 else kv[:, :, entry.start : entry.end]
            )
        return qkv[:, :q_size]

    def _attend_entry(self, layer: int, q: Tensor, entry: _BatchEntry) -> Tensor:
        """Compute one input's attention: (tokens, num_heads * head_dim) to the same."""
        config = self._config
        _, keys, values = entry.cache.layers[layer]
        tokens, repeats = entry.total_length - entry.past_length, config.queries_per_kv
        scale, sliding_window = config.attn_scales[layer], config.sliding_windows[layer]
        first, num_keys = entry.get_key_range(sliding_window)
        if tokens == 1:
            out = functional.scaled_dot_product_attention(
                q.view(1, config.num_kv_heads, repeats, config.head_dim),
                keys.narrow(2, first, num_keys),
                values.narrow(2, first, num_keys),
                scale=scale,
            )
            return out.reshape(1, config.num_heads * config.head_dim)
        # Heads that share keys are stacked like more tokens: so keys and values need no copies.
        q = q.view(tokens, config.num_kv_heads, repeats, config.head_dim).permute(1, 2, 0, 3)
        # (num_kv_heads, repeats, tokens, head_dim)
        out = functional.scaled_dot_product_attention(
            q.reshape(1, config.num_kv_heads, repeats * tokens, config.head_dim),
            keys.narrow(2, first, num_keys),
            values.narrow(2, first, num_keys),
            attn_mask=entry.get_mask(sliding_window, q, repeats),
            scale=scale,
        )  # (1, num_kv_heads, repeats * tokens, head_dim)
        out = out.view(config.num_kv_heads, repeats, tokens, config.head_dim).permute(2, 0, 1, 3)
        # (tokens, num_kv_heads, repeats, head_dim)
        return out.reshape(tokens, config.num_heads * config.head_dim)


def apply_rotary(config: ModelConfig, qkv: Tensor, rotary_table: Tensor) -> None:
    """Apply RoPE to q and k in place, in float32; adjacent dimensions are treated as complex pairs.

    Args:
        qkv: (tokens, q, k and v).
        rotary_table: cosine and sine of each token's position as complex numbers, (tokens, 1, rotary_dim / 2).
    """
    shape = (qkv.shape[0], config.num_heads + config.num_kv_heads, config.rotary_dim // 2)  # (tokens, heads, pairs)
    row_stride = qkv.stride(0)
    if qkv.dtype is torch.float32:
        pairs = qkv.view(torch.complex64).as_strided(shape, (row_stride // 2, config.head_dim // 2, 1))
        pairs.mul_(rotary_table)
    else:
        rotary_part = qkv.as_strided((*shape[:2], config.rotary_dim), (row_stride, config.head_dim, 1))
        rotated = torch.view_as_complex(rotary_part.float().view(*shape, 2)).mul_(rotary_table)
        rotary_part.copy_(torch.view_as_real(rotated).view(rotary_part.shape))


def concatenate(parts: list[Tensor]) -> Tensor:
    """Concatenate along the tokens; a single part is returned as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
