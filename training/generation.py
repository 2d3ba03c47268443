"""Measure the bits of texts and generate answers to batches of prompts with an exported model.

Prompts are padded on the left, prefilled once and continued from the KV cache; one prompt can have several samples. A
model with this project's control tokens gets prompts in its infill format. Any other model continues the text before
the cursor, and has to generate the last word or whitespace of the prompt again (token healing: a prompt that ends
inside a token leads to wrong continuations).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.inference.spec import ModelSpec
from training import samples
from training.tokenizer import CONTROL_TOKENS, load_plain_tokenizer

MAX_CONTEXT = 1024  # tokens, also for a model with more: the context length of the shipped one
BATCH_SIZE = 16  # four times as fast per token as a single prompt (one core, bf16); 64 is no faster
HEALING_PREFIX = re.compile(r"\s{1,64}\Z| ?\w{1,40}\Z")

IsFinished = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, the text cut from it that generation must begin with, and when to stop."""

    prompt_ids: tuple[int, ...]
    healing_prefix: str = ""
    is_finished: IsFinished = lambda text: False


@dataclass(frozen=True, slots=True)
class Sampling:
    """The number of samples per prompt and the sampling parameters; a temperature of 0 is greedy."""

    count: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 1


GREEDY = Sampling()


class Model:
    """An exported model with its tokenizer, loaded as the server loads it on a CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        loaded = load(ModelSpec(str(folder.resolve()), "cpu", "auto", torch.get_num_threads()), native=False)
        self.module: Any = loaded.module
        self.tokenizer: Tokenizer = load_plain_tokenizer(folder)
        self.encode = samples.load_encoder(folder)
        self.context_length = min(loaded.context_length, MAX_CONTEXT)
        self.stop_token_ids = frozenset(loaded.stop_token_ids)
        added = {token["content"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
        self.supports_infill = added.issuperset(CONTROL_TOKENS)
        self.find_compatible_tokens: Callable[[str], tuple[int, ...]] = lru_cache(4096)(self._find_compatible_tokens)

    def measure_bits(self, text: str) -> float:
        """Sum the bits to predict a text, in windows of the context length that know nothing of each other."""
        ids = [min(self.stop_token_ids), *self.encode(text)]
        return sum(
            self._measure_window_bits(ids[at : at + self.context_length])
            for at in range(0, len(ids) - 1, self.context_length - 1)
        )

    @torch.inference_mode()
    def _measure_window_bits(self, ids: Sequence[int]) -> float:
        given = torch.tensor([list(ids)])
        logits = self.module(given).logits[0, :-1].float()
        return float(torch.nn.functional.cross_entropy(logits, given[0, 1:], reduction="sum")) / math.log(2)

    def make_request(self, prefix: str, suffix: str, is_finished: IsFinished, limit: int) -> GenerationRequest:
        """Make the prompt for a cursor; cut off the start of the prefix and the end of the suffix if it is too long."""
        healing = ""
        if not self.supports_infill:
            found = HEALING_PREFIX.search(prefix[-128:])
            healing = found.group() if found else ""
            prefix = prefix[: len(prefix) - len(healing)]
        while True:
            ids = (
                samples.make_spm_infill(self.encode, prefix, "", suffix).ids[:-1]
                if self.supports_infill
                else self.encode(prefix)
            )
            if len(ids) <= self.context_length - limit:
                return GenerationRequest(tuple(ids) or (min(self.stop_token_ids),), healing, is_finished)
            prefix, suffix = prefix[len(prefix) // 8 + 1 :], suffix[: len(suffix) * 7 // 8]

    def generate(
        self, requests: Sequence[GenerationRequest], limit: int, sampling: Sampling = GREEDY
    ) -> list[list[str]]:
        """Generate the samples of each prompt, up to a stop token, `is_finished` or `limit` tokens."""
        answers: list[list[str]] = [[] for _ in requests]
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        size = max(1, BATCH_SIZE * 4 // sampling.count) if sampling.count > 1 else BATCH_SIZE
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            texts = GenerationBatch(self, [requests[i] for i in chosen], limit, sampling).run()
            for number, i in enumerate(chosen):
                answers[i] = texts[number * sampling.count : (number + 1) * sampling.count]
        return answers

    def generate_greedy(self, requests: Sequence[GenerationRequest], limit: int) -> list[str]:
        """Generate the greedy answer to each prompt."""
        return [found[0] for found in self.generate(requests, limit)]

    def _find_compatible_tokens(self, wanted: str) -> tuple[int, ...]:
        """Find the ids whose text starts with `wanted` or is a prefix of it."""
        return tuple(
            i
            for i, text in enumerate(self._decode_vocabulary())
            if text and (text.startswith(wanted) or wanted.startswith(text))
        )

    @lru_cache  # noqa: B019 (few models, all kept until the end)
    def _decode_vocabulary(self) -> list[str]:
        return [self.tokenizer.decode([i]) for i in range(self.tokenizer.get_vocab_size())]


class GenerationBatch:
    """Rows that are generated together; a finished row leaves the batch."""

    def __init__(self, model: Model, requests: Sequence[GenerationRequest], limit: int, sampling: Sampling) -> None:
        self.model, self.sampling, self.limit = model, sampling, limit
        self.rows = [one for one in requests for _ in range(sampling.count)]
        self.generated_ids: list[list[int]] = [[] for _ in self.rows]
        self.random = torch.Generator().manual_seed(sampling.seed)
        self.prompts = [one.prompt_ids for one in requests]

    @torch.inference_mode()
    def run(self) -> list[str]:
        """Generate all rows and return their texts without the healing prefix."""
        active = list(range(len(self.rows)))
        steps = self._run_model()
        logits = next(steps)
        for _ in range(self.limit):
            tokens = self._choose_tokens(logits, active)
            continuing = [at for at, row in enumerate(active) if self._accept_token(row, int(tokens[at]))]
            if not continuing:
                break
            active = [active[at] for at in continuing]
            logits = steps.send((tokens[continuing], continuing))
        decode = self.model.tokenizer.decode
        texts = [str(decode(ids)) for ids in self.generated_ids]
        return [text[len(row.healing_prefix) :] for text, row in zip(texts, self.rows, strict=True)]

    def _accept_token(self, row: int, token: int) -> bool:
        """Append a token to a row; return False if the row is finished."""
        if token in self.model.stop_token_ids:
            return False
        generated, request = self.generated_ids[row], self.rows[row]
        generated.append(token)
        if len(generated) + len(request.prompt_ids) >= self.model.context_length:
            return False
        text = str(self.model.tokenizer.decode(generated))
        return len(text) < len(request.healing_prefix) or not request.is_finished(text[len(request.healing_prefix) :])

    def _run_model(self) -> Generator[torch.Tensor, tuple[torch.Tensor, list[int]], None]:
        """Yield the logits of the active rows; receive their tokens and the indices of the rows that continue."""
        network, count = self.model.module, self.sampling.count
        width = max(map(len, self.prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in self.prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in self.prompts])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        result = network(ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache, logits, positions = result.past_key_values, result.logits[:, -1], positions[:, -1:]
        if count > 1:
            cache.batch_repeat_interleave(count)
            logits, mask, positions = (x.repeat_interleave(count, 0) for x in (logits, mask, positions))
        while True:
            tokens, continuing = yield logits.float()
            if len(continuing) < len(mask):
                index = torch.tensor(continuing)
                cache.batch_select_indices(index)
                mask, positions = mask[index], positions[index]
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], 1)
            positions = positions + 1
            result = network(
                tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = result.logits[:, -1]

    def _choose_tokens(self, logits: torch.Tensor, active: Sequence[int]) -> torch.Tensor:
        for at, allowed in self._iter_healing_constraints(active):
            kept = logits[at, allowed].clone()
            logits[at] = -math.inf
            logits[at, allowed] = kept
        if not self.sampling.temperature:
            return logits.argmax(-1)
        return sample_top_p(logits, self.sampling, self.random)

    def _iter_healing_constraints(self, active: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the rows that have not generated their healing prefix yet, and the ids they may use."""
        for at, row in enumerate(active):
            healing, written = self.rows[row].healing_prefix, self.generated_ids[row]
            if healing and len(text := str(self.model.tokenizer.decode(written)) if written else "") < len(healing):
                if allowed := self.model.find_compatible_tokens(healing[len(text) :]):
                    yield at, list(allowed)


def sample_top_p(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Sample a token per row from the smallest set of tokens with a probability of `top_p`."""
    probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities > sampling.top_p] = 0.0
    return order.gather(-1, torch.multinomial(probabilities, 1, generator=generator)).squeeze(-1)
