"""Ways to run one model, compared with each other: each is a column of `bench.speed`.

The native decoder in several number formats, transformers' module, and its ``generate``. Other engines are added by
`bench.peers`: if a module of that name exists, its ``list_columns(subject) -> list[Column]`` makes their columns.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from codeclippy_ls.engine.decoder.architectures import compute_weight_shapes, parse_config
from codeclippy_ls.engine.decoder.linear import FLOAT_FORMATS, WeightFormats
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.decoding import PREFILL_CHUNK, DecodingState, Sampler, generate
from codeclippy_ls.engine.generation.kv_cache import CachedPrefix, KVCache, ModelInput, PrefixCache
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.loading.transformers_module import ModuleKVCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8}


@dataclass(frozen=True)
class SubprocessCost:
    """The cost of a run in another process: CPU seconds, and wall-clock seconds that do not count."""

    cpu_seconds: float
    excluded_seconds: float


class Column(Protocol):
    """A model run by one engine, greedily, with as many threads as torch has.

    Attributes:
        name: the column's title.
        bits: of the weights that are read for each decoded token.
        nbytes: memory of the weights.
    """

    name: str
    bits: int
    nbytes: int

    def prefill(self, tokens: Sequence[int]) -> SubprocessCost | None:
        """Prefill a prompt with an empty cache, up to its last token's logits."""

    def decode(self, count: int) -> SubprocessCost | None:
        """Decode ``count`` tokens after the last prefilled prompt, ignoring stop tokens; return to the prompt's end."""


class KeystrokeColumn(Column, Protocol):
    """A column that can complete at a keystroke, as for an editor.

    Attributes:
        reuses_prefix: a keystroke reuses the KV cache of the one before.
    """

    reuses_prefix: bool

    def keystroke(self, tokens: Sequence[int], count: int) -> SubprocessCost | None:
        """Decode ``count`` tokens after a prompt, reusing the engine's cache of earlier prompts."""


class ParallelColumn(Column, Protocol):
    """A column that can run many tokens in one pass."""

    def verify(self, count: int) -> None:
        """Run one pass over ``count`` tokens after the prompt, with the logits of each."""

    def decode_batch(self, count: int) -> None:
        """Run one pass over the next token of ``count`` sequences that share the prompt."""


@dataclass
class Subject:
    """A model to measure: its configuration and weights, as transformers' module in float32 or in bfloat16."""

    name: str
    module: PreTrainedModel

    @property
    def context_length(self) -> int:
        """Maximum tokens of a sequence."""
        return int(self.module.config.max_position_embeddings)

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return int(self.module.num_parameters())

    @cached_property
    def matrix_sizes(self) -> tuple[int, int]:
        """Parameters in the matrices that every token is multiplied by: of the layers, and of the LM head."""
        config = parse_config(self.module.config)
        assert config is not None
        layers = config.architecture.layer_prefix[: -len("{}.")]
        matrices = [
            shape for name, shape in compute_weight_shapes(config).items() if len(shape) == 2 and layers in name
        ]
        return sum(rows * columns for rows, columns in matrices), config.vocab_size * config.hidden_size

    @cached_property
    def folder(self) -> Path:
        """Its checkpoint, written at the first access: for engines that convert one."""
        self.temporary_folder = tempfile.TemporaryDirectory(prefix="bench-")  # as long as the subject
        self.module.save_pretrained(self.temporary_folder.name)
        return Path(self.temporary_folder.name)


class NativeColumn:
    """The native decoder in a number format; it prefills prompts in chunks as the engine does."""

    reuses_prefix = True

    def __init__(self, subject: Subject, formats: WeightFormats, name: str) -> None:
        self.name, self.bits = name, BITS[formats.decode]
        config = subject.module.config
        self._runner = Transformer(config, subject.module.state_dict(), formats)
        self.nbytes = self._runner.nbytes
        self._model = Model(self._runner, None, subject.name)  # type: ignore[arg-type]
        self._prefix_cache = PrefixCache(1 << 30)
        self._prefix = CachedPrefix(self._runner.new_cache())
        self._batch_caches: list[KVCache] = []

    def prefill(self, tokens: Sequence[int]) -> None:
        """Prefill in chunks; only the last token's logits are computed."""
        self._prefix, self._batch_caches = CachedPrefix(self._runner.new_cache(), list(tokens)), []
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = tokens[start : start + PREFILL_CHUNK]
            self._model.forward([ModelInput(chunk, self._prefix.kv_cache, int(start + len(chunk) == len(tokens)))])

    def decode(self, count: int) -> None:
        """Decode by the engine's loop, without drafts: with random weights they would be right too often."""
        prompt = list(self._prefix.token_ids)
        self._prefix.crop(len(prompt) - 1)
        self._generate(self._prefix, prompt, count)
        self._prefix.crop(len(prompt))

    def keystroke(self, tokens: Sequence[int], count: int) -> None:
        """Decode with the prefix cache."""
        prefix = self._prefix_cache.acquire(tokens, self._runner.new_cache)
        self._generate(prefix, tokens, count)
        self._prefix_cache.release(prefix)

    def _generate(self, prefix: CachedPrefix, tokens: Sequence[int], count: int) -> None:
        for _ in generate(self._model.forward, DecodingState(prefix, None, frozenset(), Sampler(), count), tokens):
            pass

    def verify(self, count: int) -> None:
        """Run the pass and crop the cache."""
        length = self._prefix.kv_cache.length
        self._model.forward([ModelInput([5] * count, self._prefix.kv_cache, count)])
        self._prefix.kv_cache.crop(length)

    def decode_batch(self, count: int) -> None:
        """Run the pass; each sequence has a cache of its own."""
        length = self._prefix.kv_cache.length
        while len(self._batch_caches) < count:
            self._batch_caches.append(self._prefix.kv_cache.copy(length))
        self._model.forward([ModelInput([5], cache) for cache in self._batch_caches[:count]])
        for cache in self._batch_caches[:count]:
            cache.crop(length)


class ModuleColumn:
    """transformers' module, called by a hand-written loop."""

    def __init__(self, subject: Subject, dtype: str) -> None:
        self.name, self.bits = f"module {dtype}", BITS[dtype]
        self.module = get_module(subject, dtype)
        self.nbytes = sum(parameter.nbytes for parameter in self.module.parameters())
        self.cache = ModuleKVCache()
        self.prompt: Sequence[int] = ()
        self._batch_caches: dict[int, ModuleKVCache] = {}

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        """Prefill in one pass."""
        self.cache, self.prompt, self._batch_caches = ModuleKVCache(), tokens, {}
        self._run(torch.tensor([tokens]), self.cache, 1)

    @torch.inference_mode()
    def decode(self, count: int) -> None:
        """Decode one by one, greedily."""
        self.cache.crop(len(self.prompt) - 1)
        token = torch.tensor([[self.prompt[-1]]])
        for _ in range(count):
            token = self._run(token, self.cache, 1)[:, -1:].argmax(-1)
        self.cache.crop(len(self.prompt))

    @torch.inference_mode()
    def verify(self, count: int) -> None:
        """Run the pass and crop the cache."""
        self._run(torch.full((1, count), 5), self.cache, count)
        self.cache.crop(len(self.prompt))

    @torch.inference_mode()
    def decode_batch(self, count: int) -> None:
        """Run the pass with the prompt's keys and values repeated."""
        if count not in self._batch_caches:
            self._batch_caches[count] = self.cache.copy(len(self.prompt))
            self._batch_caches[count].layers.batch_repeat_interleave(count)
        self._run(torch.full((count, 1), 5), self._batch_caches[count], 1)
        self._batch_caches[count].crop(len(self.prompt))

    def _run(self, ids: torch.Tensor, cache: ModuleKVCache, num_logits: int) -> torch.Tensor:
        output = self.module(input_ids=ids, past_key_values=cache.layers, use_cache=True, logits_to_keep=num_logits)
        return torch.Tensor(output.logits)


class GenerateColumn(ModuleColumn):
    """transformers' ``generate``."""

    reuses_prefix = False

    def __init__(self, subject: Subject, dtype: str) -> None:
        super().__init__(subject, dtype)
        self.name = f"generate {dtype}"

    def decode(self, count: int) -> None:
        """Continue from the prompt's keys and values."""
        self.cache.crop(len(self.prompt) - 1)
        self._generate(self.prompt, count, past_key_values=self.cache.layers)
        self.cache.crop(len(self.prompt))

    def keystroke(self, tokens: Sequence[int], count: int) -> None:
        """Start with an empty cache."""
        self._generate(tokens, count)

    def _generate(self, tokens: Sequence[int], count: int, **options: Any) -> None:
        ids = torch.tensor([tokens])
        self.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            **options,
        )


def get_module(subject: Subject, dtype: str) -> PreTrainedModel:
    """Get the subject's module in a number format: itself, or a copy that its columns share."""
    modules = subject.__dict__.setdefault("modules", {str(subject.module.dtype).removeprefix("torch."): subject.module})
    if dtype not in modules:
        import copy

        modules[dtype] = copy.deepcopy(subject.module).to(FLOAT_FORMATS[dtype])
    return modules[dtype]


def list_peer_columns(subject: Subject) -> list[Column]:
    """List the columns of other engines, if `bench.peers` exists."""
    if importlib.util.find_spec("bench.peers") is None:
        return []
    columns: list[Column] = importlib.import_module("bench.peers").list_columns(subject)
    return columns
