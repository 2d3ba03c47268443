"""Passes of a fixed form, recorded once and replayed: a GPU computes a few tokens faster than it is told how to.

A recorded pass (a CUDA graph) always reads and writes the same memory. So there are a few *slots*, each with keys and
values of one text; a feed is seated in one, its tokens and how many came before are written to where the pass reads
them, and the pass is replayed. What it adds to a slot is copied to the feed's own cache at once: caches are always
whole, and a slot is only a copy, good for as many tokens as have not changed since (`kept` of the cache). A form is how
many feeds, how many tokens of each (by powers of two; the rest is padding that nobody sees) and over how many keys. It
is run once as it is, recorded when it is wanted again, and compared with what it computed unrecorded; where recording
fails, passes are run as they are from then on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.decoder.attention import AttentionBatch, ContiguousKVCache, turn
from codeclippy_ls.engine.generation.kv_cache import ModelInput

SLOTS = 4  # feeds in a pass
TOKENS = 64  # in a pass, padding included
LONGEST = 4096  # tokens of a text with a slot
_STEPS = (256, 512, 1024, 2048, LONGEST)  # keys that attention is given
_SHARE = 4  # of the device's free memory slots may take one part in so many

Run = Callable[[], None]
Record = Callable[[Run], Run]


class Body(Protocol):
    """What is recorded: a decoder."""

    vocab_size: int
    device: torch.device

    def logits(self, tokens: Tensor, batch: AttentionBatch, wanted: None) -> Tensor: ...

    def turns(self, length: int) -> Tensor | None: ...


class PaddedBatch:
    """A `AttentionBatch` of ``feeds`` with ``tokens`` each, in the first slots; made within what is recorded.

    Args:
        store: keys and values of all slots, (layers, 2, slots, groups, capacity, size).
        pasts: how many tokens each slot held before, (feeds,).
        span: how many keys attention is given.
        turns: as `turn` takes them, of all positions.
    """

    def __init__(
        self, shape: ModelConfig, store: Tensor, pasts: Tensor, tokens: int, span: int, turns: Tensor | None
    ) -> None:
        self._shape, self._tokens, self._span = shape, tokens, span
        self._feeds, device = len(pasts), pasts.device
        places = pasts[:, None] + torch.arange(tokens, device=device)
        self._flat = places.view(-1)
        self._slots = torch.arange(self._feeds, device=device).repeat_interleave(tokens)
        self._layers = store.unbind(0)
        # By slot and token, as new keys and values come.
        self._targets = [both.permute(1, 3, 0, 2, 4) for both in self._layers]
        self._masks = {far: self._mask(places, far, store.dtype) for far in set(shape.spans)}
        self.turns = None if turns is None else self.taken(turns)

    def _mask(self, places: Tensor, far: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores, (feeds, groups, repeats * tokens, span)."""
        given, place = torch.arange(self._span, device=places.device), places[..., None]
        hidden = given > place
        if far:
            hidden |= given <= place - far
        mask = torch.zeros(hidden.shape, dtype=dtype, device=places.device).masked_fill_(hidden, -torch.inf)
        mask = mask.repeat(1, self._shape.repeats, 1)[:, None]
        return mask.expand(-1, self._shape.groups, -1, -1)

    def taken(self, table: Tensor) -> Tensor:
        """As `AttentionBatch` says."""
        return table.index_select(0, self._flat)

    def written(self, layer: int, qkv: Tensor) -> Tensor:
        """As `AttentionBatch` says."""
        shape = self._shape
        width = shape.heads * shape.size
        if self.turns is not None:
            turn(shape, qkv, self.turns)
        new = qkv[:, width:].view(-1, 2, shape.groups, shape.size)
        target = self._targets[layer]
        target.index_put_((self._slots, self._flat), new.to(target.dtype))
        return qkv[:, :width]

    def attended(self, layer: int, qkv: Tensor) -> Tensor:
        """As `AttentionBatch` says."""
        shape, feeds, tokens = self._shape, self._feeds, self._tokens
        q = self.written(layer, qkv).view(feeds, tokens, shape.groups, shape.repeats, shape.size)
        keys, values = self._layers[layer][:, :feeds, :, : self._span]
        out = functional.scaled_dot_product_attention(
            q.permute(0, 2, 3, 1, 4).reshape(feeds, shape.groups, -1, shape.size).to(keys.dtype),
            keys,
            values,
            attn_mask=self._masks[shape.spans[layer]],
            scale=shape.scales[layer],
        )
        out = out.view(feeds, shape.groups, shape.repeats, tokens, shape.size).permute(0, 3, 1, 2, 4)
        return out.reshape(feeds * tokens, shape.heads * shape.size)


class CudaGraphRunner:
    """The recorded passes of one decoder, with their slots.

    Args:
        memory: type of keys and values.
        record: makes of a function one that does the same over the same memory.

    Attributes:
        fault: why nothing is recorded any more; empty where all is well.
        count: passes recorded so far.
    """

    def __init__(self, body: Body, shape: ModelConfig, memory: torch.dtype, record: Record) -> None:
        self._body, self._shape, self._memory, self._record = body, shape, memory, record
        self._capacity = min(shape.window, LONGEST)
        self.fault = ""
        self.count = 0
        self.clear()

    def clear(self) -> None:
        """Give the slots and the recorded passes up, as memory is short; they are made again when they are wanted."""
        self._passes: dict[tuple[int, int, int], Run] = {}
        self._known: set[tuple[int, int, int]] = set()
        self._owners: list[weakref.ref[ContiguousKVCache] | None] = []
        self._store = self._input = self._logits = torch.empty(0)
        self._turns: Tensor | None = None  # held here, since recorded passes go on reading where it was

    def __str__(self) -> str:
        return f"not recorded: {self.fault}" if self.fault else f"recorded, {self.count} so far"

    def takes(self, feeds: Sequence[ModelInput]) -> bool:
        """Whether a pass is of a form that is recorded: few tokens of few feeds that are not too long."""
        tokens = _padded(feeds)
        if len(feeds) > SLOTS or len(feeds) * tokens > TOKENS or min(feed.num_logits for feed in feeds) < 1:
            return False
        if max(feed.kv_cache.length for feed in feeds) + tokens > self._capacity:
            return False
        if any(len(feed.token_ids) < feed.num_logits for feed in feeds):
            return False
        return len(feeds) <= self._slots()

    def forward(self, feeds: Sequence[ModelInput]) -> list[Tensor]:
        """As `Transformer.forward`, of feeds that it `takes`."""
        seated = self._seated(feeds)
        tokens = _padded(feeds)
        pasts = [feed.kv_cache.length for feed in seated]
        padded = [token for feed in seated for token in (*feed.token_ids, *[0] * (tokens - len(feed.token_ids)))]
        told = torch.tensor([*pasts, *[0] * (SLOTS - len(pasts)), *padded])
        if self._input.device.type == "cuda":
            told = told.pin_memory()
        self._input[: len(told)].copy_(told, non_blocking=True)
        self._pass(len(feeds), tokens, max(pasts) + tokens)
        places = {id(feed): place for place, feed in enumerate(seated)}
        parts = []
        for feed in feeds:
            place = places[id(feed)]
            end = place * tokens + len(feed.token_ids)
            parts.append(self._logits[end - feed.num_logits : end])
            self._kept(feed, place)
        logits = copy_to_cpu(torch.cat(parts))
        return list(logits.split([feed.num_logits for feed in feeds]))

    def _pass(self, feeds: int, tokens: int, end: int) -> None:
        """Compute the logits of what stands in the slots and the input."""
        form = feeds, tokens, next((step for step in _STEPS if end <= step <= self._capacity), self._capacity)
        run = self._passes.get(form)
        if run is None:
            run = self._made(form)
            if form in self._known and not self.fault:
                run = self._recorded(form, run)
            self._known.add(form)
        run()

    def _made(self, form: tuple[int, int, int]) -> Run:
        feeds, tokens, span = form

        def run() -> None:
            pasts, ids = self._input[:feeds], self._input[SLOTS : SLOTS + feeds * tokens]
            batch = PaddedBatch(self._shape, self._store, pasts, tokens, span, self._turns)
            self._logits[: feeds * tokens].copy_(self._body.logits(ids, batch, None))

        return run

    def _recorded(self, form: tuple[int, int, int], run: Run) -> Run:
        """A recorded pass that was tried, or the one that was to be recorded."""
        rows = form[0] * form[1]
        run()
        expected = self._logits[:rows].clone()
        try:
            made = self._record(run)
            self._logits[:rows].zero_()
            made()
            differs = float((self._logits[:rows] - expected).norm() / (expected.norm() + 1e-6))
            if not differs <= 0.01:
                raise RuntimeError(f"a recorded pass differs by {differs:.3g}")
        except RuntimeError as error:  # a device that is lost raises again in the pass that follows
            self.fault = str(error).partition("\n")[0]
            self._passes.clear()
            return run
        self._passes[form] = made
        self.count += 1
        return made

    def _slots(self) -> int:
        """How many slots there are; made when they are first wanted, as many as there is memory for."""
        if not self._owners and self._capacity:
            layers, groups, size = self._shape.layers, self._shape.groups, self._shape.size
            form = (layers, 2, 1, groups, self._capacity, size)
            device, nbytes = self._body.device, torch.Size(form).numel() * self._memory.itemsize
            slots = min(SLOTS, _free(device) // _SHARE // nbytes)
            if not slots:
                self._capacity = 0  # nothing fits, and nothing is taken any more
                return 0
            self._store = torch.zeros(layers, 2, slots, *form[3:], dtype=self._memory, device=device)
            self._input = torch.zeros(SLOTS + TOKENS, dtype=torch.long, device=device)
            self._logits = torch.zeros(TOKENS, self._body.vocab_size, device=device)
            self._turns = self._body.turns(self._capacity)
            self._owners = [None] * slots
        return len(self._owners)

    def _seated(self, feeds: Sequence[ModelInput]) -> list[ModelInput]:
        """The feeds by slot: each in the one that has its text, where it may, and then in any that is left."""
        places: list[ModelInput | None] = [None] * len(feeds)
        left: list[ModelInput] = []
        for feed in feeds:
            place = next(
                (
                    place
                    for place, owner in enumerate(self._owners[: len(feeds)])
                    if owner is not None and owner() is feed.kv_cache
                ),
                None,
            )
            if place is None:
                left.append(feed)
            else:
                places[place] = feed
        seated = [feed if feed is not None else left.pop() for feed in places]
        for place, feed in enumerate(seated):
            cache = _ours(feed)
            owner = self._owners[place]
            same = cache.kept if owner is not None and owner() is cache else 0
            if same < cache.length:
                self._store[:, :, place, :, same : cache.length].copy_(cache.part(same, cache.length))
            self._owners = [None if other is not None and other() is cache else other for other in self._owners]
            self._owners[place] = weakref.ref(cache)
        return seated

    def _kept(self, feed: ModelInput, place: int) -> None:
        """The feed's own cache takes what its slot was given."""
        cache = _ours(feed)
        past, total = cache.length, cache.length + len(feed.token_ids)
        cache.reserve(total)
        cache.part(past, total).copy_(self._store[:, :, place, :, past:total])
        cache.length = cache.kept = total


class CudaGraphCapture:
    """Records as CUDA graphs, which share their memory, since one has ended before the next begins."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        replay: Run = graph.replay
        return replay


def copy_to_cpu(logits: Tensor) -> Tensor:
    """Logits in the CPU's memory, where tokens are chosen: the one time that a pass waits for the device."""
    if logits.device.type != "cuda":
        return logits.cpu()
    found = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
    found.copy_(logits, non_blocking=True)
    torch.cuda.current_stream(logits.device).synchronize()
    return found


def _free(device: torch.device) -> int:
    """Bytes that nobody has yet; of other memory than a GPU's there is always enough."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 60


def _padded(feeds: Sequence[ModelInput]) -> int:
    most = max(len(feed.token_ids) for feed in feeds)
    return 1 << (most - 1).bit_length() if most else 0


def _ours(feed: ModelInput) -> ContiguousKVCache:
    assert isinstance(feed.kv_cache, ContiguousKVCache), "a cache of this decoder's"
    return feed.kv_cache
