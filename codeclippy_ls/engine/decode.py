"""Decoding as a generator of steps: prefill, choose, accept.

Each ``next`` is one step: a chunk of the prompt, or one chosen token with the tokens that it forces. Streaming,
cancelling, pre-empting and timing are "advance it or don't". Greedy output equals transformers' ``generate`` token for
token in float32. Knows nothing of text, documents or where prompts come from.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from codeclippy_ls.engine.cache import Prefix
from codeclippy_ls.engine.models import Model

# A cancel waits for one chunk at most; below 128 tokens chunking costs 17 % of the prefill, at 256 about 1 %.
CHUNK = 192


class Constraint(Protocol):
    """An immutable state that says which tokens may follow."""

    def allowed(self) -> Sequence[int] | None:
        """Ids that may come next; ``None`` is all, empty is that nothing can follow."""

    def step(self, token: int) -> Constraint | None:
        """The state after an allowed token; ``None`` where nothing is constrained any longer."""

    def forced(self) -> Sequence[int]:
        """Ids that can only follow from here, to be fed without being sampled; may be empty."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0, else from the nucleus of mass ``top_p``, by ``seed``."""

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    candidates: int = 1
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens that a step accepted, none while the prompt is read. ``logprob`` is natural, of the chosen token."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    end: bool = False


class Chooser:
    """Picks the next token from logits, greedily or by a seeded random generator of its own."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._random = torch.Generator().manual_seed(seed)
        self._allowed: Sequence[int] | None = None
        self._ids: torch.Tensor | None = None

    def choose(self, logits: torch.Tensor, allowed: Sequence[int] | None) -> tuple[int, float]:
        """A token and its log-probability among the allowed ones."""
        if allowed is None:
            token, logprob = self._pick(logits)
            return token, logprob
        if allowed is not self._allowed or self._ids is None:  # the same large set comes again and again
            self._allowed, self._ids = allowed, torch.tensor(allowed, device=logits.device)
        index, logprob = self._pick(logits[self._ids])
        return int(self._ids[index]), logprob

    def _pick(self, logits: torch.Tensor) -> tuple[int, float]:
        logprobs = torch.log_softmax(logits, -1)
        if self._sampling.temperature <= 0:
            index = int(logits.argmax())
        else:
            index = self._sample(logits / self._sampling.temperature)
        return index, float(logprobs[index])

    def _sample(self, logits: torch.Tensor) -> int:
        probabilities, order = torch.softmax(logits.cpu(), -1).sort(descending=True)
        # The nucleus: the fewest tokens whose mass reaches top_p, the first always among them.
        outside = probabilities.cumsum(-1) - probabilities >= self._sampling.top_p
        outside[0] = False
        probabilities[outside] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=self._random)])


def _prefilled(
    model: Model, prefix: Prefix, tokens: Sequence[int], prompt: int
) -> Generator[Step, None, torch.Tensor]:
    """Run ``tokens`` after the prefix in chunks, with a step after each that the prompt still goes on behind.

    Returns:
        The last token's logits, shape (vocabulary,).
    """
    while True:
        chunk, tokens = tokens[:CHUNK], tokens[CHUNK:]
        logits = model.forward(chunk, prefix.cache)
        prefix.tokens.extend(chunk)
        if not tokens:
            return logits
        if len(prefix.tokens) < prompt:
            yield Step()


def decode(
    model: Model,
    prefix: Prefix,
    prompt: Sequence[int],
    constraint: Constraint | None,
    ends: frozenset[int],
    chooser: Chooser,
    max_tokens: int,
) -> Iterator[Step]:
    """Continue ``prompt``, of which ``prefix`` holds a proper head, until an end token or the budget.

    The prefix always holds what its ``tokens`` say, also where the generator is dropped between two steps.
    """
    pending: Sequence[int] = prompt[len(prefix.tokens) :]
    room = min(max_tokens, model.window - len(prompt))
    while room > 0:
        logits = yield from _prefilled(model, prefix, pending, len(prompt))
        allowed = None if constraint is None else constraint.allowed()
        if allowed is not None and not len(allowed):
            yield Step(end=True)
            return
        token, logprob = chooser.choose(logits, allowed)
        if token in ends:
            yield Step(end=True, logprob=logprob)
            return
        forced: Sequence[int] = ()
        if constraint is not None and (constraint := constraint.step(token)) is not None:
            forced = constraint.forced()
            for other in forced:
                constraint = constraint.step(other) if constraint is not None else None
        tokens = (token, *forced)[:room]
        room -= len(tokens)
        yield Step(tokens, logprob)
        pending = tokens
