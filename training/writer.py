"""An exported model that writes: bits for given text, and answers to many prompts at once.

Prompts are batched, padded on the left, read once and continued from the KV cache; of one prompt many samples can be
drawn. A model that has this project's control tokens is asked in its infill format; any other one continues the text
before the cursor, and its last word or blanks are given back to it to write again (token healing: without it a prompt
that ends inside a token leads nowhere).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from codeclippy_ls.engine.loading.models import load
from codeclippy_ls.inference.spec import ModelSpec
from training import samples
from training.tokenizer import CONTROL_TOKENS, load_plain_tokenizer

MAX_CONTEXT = 1024  # tokens at once, also by a model that could take more: the shipped one's window
BATCH_SIZE = 16  # on one core with bf16 four times as fast per token as one by one; 64 gained nothing more
HEALING_PREFIX = re.compile(r"\s{1,64}\Z| ?\w{1,40}\Z")

IsFinished = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, and the text that the answer must begin with and that is not part of it."""

    prompt_ids: tuple[int, ...]
    healing_prefix: str = ""
    is_finished: IsFinished = lambda text: False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many answers to each prompt, and how they are drawn; a temperature of 0 is greedy."""

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
        """Bits to predict a text, read in windows; each window starts from nothing."""
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

    def make_request(self, prefix: str, suffix: str, finished: IsFinished, limit: int) -> GenerationRequest:
        """The prompt for a cursor, cut to the window: the prefix at its start."""
        heal = ""
        if not self.supports_infill:
            found = HEALING_PREFIX.search(prefix[-128:])
            heal = found.group() if found else ""
            prefix = prefix[: len(prefix) - len(heal)]
        while True:
            ids = (
                samples.make_spm_infill(self.encode, prefix, "", suffix).ids[:-1]
                if self.supports_infill
                else self.encode(prefix)
            )
            if len(ids) <= self.context_length - limit:
                return GenerationRequest(tuple(ids) or (min(self.stop_token_ids),), heal, finished)
            prefix, suffix = prefix[len(prefix) // 8 + 1 :], suffix[: len(suffix) * 7 // 8]

    def generate(self, asked: Sequence[GenerationRequest], limit: int, sampling: Sampling = GREEDY) -> list[list[str]]:
        """The answers to each prompt, up to an end token, the prompt's own end, or a number of tokens."""
        answers: list[list[str]] = [[] for _ in asked]
        order = sorted(range(len(asked)), key=lambda i: len(asked[i].prompt_ids))
        size = max(1, BATCH_SIZE * 4 // sampling.count) if sampling.count > 1 else BATCH_SIZE
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            found = GenerationBatch(self, [asked[i] for i in chosen], limit, sampling).run()
            for number, i in enumerate(chosen):
                answers[i] = found[number * sampling.count : (number + 1) * sampling.count]
        return answers

    def generate_greedy(self, asked: Sequence[GenerationRequest], limit: int) -> list[str]:
        """The greedy answer to each prompt."""
        return [found[0] for found in self.generate(asked, limit)]

    def _find_compatible_tokens(self, wanted: str) -> tuple[int, ...]:
        """Ids whose text begins with the wanted one or is a beginning of it."""
        return tuple(
            i
            for i, text in enumerate(self._decode_vocabulary())
            if text and (text.startswith(wanted) or wanted.startswith(text))
        )

    @lru_cache  # noqa: B019 (a handful of models, all kept to the end)
    def _decode_vocabulary(self) -> list[str]:
        return [self.tokenizer.decode([i]) for i in range(self.tokenizer.get_vocab_size())]


class GenerationBatch:
    """Rows that are written together; a row that is finished leaves."""

    def __init__(self, model: Model, asked: Sequence[GenerationRequest], limit: int, sampling: Sampling) -> None:
        self.model, self.sampling, self.limit = model, sampling, limit
        self.rows = [one for one in asked for _ in range(sampling.count)]
        self.generated_ids: list[list[int]] = [[] for _ in self.rows]
        self.random = torch.Generator().manual_seed(sampling.seed)
        self.prompts = [one.prompt_ids for one in asked]

    @torch.inference_mode()
    def run(self) -> list[str]:
        """The text of every row, without what was healed."""
        alive = list(range(len(self.rows)))
        steps = self._run_model()
        logits = next(steps)
        for _ in range(self.limit):
            tokens = self._choose_tokens(logits, alive)
            going = [at for at, row in enumerate(alive) if self._accept_token(row, int(tokens[at]))]
            if not going:
                break
            alive = [alive[at] for at in going]
            logits = steps.send((tokens[going], going))
        decode = self.model.tokenizer.decode
        texts = [str(decode(ids)) for ids in self.generated_ids]
        return [text[len(row.healing_prefix) :] for text, row in zip(texts, self.rows, strict=True)]

    def _accept_token(self, row: int, token: int) -> bool:
        """Keep a row's token, unless it ends the row."""
        if token in self.model.stop_token_ids:
            return False
        written, asked = self.generated_ids[row], self.rows[row]
        written.append(token)
        if len(written) + len(asked.prompt_ids) >= self.model.context_length:
            return False
        text = str(self.model.tokenizer.decode(written))
        return len(text) < len(asked.healing_prefix) or not asked.is_finished(text[len(asked.healing_prefix) :])

    def _run_model(self) -> Any:
        """Logits of the rows that are alive; is sent their tokens and which of them go on."""
        network, count = self.model.module, self.sampling.count
        width = max(map(len, self.prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in self.prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in self.prompts])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        result = network(ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
        cache, logits, places = result.past_key_values, result.logits[:, -1], places[:, -1:]
        if count > 1:
            cache.batch_repeat_interleave(count)
            logits, mask, places = (x.repeat_interleave(count, 0) for x in (logits, mask, places))
        while True:
            tokens, going = yield logits.float()
            if len(going) < len(mask):
                index = torch.tensor(going)
                cache.batch_select_indices(index)
                mask, places = mask[index], places[index]
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], 1)
            places = places + 1
            result = network(
                tokens[:, None],
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = result.logits[:, -1]

    def _choose_tokens(self, logits: torch.Tensor, alive: Sequence[int]) -> torch.Tensor:
        for at, allowed in self._iter_healing_constraints(alive):
            kept = logits[at, allowed].clone()
            logits[at] = -math.inf
            logits[at, allowed] = kept
        if not self.sampling.temperature:
            return logits.argmax(-1)
        return sample_top_p(logits, self.sampling, self.random)

    def _iter_healing_constraints(self, alive: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Rows that have yet to write what was cut from their prompts, and the ids they may use."""
        for at, row in enumerate(alive):
            heal, written = self.rows[row].healing_prefix, self.generated_ids[row]
            if heal and len(text := str(self.model.tokenizer.decode(written)) if written else "") < len(heal):
                if allowed := self.model.find_compatible_tokens(heal[len(text) :]):
                    yield at, list(allowed)


def sample_top_p(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """One token per row from the smallest set of tokens that holds `top_p` of the probability."""
    chances, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    chances[chances.cumsum(-1) - chances > sampling.top_p] = 0.0
    return order.gather(-1, torch.multinomial(chances, 1, generator=generator)).squeeze(-1)
