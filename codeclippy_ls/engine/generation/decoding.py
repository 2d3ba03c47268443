"""Decoding of one sequence: which tokens to run next, and which tokens to accept from the model's logits.

The prompt is prefilled in chunks (``prefill_chunks``). Then a ``DecodingState`` alternately makes the next input
(`next_input`) and accepts its logits (`accept_logits`). The caller runs the passes, so it can run several sequences
side by side, stream, cancel, pre-empt and time them. A step is one sampled token with the tokens that it forces, and as
many more as a draft predicted correctly. Greedy output equals transformers' ``generate`` token for token in float32,
with drafts or without. Knows nothing of text, documents or where prompts come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from codeclippy_ls.engine.generation.drafting import (
    MAX_DRAFT_LENGTH,
    AcceptanceRate,
    NgramProposer,
    optimal_draft_length,
)
from codeclippy_ls.engine.generation.kv_cache import CachedPrefix, ModelInput, common_prefix_length

# A cancel waits for one chunk at most; below 128 tokens chunking costs 17 % of the prefill, at 256 about 1 %.
PREFILL_CHUNK = 192


class Constraint(Protocol):
    """An immutable state that determines which tokens may follow."""

    def get_allowed_tokens(self) -> Sequence[int] | None:
        """Return the ids that may come next; ``None`` if all may, empty if nothing can follow."""

    def get_choice_groups(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """Return the ids that may come next in groups of the same meaning; empty if each id stands for itself.

        The model weighs the groups, not the spellings within them. The second item of a pair is the id to continue with
        if its group was sampled; with ``None`` the model samples within the group.
        """

    def get_substitutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return (forbidden, substitute) ids.

        Each forbidden token's probability moves to a substitute that starts with the same bytes.
        """

    def advance(self, token_id: int) -> Constraint | None:
        """Return the state after an allowed token; ``None`` if nothing is constrained any longer."""

    def get_forced_tokens(self) -> Sequence[int]:
        """Return the only ids that can follow, to be run without being sampled; may be empty."""

    def draft(self, limit: int) -> Sequence[int]:
        """Guess up to ``limit`` ids that follow, to be verified; may be empty."""


@dataclass(frozen=True, slots=True)
class DecodingStep:
    """The tokens accepted in one step.

    ``logprob`` is the sum of the natural log-probabilities of ``num_choices`` sampled tokens among the allowed ones.
    """

    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    num_choices: int = 0


class Sampler:
    """Samples the next token from logits, greedily or with a seeded random generator of its own."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._random = torch.Generator().manual_seed(seed)
        self._allowed_tokens: Sequence[int] | None = None
        self._allowed_ids: torch.Tensor | None = None

    def sample(self, logits: torch.Tensor, constraint: Constraint | None) -> tuple[int | None, float]:
        """Sample a token and return it with its log-probability; ``None`` if no token is allowed.

        Args:
            logits: (vocab_size,).
        """
        if constraint is None:
            return self._sample_index(logits)
        allowed_tokens = constraint.get_allowed_tokens()
        if allowed_tokens is None:
            return self._sample_index(logits)
        if not len(allowed_tokens):
            return None, 0.0
        logits = _apply_substitutions(logits, constraint.get_substitutions())
        if groups := constraint.get_choice_groups():
            return self._sample_group(logits, groups)
        if allowed_tokens is not self._allowed_tokens or self._allowed_ids is None:  # the same large set comes often
            self._allowed_tokens = allowed_tokens
            self._allowed_ids = torch.tensor(allowed_tokens, device=logits.device)
        index, logprob = self._sample_index(logits[self._allowed_ids])
        return int(self._allowed_ids[index]), logprob

    def _sample_group(
        self, logits: torch.Tensor, groups: Sequence[tuple[Sequence[int], int | None]]
    ) -> tuple[int, float]:
        """Sample a group by its total probability, then a token of it."""
        ids = torch.tensor([token_id for group, _ in groups for token_id in group], device=logits.device)
        group_logits = logits[ids].split([len(group) for group, _ in groups])
        index, logprob = self._sample_index(torch.stack([torch.logsumexp(part, 0) for part in group_logits]))
        group, only = groups[index]
        if only is not None:
            return only, logprob
        index_within, logprob_within = self._sample_index(group_logits[index])
        return group[index_within], logprob + logprob_within

    def _sample_index(self, logits: torch.Tensor) -> tuple[int, float]:
        if self._temperature <= 0:
            peak, index = logits.max(0)  # argmax takes twice as long on a CPU, logsumexp as well
            return int(index), -math.log(float((logits - peak).exp_().sum()))
        chosen = self._sample_nucleus(logits / self._temperature)
        return chosen, float(logits[chosen] - torch.logsumexp(logits, 0))

    def _sample_nucleus(self, logits: torch.Tensor) -> int:
        probabilities, order = torch.softmax(logits.cpu(), -1).sort(descending=True)
        # The nucleus: the fewest tokens whose total probability reaches top_p, always including the first.
        outside = probabilities.cumsum(-1) - probabilities >= self._top_p
        outside[0] = False
        probabilities[outside] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=self._random)])


def _apply_substitutions(logits: torch.Tensor, pairs: tuple[Sequence[int], Sequence[int]]) -> torch.Tensor:
    """Add the probability of each forbidden token to its substitute's."""
    if not pairs[0]:
        return logits
    forbidden, substitutes = torch.tensor(pairs, device=logits.device)
    peak = logits.max()
    mass = (logits - peak).exp()
    return (mass.index_add(0, substitutes, mass[forbidden])).log() + peak


def prefill_chunks(
    prefix: CachedPrefix, token_ids: Sequence[int], chunk_length: int = PREFILL_CHUNK
) -> Iterator[ModelInput]:
    """Yield inputs for all of ``token_ids`` that ``prefix`` lacks, in chunks; only the last one asks for logits.

    The caller that runs an input appends its tokens to ``prefix.token_ids`` at once, so that the two never differ.
    """
    while (start := len(prefix.token_ids)) < len(token_ids):
        chunk = token_ids[start : start + chunk_length]
        yield ModelInput(chunk, prefix.kv_cache, int(start + len(chunk) == len(token_ids)))


class DecodingState:
    """A sequence that is being generated.

    First `accept_logits` with the prompt's last logits, then `next_input` and `accept_logits` in turns until
    ``is_finished``. The prefix's KV cache always holds exactly its ``token_ids``, even if the state is dropped between
    two steps.

    Args:
        prefix: what the sequence continues; holds the prompt and ``forced_prefix`` before the first `accept_logits`.
        max_tokens: limit of generated tokens.
        stop_token_ids: ids that end the sequence.
        pass_cost: cost of a pass over n tokens, in passes over one, which decides the length of drafts; ``None``
            disables drafts.

    Attributes:
        is_finished: nothing more is to be generated.
        is_complete: the model ended the sequence, or nothing could follow; False if the limit cut it.
        forced_prefix: the only tokens that can come first, to be prefilled with the prompt.
    """

    def __init__(
        self,
        prefix: CachedPrefix,
        constraint: Constraint | None,
        stop_token_ids: frozenset[int],
        sampler: Sampler,
        max_tokens: int,
        pass_cost: Callable[[int], float] | None = None,
    ) -> None:
        self.prefix = prefix
        self.is_finished = False
        self.is_complete = False
        self.forced_prefix = tuple(constraint.get_forced_tokens() if constraint is not None else ())[:max_tokens]
        self._constraint = _advance(constraint, self.forced_prefix)
        self._stop_token_ids = stop_token_ids
        self._sampler = sampler
        self._remaining = max_tokens - len(self.forced_prefix)
        self._pass_cost = pass_cost
        self._unreported = self.forced_prefix  # accepted and not yet returned
        self._pending: Sequence[int] = ()  # accepted and not yet in the KV cache
        self._draft: Sequence[int] = ()
        self._ngram_proposer: NgramProposer | None = None
        # A constraint's guesses are accepted more often than those of the n-gram lookup.
        self._constraint_rate, self._ngram_rate = AcceptanceRate(0.9), AcceptanceRate(0.5)
        self._draft_rate = self._constraint_rate

    def next_input(self) -> ModelInput:
        """Make the next input: the pending tokens and a draft; of a long forced run only the next chunk."""
        if len(self._pending) > PREFILL_CHUNK:
            return ModelInput(self._pending[:PREFILL_CHUNK], self.prefix.kv_cache, 0)
        self._draft = self._propose_draft() if self._pass_cost is not None else ()
        return ModelInput((*self._pending, *self._draft), self.prefix.kv_cache, len(self._draft) + 1)

    def _propose_draft(self) -> Sequence[int]:
        assert self._pass_cost is not None
        limit = min(MAX_DRAFT_LENGTH, self._remaining - 1)
        self._draft_rate = self._constraint_rate
        draft: Sequence[int] = self._constraint.draft(limit) if self._constraint is not None else ()
        if not draft:
            if self._ngram_proposer is None:
                self._ngram_proposer = NgramProposer((*self.prefix.token_ids, *self._pending))
            self._draft_rate, draft = self._ngram_rate, self._ngram_proposer.propose(limit)
        return draft[: optimal_draft_length(self._draft_rate.value, self._pass_cost, limit)] if draft else ()

    def accept_logits(self, logits: torch.Tensor) -> DecodingStep:
        """Sample after the pending tokens, then after each drafted token for as long as the draft is right.

        Args:
            logits: (num_logits that were asked for, vocab_size).
        """
        if not len(logits):
            self.prefix.token_ids.extend(self._pending[:PREFILL_CHUNK])
            self._pending = self._pending[PREFILL_CHUNK:]
            return DecodingStep()
        length_before_draft = len(self.prefix.token_ids) + len(self._pending)
        self.prefix.token_ids.extend((*self._pending, *self._draft))
        accepted: list[int] = []
        logprob, num_choices, num_right = 0.0, 0, 0
        while num_right == len(accepted) < self._remaining:
            token_id, token_logprob = self._sampler.sample(logits[num_right], self._constraint)
            num_choices, logprob = num_choices + 1, logprob + token_logprob
            if token_id is None or token_id in self._stop_token_ids:
                self.is_finished = self.is_complete = True
                break
            accepted += self._accept_token(token_id)
            num_right += common_prefix_length(self._draft[num_right:], accepted[num_right:])
        if self._draft:
            self._draft_rate.update(num_right, is_rejected=num_right < len(self._draft))
        self.prefix.crop(length_before_draft + num_right)
        del accepted[self._remaining :]
        self._remaining -= len(accepted)
        self.is_finished = self.is_finished or self._remaining <= 0
        self._pending, self._draft = accepted[num_right:], ()
        if self._ngram_proposer is not None:
            self._ngram_proposer.extend(accepted)
        step, self._unreported = DecodingStep((*self._unreported, *accepted), logprob, num_choices), ()
        return step

    def _accept_token(self, token_id: int) -> Sequence[int]:
        """Advance the constraint by a sampled token and those that it forces; return them all."""
        self._constraint = _advance(self._constraint, (token_id,))
        forced_tokens = self._constraint.get_forced_tokens() if self._constraint is not None else ()
        self._constraint = _advance(self._constraint, forced_tokens)
        return (token_id, *forced_tokens)


def _advance(constraint: Constraint | None, token_ids: Sequence[int]) -> Constraint | None:
    for token_id in token_ids:
        if constraint is None:
            break
        constraint = constraint.advance(token_id)
    return constraint


def score_line(logits: Sequence[torch.Tensor], token_ids: Sequence[int], end_token_ids: frozenset[int]) -> float:
    """Return the mean log-probability of tokens and of an end behind them.

    Args:
        logits: before each token and behind the last one, each (vocab_size,).
        end_token_ids: the ids that end the line, any of which may follow.
    """
    rows = torch.stack(tuple(logits)).float()
    rows = rows - rows.logsumexp(-1, keepdim=True)
    ends = rows[-1, sorted(end_token_ids)].logsumexp(0)
    total = rows[range(len(token_ids)), list(token_ids)].sum() + ends
    return float(total) / (len(token_ids) + 1)


Forward = Callable[[Sequence[ModelInput]], Sequence[torch.Tensor]]


def generate(forward: Forward, state: DecodingState, prompt: Sequence[int]) -> Iterator[DecodingStep]:
    """Generate one sequence alone; yields an empty step for each prefilled chunk."""
    for chunk in prefill_chunks(state.prefix, (*prompt, *state.forced_prefix)):
        (logits,) = forward([chunk])
        state.prefix.token_ids.extend(chunk.token_ids)
        yield DecodingStep()
    yield state.accept_logits(logits)
    while not state.is_finished:
        (logits,) = forward([state.next_input()])
        yield state.accept_logits(logits)
