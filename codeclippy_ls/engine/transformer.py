"""One hand-written decoder for the architectures of `layouts`, inference only.

All tokens of all feeds run through the linear layers together, and only attention is per feed, so that several
candidates cost about one pass over the weights. For a small model on a CPU the number of calls into torch decides:
there are no heads in Python, positions come from tables, and keys and values are written in one call. Knows token ids
only, and nothing of where weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codeclippy_ls.engine.activations import Activation
from codeclippy_ls.engine.cache import Feed
from codeclippy_ls.engine.formats import Choice, Fan, Part, Rows, Sum, fan, linear, multiplies_rows, summed
from codeclippy_ls.engine.layouts import HEADS, Matrix, Shape, Weights, read, shape_of

GROWTH = 256  # tokens by which the memory of keys and values grows
_MANY, _STEP = 16, 64  # tokens from which attention is given keys by steps, and the step


class KeyValues:
    """Keys and values of the tokens read so far, in memory of its own that grows in steps.

    (layers, 2, groups, capacity, size): a head's tokens lie side by side, since reading them is most of what attention
    costs; a third less than with tokens outermost. A step writes once per layer, and cropping is a number.

    Attributes:
        length: how many tokens it holds.
        layers: of each layer all of its memory, and keys and values as attention takes them, (1, groups, capacity,
            size).
    """

    __slots__ = ("_store", "_window", "layers", "length")

    def __init__(self, store: Tensor, window: int) -> None:
        self._window = window
        self.length = 0
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

    @torch.inference_mode()
    def copy(self, length: int) -> KeyValues:
        """The first ``length`` tokens in memory of their own."""
        made = KeyValues(self._sized(min(length, self.length)), self._window)
        made.length = min(length, self.length)
        made._store[..., : made.length, :] = self._store[..., : made.length, :]
        return made

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


class _Seat:
    """One feed's place in a packed pass: its tokens, its cache, and the masks of its attention."""

    __slots__ = ("_masks", "cache", "end", "past", "start", "total")

    def __init__(self, feed: Feed, start: int) -> None:
        assert isinstance(feed.cache, KeyValues), "a cache of this decoder's"
        self.cache = feed.cache
        self.start, self.end = start, start + len(feed.tokens)
        self.past = feed.cache.length
        self.total = self.past + len(feed.tokens)
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


class _Norm:
    """Layer norm, or by the root of the mean square."""

    __slots__ = ("_bias", "_epsilon", "_rms", "_shape", "_weight")

    def __init__(self, matrix: Matrix, shape: Shape, dtype: torch.dtype) -> None:
        self._weight = matrix.weight.to(dtype)
        self._bias = None if matrix.bias is None else matrix.bias.to(dtype)
        self._shape = (shape.width,)
        self._epsilon = shape.epsilon
        self._rms = shape.layout.rms

    def __call__(self, x: Tensor) -> Tensor:
        if self._rms:
            return functional.rms_norm(x, self._shape, self._weight, self._epsilon)
        return functional.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    """``enter`` makes q, k and v, ``leave`` adds what attention found to the hidden states.

    Where attention and MLP read the same, ``enter`` makes what rises in the MLP as well, and ``leave`` adds both: in
    all layers but the last, where not everybody's is wanted.
    """

    index: int
    norm: _Norm
    enter: Fan
    leave: Sum
    second_norm: _Norm | None
    rise: Fan | None
    down: Sum | None
    scale: float
    span: int


class Transformer:
    """A decoder over weights that it has taken into its own form.

    Args:
        config: transformers' configuration, of which `layouts.supported` is True.
        weights: a loaded module's ``state_dict()``, or the tensors of such by name, on the device to run on.
        choice: number formats of the linear layers.

    Attributes:
        nbytes: memory of the weights.
        dtype: the number format, in words.
    """

    def __init__(self, config: Any, weights: Weights, choice: Choice) -> None:
        shape = shape_of(config)
        if shape is None:
            raise ValueError(f"no layout for this {config.model_type!r} configuration")
        layout, table = shape.layout, weights[f"{shape.layout.embedding}.weight"]
        self._shape = shape
        self.architecture, self.window, self.vocabulary = shape.kind, shape.window, shape.vocabulary
        self.parameters = shape.parameters
        self.device = table.device
        self.dtype = str(choice)
        self._memory = choice.dtype  # of keys, values and the attention over them
        # Rounding of the hidden states costs more than it saves on a CPU.
        self._dtype = torch.float32 if table.device.type == "cpu" else choice.dtype
        self._layers = [self._layer(read(shape, weights, index), index, choice) for index in range(shape.layers)]
        self._embedding = Rows(table, choice)
        self._positions = weights[f"{layout.positions}.weight"].to(self._dtype) if layout.positions else None
        last = Matrix(weights[f"{layout.last_norm}.weight"], weights.get(f"{layout.last_norm}.bias"))
        self._last_norm = _Norm(last, shape, self._dtype)
        head = next((weights[f"{name}.weight"] for name in HEADS if f"{name}.weight" in weights), table)
        once = head.data_ptr() == table.data_ptr() and multiplies_rows(choice, table.device)
        self._head = linear(self._embedding.table if once else head, weights.get(f"{HEADS[0]}.bias"), choice)
        self._turns = torch.empty(0)
        self.nbytes = self._head.nbytes + (0 if once else self._embedding.nbytes) + sum(
            part.nbytes for layer in self._layers
            for part in (layer.enter, layer.leave, layer.rise, layer.down) if part is not None)

    def _layer(self, weights: Any, index: int, choice: Choice) -> _Layer:
        shape = self._shape

        def norm(matrix: Matrix) -> _Norm:
            return _Norm(matrix, shape, self._dtype)

        qkv, out, down = (Part(part.weight, part.bias) for part in (weights.qkv, weights.out, weights.down))
        rise = Part(weights.rise.weight, weights.rise.bias, Activation(shape.activation, len(shape.layout.rises) > 1))
        parallel, last = weights.second_norm is None, index == shape.layers - 1
        together = parallel and not last
        return _Layer(
            index, norm(weights.norm), fan([qkv, rise] if together else [qkv], choice),
            summed([out, down] if parallel else [out], choice),
            None if parallel else norm(weights.second_norm), None if together else fan([rise], choice),
            None if parallel else summed([down], choice), shape.scales[index], shape.spans[index])

    def new_cache(self) -> KeyValues:
        """An empty cache of this model's."""
        shape = self._shape
        size = (shape.layers, 2, shape.groups, 0, shape.size)
        return KeyValues(torch.empty(size, dtype=self._memory, device=self.device), shape.window)

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Run each feed's tokens after what its cache holds, and extend the caches.

        Returns:
            Per feed: logits of its last ``rows`` tokens, shape (rows, vocabulary), float32.

        Raises:
            ValueError: a feed has no tokens, or fewer than rows, or learned positions end before its last.
        """
        seats = self._seats(feeds)
        x = self._embedded([token for feed in feeds for token in feed.tokens], seats)
        turns = self._turning(seats) if self._shape.turned else None
        for layer in self._layers[:-1]:
            x = self._run(layer, x, seats, turns, None)
        # Behind the last attention nobody reads the tokens whose logits are not wanted.
        wanted = [slice(seat.end - feed.rows, seat.end) for feed, seat in zip(feeds, seats, strict=True)]
        rows = sum(feed.rows for feed in feeds)
        if rows:
            x = self._run(self._layers[-1], x, seats, turns, None if rows == len(x) else wanted)
            logits = self._head(self._last_norm(x)).float()
        else:
            self._remember(self._layers[-1], x, seats, turns)
            logits = torch.empty(0, self.vocabulary, device=self.device)
        for seat in seats:
            seat.cache.length = seat.total
        return [logits] if len(feeds) == 1 else list(logits.split([feed.rows for feed in feeds]))

    def _seats(self, feeds: Sequence[Feed]) -> list[_Seat]:
        seats: list[_Seat] = []
        most = None if self._positions is None else len(self._positions)
        for feed in feeds:
            seat = _Seat(feed, seats[-1].end if seats else 0)
            if not (feed.tokens and 0 <= feed.rows <= len(feed.tokens)) or (most is not None and seat.total > most):
                raise ValueError(f"{feed.rows} of {len(feed.tokens)} tokens after {seat.past} do not fit")
            seat.cache.reserve(seat.total)
            seats.append(seat)
        return seats

    def _embedded(self, tokens: list[int], seats: list[_Seat]) -> Tensor:
        x = self._embedding(tokens).to(self._dtype)
        return x if self._positions is None else x + _taken(self._positions, seats)

    def _turning(self, seats: list[_Seat]) -> Tensor:
        """Cosine and sine of each token's position as complex numbers, (tokens, 1, half of the turned dimensions)."""
        most = max(seat.total for seat in seats)
        if most > self._turns.shape[0]:
            half = torch.arange(0, self._shape.turned, 2, dtype=torch.float32) / self._shape.turned
            angles = torch.arange(-(-most // 2048) * 2048)[:, None] * (1.0 / self._shape.theta**half)
            self._turns = torch.polar(torch.ones_like(angles), angles)[:, None].to(self.device)
        return _taken(self._turns, seats)

    def _run(
        self, layer: _Layer, x: Tensor, seats: list[_Seat], turns: Tensor | None, wanted: list[slice] | None
    ) -> Tensor:
        """One layer over all tokens, or what it makes of those wanted; ``x`` is changed."""
        read = layer.norm(x)
        qkv, *wide = layer.enter(read)
        attended = self._attended(layer, qkv, seats, turns)
        if wanted is not None:
            read, attended, x = (_joined([whole[part] for part in wanted]) for whole in (read, attended, x))
        if layer.rise is None:
            return layer.leave(x, attended, *wide)
        if layer.second_norm is None or layer.down is None:
            return layer.leave(x, attended, *layer.rise(read))
        layer.leave(x, attended)
        return layer.down(x, *layer.rise(layer.second_norm(x)))

    def _remember(self, layer: _Layer, x: Tensor, seats: list[_Seat], turns: Tensor | None) -> None:
        """All that the last layer has to do where no logits are wanted: its keys and values."""
        self._written(layer, layer.enter(layer.norm(x))[0], seats, turns)

    def _attended(self, layer: _Layer, qkv: Tensor, seats: list[_Seat], turns: Tensor | None) -> Tensor:
        """Attention of (tokens, q, k and v) to (tokens, heads * size); keys and values go to the caches."""
        q = self._written(layer, qkv, seats, turns).to(self._memory)
        if len(seats) == 1:
            return self._attend(layer, q, seats[0])
        return _joined([self._attend(layer, q[seat.start : seat.end], seat) for seat in seats])

    def _written(self, layer: _Layer, qkv: Tensor, seats: list[_Seat], turns: Tensor | None) -> Tensor:
        """q; keys and values go to the caches."""
        shape = self._shape
        width = shape.heads * shape.size
        if turns is not None:
            self._turn(qkv, turns)
        if len(qkv) == 1:  # the same with fewer calls
            new = qkv[:, width:].view(2, shape.groups, 1, shape.size)
        else:
            new = qkv[:, width:].view(-1, 2, shape.groups, shape.size).permute(1, 2, 0, 3)
        for seat in seats:
            both = seat.cache.layers[layer.index][0]
            both.narrow(2, seat.past, seat.end - seat.start).copy_(
                new if len(seats) == 1 else new[:, :, seat.start : seat.end])
        return qkv[:, :width]

    def _attend(self, layer: _Layer, q: Tensor, seat: _Seat) -> Tensor:
        """One feed's attention."""
        shape = self._shape
        _, keys, values = seat.cache.layers[layer.index]
        tokens, repeats = seat.total - seat.past, shape.heads // shape.groups
        first, seen = seat.seen(layer.span)
        if tokens == 1:
            out = functional.scaled_dot_product_attention(
                q.view(1, shape.groups, repeats, shape.size), keys.narrow(2, first, seen),
                values.narrow(2, first, seen), scale=layer.scale)
            return out.reshape(1, shape.heads * shape.size)
        # Heads that share keys stand below each other, as if they were more tokens: nothing is copied for them.
        q = q.view(tokens, shape.groups, repeats, shape.size).permute(1, 2, 0, 3)
        out = functional.scaled_dot_product_attention(
            q.reshape(1, shape.groups, repeats * tokens, shape.size),
            keys.narrow(2, first, seen), values.narrow(2, first, seen),
            attn_mask=seat.mask(layer.span, q, repeats), scale=layer.scale)
        out = out.view(shape.groups, repeats, tokens, shape.size).permute(2, 0, 1, 3)
        return out.reshape(tokens, shape.heads * shape.size)

    def _turn(self, qkv: Tensor, turns: Tensor) -> None:
        """Turn q and k by their positions, in place, in float32: neighbours are one complex number."""
        shape = self._shape
        pairs, row = (qkv.shape[0], shape.heads + shape.groups, shape.turned // 2), qkv.stride(0)
        if qkv.dtype is torch.float32:
            qkv.view(torch.complex64).as_strided(pairs, (row // 2, shape.size // 2, 1)).mul_(turns)
        else:
            part = qkv.as_strided((*pairs[:2], shape.turned), (row, shape.size, 1))
            turned = torch.view_as_complex(part.float().view(*pairs, 2)).mul_(turns)
            part.copy_(torch.view_as_real(turned).view(part.shape))


def _taken(table: Tensor, seats: list[_Seat]) -> Tensor:
    """The rows of a table by position that the seats' tokens have."""
    return _joined([table[seat.past : seat.total] for seat in seats])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
