"""CUDA graphs of passes: capture and replay.

For a few tokens, kernel-launch overhead exceeds compute time.

A captured graph always reads and writes the same memory. So there are a few *slots*, each with the keys and values of
one sequence. An input is assigned to a slot, its tokens and past length are written to the memory that the graph reads,
and the graph is replayed. The keys and values that it adds to a slot are copied to the input's own cache at once: a
cache is always complete, and a slot is only a copy, valid for the tokens that have not changed since
(`ContiguousKVCache.synced_length`).

A graph key is the number of inputs, the number of tokens of each (by powers of two; the rest is padding that nothing
attends to) and the number of keys. The first pass of a key runs eagerly; the second is captured and compared with the
eager result. If capturing fails, all passes run eagerly from then on. Knows no weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.decoder.attention import AttentionBatch, ContiguousKVCache, apply_rotary
from codeclippy_ls.engine.generation.kv_cache import ModelInput

MAX_INPUTS = 4  # of a pass, and so the maximum of slots
MAX_TOKENS = 64  # of a pass, padding included
MAX_LENGTH = 4096  # tokens of a sequence with a slot
_KEY_COUNTS = (256, 512, 1024, 2048, MAX_LENGTH)  # keys that attention gets
_FREE_MEMORY_DIVISOR = 4  # slots take at most this part of the device's free memory
_MAX_DIFFERENCE = 0.01  # of a graph's logits from the eager ones, relative

Pass = Callable[[], None]
Capture = Callable[[Pass], Pass]
GraphKey = tuple[int, int, int]  # inputs, tokens of each, keys


class Decoder(Protocol):
    """The decoder whose passes are captured."""

    vocab_size: int
    device: torch.device

    def compute_logits(self, token_ids: Tensor, batch: AttentionBatch, logits_slices: None) -> Tensor: ...

    def get_rotary_table(self, length: int) -> Tensor | None: ...


class PaddedBatch:
    """An `AttentionBatch` of inputs with the same number of tokens, in the first slots; made within the capture.

    Args:
        block: keys and values of all slots, (layers, 2, slots, num_kv_heads, capacity, head_dim).
        past_lengths: tokens in each slot before the pass, (inputs,).
        num_tokens: of each input.
        num_keys: that attention gets.
        rotary_table: as `apply_rotary` takes it, of all positions.
    """

    def __init__(
        self,
        config: ModelConfig,
        block: Tensor,
        past_lengths: Tensor,
        num_tokens: int,
        num_keys: int,
        rotary_table: Tensor | None,
    ) -> None:
        self._config, self._num_tokens, self._num_keys = config, num_tokens, num_keys
        self._num_inputs, device = len(past_lengths), past_lengths.device
        positions = past_lengths[:, None] + torch.arange(num_tokens, device=device)  # (inputs, tokens)
        self._positions = positions.view(-1)
        self._slots = torch.arange(self._num_inputs, device=device).repeat_interleave(num_tokens)
        self._layers = block.unbind(0)
        # (slots, capacity, 2, num_kv_heads, head_dim): by slot and position, as new keys and values come.
        self._targets = [kv.permute(1, 3, 0, 2, 4) for kv in self._layers]
        self._masks = {
            window: self._make_mask(positions, window, block.dtype) for window in set(config.sliding_windows)
        }
        self.rotary_table = None if rotary_table is None else self.gather_positions(rotary_table)

    def _make_mask(self, positions: Tensor, sliding_window: int, dtype: torch.dtype) -> Tensor:
        """Make the additive mask of the scores: (inputs, num_kv_heads, repeats * tokens, keys)."""
        key_positions, positions = torch.arange(self._num_keys, device=positions.device), positions[..., None]
        is_hidden = key_positions > positions  # (inputs, tokens, keys)
        if sliding_window:
            is_hidden |= key_positions <= positions - sliding_window
        mask = torch.zeros(is_hidden.shape, dtype=dtype, device=positions.device)
        mask = mask.masked_fill_(is_hidden, -torch.inf)
        mask = mask.repeat(1, self._config.queries_per_kv, 1)[:, None]  # (inputs, 1, repeats * tokens, keys)
        return mask.expand(-1, self._config.num_kv_heads, -1, -1)

    def gather_positions(self, table: Tensor) -> Tensor:
        """See `AttentionBatch`."""
        return table.index_select(0, self._positions)

    def write_kv(self, layer: int, qkv: Tensor) -> Tensor:
        """See `AttentionBatch`."""
        config = self._config
        q_size = config.num_heads * config.head_dim
        if self.rotary_table is not None:
            apply_rotary(config, qkv, self.rotary_table)
        kv = qkv[:, q_size:].view(-1, 2, config.num_kv_heads, config.head_dim)  # (inputs * tokens, ...)
        target = self._targets[layer]
        target.index_put_((self._slots, self._positions), kv.to(target.dtype))
        return qkv[:, :q_size]

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """See `AttentionBatch`."""
        config, num_inputs, num_tokens = self._config, self._num_inputs, self._num_tokens
        q = self.write_kv(layer, qkv).view(
            num_inputs, num_tokens, config.num_kv_heads, config.queries_per_kv, config.head_dim
        )
        # (inputs, num_kv_heads, keys, head_dim) each
        keys, values = self._layers[layer][:, :num_inputs, :, : self._num_keys]
        out = functional.scaled_dot_product_attention(
            # (inputs, num_kv_heads, repeats * tokens, head_dim)
            q.permute(0, 2, 3, 1, 4).reshape(num_inputs, config.num_kv_heads, -1, config.head_dim).to(keys.dtype),
            keys,
            values,
            attn_mask=self._masks[config.sliding_windows[layer]],
            scale=config.attn_scales[layer],
        )
        out = out.view(num_inputs, config.num_kv_heads, config.queries_per_kv, num_tokens, config.head_dim)
        out = out.permute(0, 3, 1, 2, 4)  # (inputs, tokens, num_kv_heads, repeats, head_dim)
        return out.reshape(num_inputs * num_tokens, config.num_heads * config.head_dim)


class CudaGraphRunner:
    """The captured graphs of one decoder, with their slots.

    Args:
        kv_dtype: type of keys and values.
        capture: makes of a function one that repeats the same operations on the same memory.

    Attributes:
        error: why nothing is captured any more; empty if all is well.
        num_captured: graphs captured so far.
    """

    def __init__(self, decoder: Decoder, config: ModelConfig, kv_dtype: torch.dtype, capture: Capture) -> None:
        self._decoder, self._config, self._kv_dtype, self._capture = decoder, config, kv_dtype, capture
        self._capacity = min(config.context_length, MAX_LENGTH)  # tokens of a slot; 0 if no slot fits in memory
        self.error = ""
        self.num_captured = 0
        self.clear()

    def clear(self) -> None:
        """Drop slots and graphs because memory is short; they are made again when they are next needed."""
        self._graphs: dict[GraphKey, Pass] = {}
        self._seen_keys: set[GraphKey] = set()
        self._slot_owners: list[weakref.ref[ContiguousKVCache] | None] = []
        self._block = self._graph_input = self._logits = torch.empty(0)
        self._rotary_table: Tensor | None = None  # held here, since graphs go on reading its memory

    def __str__(self) -> str:
        return f"not captured: {self.error}" if self.error else f"captured, {self.num_captured} so far"

    def can_run(self, inputs: Sequence[ModelInput]) -> bool:
        """Return True if a pass may be a graph: few tokens of few inputs of limited length, all asking for logits."""
        num_tokens = _pad_num_tokens(inputs)
        if len(inputs) > MAX_INPUTS or len(inputs) * num_tokens > MAX_TOKENS:
            return False
        if min(one.num_logits for one in inputs) < 1:
            return False
        if max(one.kv_cache.length for one in inputs) + num_tokens > self._capacity:
            return False
        if any(len(one.token_ids) < one.num_logits for one in inputs):
            return False
        return len(inputs) <= self._ensure_slots()

    def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
        """Run a pass for which `can_run` returned True; see `Transformer.forward`."""
        by_slot = self._assign_slots(inputs)
        num_tokens = _pad_num_tokens(inputs)
        past_lengths = [one.kv_cache.length for one in by_slot]
        padded = [
            token_id for one in by_slot for token_id in (*one.token_ids, *[0] * (num_tokens - len(one.token_ids)))
        ]
        graph_input = torch.tensor([*past_lengths, *[0] * (MAX_INPUTS - len(past_lengths)), *padded])
        if self._graph_input.device.type == "cuda":
            graph_input = graph_input.pin_memory()
        self._graph_input[: len(graph_input)].copy_(graph_input, non_blocking=True)
        self._run(len(inputs), num_tokens, max(past_lengths) + num_tokens)
        slots = {id(one): slot for slot, one in enumerate(by_slot)}
        parts = []
        for one in inputs:
            slot = slots[id(one)]
            end = slot * num_tokens + len(one.token_ids)
            parts.append(self._logits[end - one.num_logits : end])
            self._copy_back(one, slot)
        logits = copy_to_cpu(torch.cat(parts))
        return list(logits.split([one.num_logits for one in inputs]))

    def _run(self, num_inputs: int, num_tokens: int, max_length: int) -> None:
        """Compute the logits of the slots and the graph input."""
        num_keys = next((count for count in _KEY_COUNTS if max_length <= count <= self._capacity), self._capacity)
        key = num_inputs, num_tokens, num_keys
        run = self._graphs.get(key)
        if run is None:
            run = self._make_pass(key)
            if key in self._seen_keys and not self.error:
                run = self._capture_pass(key, run)
            self._seen_keys.add(key)
        run()

    def _make_pass(self, key: GraphKey) -> Pass:
        num_inputs, num_tokens, num_keys = key

        def run() -> None:
            past_lengths = self._graph_input[:num_inputs]
            token_ids = self._graph_input[MAX_INPUTS : MAX_INPUTS + num_inputs * num_tokens]
            batch = PaddedBatch(self._config, self._block, past_lengths, num_tokens, num_keys, self._rotary_table)
            self._logits[: num_inputs * num_tokens].copy_(self._decoder.compute_logits(token_ids, batch, None))

        return run

    def _capture_pass(self, key: GraphKey, run: Pass) -> Pass:
        """Capture a pass and verify it; return the eager pass if that fails."""
        rows = key[0] * key[1]
        run()
        expected = self._logits[:rows].clone()
        try:
            graph = self._capture(run)
            self._logits[:rows].zero_()
            graph()
            difference = float((self._logits[:rows] - expected).norm() / (expected.norm() + 1e-6))
            if not difference <= _MAX_DIFFERENCE:
                raise RuntimeError(f"a captured graph differs by {difference:.3g}")
        except RuntimeError as error:  # a device that is lost raises again in the pass that follows
            self.error = str(error).partition("\n")[0]
            self._graphs.clear()
            return run
        self._graphs[key] = graph
        self.num_captured += 1
        return graph

    def _ensure_slots(self) -> int:
        """Allocate the slots at the first call, as many as fit in memory; return their number."""
        if not self._slot_owners and self._capacity:
            config, device = self._config, self._decoder.device
            slot_shape = (config.num_kv_heads, self._capacity, config.head_dim)
            slot_nbytes = torch.Size((config.num_layers, 2, *slot_shape)).numel() * self._kv_dtype.itemsize
            num_slots = min(MAX_INPUTS, _get_free_memory(device) // _FREE_MEMORY_DIVISOR // slot_nbytes)
            if not num_slots:
                self._capacity = 0
                return 0
            shape = (config.num_layers, 2, num_slots, *slot_shape)
            self._block = torch.zeros(shape, dtype=self._kv_dtype, device=device)
            self._graph_input = torch.zeros(MAX_INPUTS + MAX_TOKENS, dtype=torch.long, device=device)
            self._logits = torch.zeros(MAX_TOKENS, self._decoder.vocab_size, device=device)
            self._rotary_table = self._decoder.get_rotary_table(self._capacity)
            self._slot_owners = [None] * num_slots
        return len(self._slot_owners)

    def _assign_slots(self, inputs: Sequence[ModelInput]) -> list[ModelInput]:
        """Order the inputs by slot: each in the one that has its sequence if that is among the first, else in any.

        Missing keys and values are copied from an input's cache to its slot.
        """
        slots: list[ModelInput | None] = [None] * len(inputs)
        unassigned: list[ModelInput] = []
        for one in inputs:
            slot = next(
                (
                    slot
                    for slot, owner in enumerate(self._slot_owners[: len(inputs)])
                    if owner is not None and owner() is one.kv_cache
                ),
                None,
            )
            if slot is None:
                unassigned.append(one)
            else:
                slots[slot] = one
        by_slot = [one if one is not None else unassigned.pop() for one in slots]
        for slot, one in enumerate(by_slot):
            cache = _get_cache(one)
            owner = self._slot_owners[slot]
            synced_length = cache.synced_length if owner is not None and owner() is cache else 0
            if synced_length < cache.length:
                missing = cache.slice_tokens(synced_length, cache.length)
                self._block[:, :, slot, :, synced_length : cache.length].copy_(missing)
            self._slot_owners = [
                None if other is not None and other() is cache else other for other in self._slot_owners
            ]
            self._slot_owners[slot] = weakref.ref(cache)
        return by_slot

    def _copy_back(self, one: ModelInput, slot: int) -> None:
        """Copy the new keys and values from the slot to the input's own cache."""
        cache = _get_cache(one)
        past_length, total_length = cache.length, cache.length + len(one.token_ids)
        cache.reserve(total_length)
        new = self._block[:, :, slot, :, past_length:total_length]
        cache.slice_tokens(past_length, total_length).copy_(new)
        cache.length = cache.synced_length = total_length


class CudaGraphCapture:
    """Captures CUDA graphs; they share one memory pool, since one has ended before the next begins."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Pass) -> Pass:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        replay: Pass = graph.replay
        return replay


def copy_to_cpu(logits: Tensor) -> Tensor:
    """Copy logits to the CPU, where tokens are sampled: the one time that a pass waits for the device."""
    if logits.device.type != "cuda":
        return logits.cpu()
    found = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
    found.copy_(logits, non_blocking=True)
    torch.cuda.current_stream(logits.device).synchronize()
    return found


def _get_free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU; other memory counts as enough."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 60


def _pad_num_tokens(inputs: Sequence[ModelInput]) -> int:
    """Return the maximum number of tokens of an input, rounded up to a power of two."""
    num_tokens = max(len(one.token_ids) for one in inputs)
    return 1 << (num_tokens - 1).bit_length() if num_tokens else 0


def _get_cache(one: ModelInput) -> ContiguousKVCache:
    assert isinstance(one.kv_cache, ContiguousKVCache), "a cache of this decoder"
    return one.kv_cache
