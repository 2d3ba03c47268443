"""Ways to run one model, side by side: each is a column of `bench.speed`.

Ours in several number formats, transformers' module, and its ``generate``. Other engines join by `bench.peers`: a
module of that name with ``columns(subject) -> list[Column]`` is asked for more where it exists.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from codeclippy_ls.engine.decoder.architectures import compute_weight_shapes, parse_config
from codeclippy_ls.engine.decoder.linear import PLAIN, WeightFormats
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.decoding import PREFILL_CHUNK, DecodingState, Sampler, generate
from codeclippy_ls.engine.generation.kv_cache import CachedPrefix, ModelInput, PrefixCache
from codeclippy_ls.engine.loading.models import Model
from codeclippy_ls.engine.loading.transformers_module import ModuleKVCache

BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8}


@dataclass(frozen=True)
class Elsewhere:
    """What a run took in another process: CPU seconds of its work, and seconds of what is not to be counted."""

    cpu: float
    aside: float


class Column(Protocol):
    """A model as one engine runs it, greedily, with the threads that torch has.

    Attributes:
        name: at the column's head.
        bits: of the weights that are read for each token written.
        nbytes: memory of the weights.
    """

    name: str
    bits: int
    nbytes: int

    def prefill(self, tokens: Sequence[int]) -> Elsewhere | None:
        """Read a prompt from nothing, up to its last token's logits."""

    def decode(self, count: int) -> Elsewhere | None:
        """Write so many tokens after the prompt that was read last; ends do not end it. The next call begins there
        again."""


class Typed(Column, Protocol):
    """A column that can be asked for what an editor asks for.

    Attributes:
        keeps: whether a keystroke profits from the one before.
    """

    keeps: bool

    def keystroke(self, tokens: Sequence[int], count: int) -> Elsewhere | None:
        """Write so many tokens after a prompt, with all that the engine kept of the prompts before."""


class Wide(Column, Protocol):
    """A column that takes many tokens in one pass."""

    def check(self, count: int) -> None:
        """One pass over so many tokens after the prompt, with the logits of each."""

    def batch(self, count: int) -> None:
        """One pass over the next token of so many texts that share the prompt."""


@dataclass
class Subject:
    """A model to run: its configuration and weights, as transformers' module in float32 or in bfloat16."""

    name: str
    module: Any

    @property
    def window(self) -> int:
        """Most tokens."""
        return int(self.module.config.max_position_embeddings)

    @cached_property
    def parameters(self) -> int:
        """Numbers in all its weights."""
        return int(self.module.num_parameters())

    @cached_property
    def multiplied(self) -> tuple[int, int]:
        """Numbers in the matrices that every token is multiplied by: the layers', and the head's."""
        shape = parse_config(self.module.config)
        assert shape is not None
        matrices = [
            form
            for name, form in compute_weight_shapes(shape).items()
            if len(form) == 2 and shape.layout.layer[:-3] in name
        ]
        return sum(rows * columns for rows, columns in matrices), shape.vocabulary * shape.width

    @cached_property
    def folder(self) -> Path:
        """Its checkpoint, written when first asked for: engines that convert one begin here."""
        self.held = tempfile.TemporaryDirectory(prefix="bench-")  # as long as the subject
        self.module.save_pretrained(self.held.name)
        return Path(self.held.name)


class Own:
    """Our decoder in a number format, reading prompts in chunks as the engine does."""

    keeps = True

    def __init__(self, subject: Subject, choice: WeightFormats, name: str) -> None:
        self.name, self.bits = name, BITS[choice.few]
        config = subject.module.config
        self._runner = Transformer(config, subject.module.state_dict(), choice)
        self.nbytes = self._runner.nbytes
        self._model = Model(self._runner, None, subject.name)  # type: ignore[arg-type]
        self._kept = PrefixCache(1 << 30)
        self._prefix = CachedPrefix(self._runner.new_cache())
        self._batch: list[Any] = []

    def prefill(self, tokens: Sequence[int]) -> None:
        """In chunks; only the last token's logits are made."""
        self._prefix, self._batch = CachedPrefix(self._runner.new_cache(), list(tokens)), []
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = tokens[start : start + PREFILL_CHUNK]
            self._model.forward([ModelInput(chunk, self._prefix.kv_cache, int(start + len(chunk) == len(tokens)))])

    def decode(self, count: int) -> None:
        """By the engine's stream, without drafts: with random weights they would be right too often."""
        start = list(self._prefix.token_ids)
        self._prefix.crop(len(start) - 1)
        self._written(self._prefix, start, count)
        self._prefix.crop(len(start))

    def keystroke(self, tokens: Sequence[int], count: int) -> None:
        """With the prefix cache."""
        prefix = self._kept.acquire(tokens, self._runner.new_cache)
        self._written(prefix, tokens, count)
        self._kept.release(prefix)

    def _written(self, prefix: CachedPrefix, tokens: Sequence[int], count: int) -> None:
        for _ in generate(self._model.forward, DecodingState(prefix, None, frozenset(), Sampler(), count), tokens):
            pass

    def check(self, count: int) -> None:
        """And back again."""
        length = self._prefix.kv_cache.length
        self._model.forward([ModelInput([5] * count, self._prefix.kv_cache, count)])
        self._prefix.kv_cache.crop(length)

    def batch(self, count: int) -> None:
        """Each text has a cache of its own."""
        length = self._prefix.kv_cache.length
        while len(self._batch) < count:
            self._batch.append(self._prefix.kv_cache.copy(length))
        self._model.forward([ModelInput([5], cache) for cache in self._batch[:count]])
        for cache in self._batch[:count]:
            cache.crop(length)


class Theirs:
    """transformers' module, called as a hand-written loop would."""

    def __init__(self, subject: Subject, dtype: str) -> None:
        self.name, self.bits = f"module {dtype}", BITS[dtype]
        self.module = module_in(subject, dtype)
        self.nbytes = sum(parameter.nbytes for parameter in self.module.parameters())
        self.cache = ModuleKVCache()
        self.prompt: Sequence[int] = ()
        self._wide: dict[int, Any] = {}

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        """In one piece."""
        self.cache, self.prompt, self._wide = ModuleKVCache(), tokens, {}
        self._run(torch.tensor([tokens]), self.cache, 1)

    @torch.inference_mode()
    def decode(self, count: int) -> None:
        """One by one, greedily."""
        self.cache.crop(len(self.prompt) - 1)
        token = torch.tensor([[self.prompt[-1]]])
        for _ in range(count):
            token = self._run(token, self.cache, 1)[:, -1:].argmax(-1)
        self.cache.crop(len(self.prompt))

    @torch.inference_mode()
    def check(self, count: int) -> None:
        """And back again."""
        self._run(torch.full((1, count), 5), self.cache, count)
        self.cache.crop(len(self.prompt))

    @torch.inference_mode()
    def batch(self, count: int) -> None:
        """The prompt's keys and values repeated."""
        if count not in self._wide:
            self._wide[count] = self.cache.copy(len(self.prompt))
            self._wide[count].layers.batch_repeat_interleave(count)
        self._run(torch.full((count, 1), 5), self._wide[count], 1)
        self._wide[count].crop(len(self.prompt))

    def _run(self, ids: torch.Tensor, cache: ModuleKVCache, rows: int) -> torch.Tensor:
        made = self.module(input_ids=ids, past_key_values=cache.layers, use_cache=True, logits_to_keep=rows)
        return torch.Tensor(made.logits)


class Generated(Theirs):
    """transformers' ``generate``."""

    keeps = False

    def __init__(self, subject: Subject, dtype: str) -> None:
        super().__init__(subject, dtype)
        self.name = f"generate {dtype}"

    def decode(self, count: int) -> None:
        """Continued from the prompt's keys and values."""
        self.cache.crop(len(self.prompt) - 1)
        self._generate(self.prompt, count, past_key_values=self.cache.layers)
        self.cache.crop(len(self.prompt))

    def keystroke(self, tokens: Sequence[int], count: int) -> None:
        """All from the start."""
        self._generate(tokens, count)

    def _generate(self, tokens: Sequence[int], count: int, **more: Any) -> None:
        ids = torch.tensor([tokens])
        self.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            **more,
        )


def module_in(subject: Subject, dtype: str) -> Any:
    """The subject's module in a number format: itself, or a copy that its columns share."""
    held = subject.__dict__.setdefault("modules", {str(subject.module.dtype).removeprefix("torch."): subject.module})
    if dtype not in held:
        import copy

        held[dtype] = copy.deepcopy(subject.module).to(PLAIN[dtype])
    return held[dtype]


def peers(subject: Subject) -> list[Column]:
    """The columns of other engines, where `bench.peers` is there to make some."""
    if importlib.util.find_spec("bench.peers") is None:
        return []
    found: list[Column] = importlib.import_module("bench.peers").columns(subject)
    return found
