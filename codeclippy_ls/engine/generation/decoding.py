"""Decoding one text: which tokens to run next, and what to make of the model's answer.

The prompt is read in chunks (``reading``); then a ``Stream`` says what it wants read (`feed`) and takes what the model
says (`take`), in turns. Who runs it can run several side by side, stream, cancel, pre-empt and time them: "ask it again
or don't". A turn is one choice with the tokens that it forces, and all choices for which a draft turned out right.
Greedy output equals transformers' ``generate`` token for token in float32, with drafts or without. Knows nothing of
text, documents or where prompts come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from codeclippy_ls.engine.generation.drafting import LONGEST, Lookup, Trust, best_length
from codeclippy_ls.engine.generation.kv_cache import Feed, Prefix, common_length

# A cancel waits for one chunk at most; below 128 tokens chunking costs 17 % of the prefill, at 256 about 1 %.
CHUNK = 192


class Constraint(Protocol):
    """An immutable state that says which tokens may follow."""

    def allowed(self) -> Sequence[int] | None:
        """Ids that may come next; ``None`` is all, empty is that nothing can follow."""

    def branches(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """Ids that may come next, in groups that mean the same; nothing where each stands for itself.

        The model weighs the groups, not the ways to write them. The second of a pair is the id to go on with where its
        group was chosen, ``None`` where the model chooses within the group.
        """

    def melted(self) -> tuple[Sequence[int], Sequence[int]]:
        """Ids that may not come, and for each the one that begins as it does and takes its probability over."""

    def step(self, token: int) -> Constraint | None:
        """The state after an allowed token; ``None`` where nothing is constrained any longer."""

    def forced(self) -> Sequence[int]:
        """Ids that can only follow from here, to be fed without being sampled; may be empty."""

    def draft(self, most: int) -> Sequence[int]:
        """Ids that may well follow from here; a guess, to be checked. May be empty."""


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens that a turn accepted. ``logprob`` is natural, of its ``chosen`` choices among what was allowed."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    chosen: int = 0


class Chooser:
    """Picks the next token from logits, greedily or by a seeded random generator of its own."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._random = torch.Generator().manual_seed(seed)
        self._allowed: Sequence[int] | None = None
        self._ids: torch.Tensor | None = None

    def choose(self, logits: torch.Tensor, constraint: Constraint | None) -> tuple[int | None, float]:
        """A token and the log-probability of the choice; no token where none is allowed.

        Args:
            logits: shape (vocabulary,).
        """
        if constraint is None:
            return self._pick(logits)
        allowed = constraint.allowed()
        if allowed is None:
            return self._pick(logits)
        if not len(allowed):
            return None, 0.0
        logits = _melted(logits, constraint.melted())
        if branches := constraint.branches():
            return self._branch(logits, branches)
        if allowed is not self._allowed or self._ids is None:  # the same large set comes again and again
            self._allowed, self._ids = allowed, torch.tensor(allowed, device=logits.device)
        index, logprob = self._pick(logits[self._ids])
        return int(self._ids[index]), logprob

    def _branch(self, logits: torch.Tensor, branches: Sequence[tuple[Sequence[int], int | None]]) -> tuple[int, float]:
        """A token of the branch that is chosen by its mass."""
        ids = torch.tensor([id for group, _ in branches for id in group], device=logits.device)
        parts = logits[ids].split([len(group) for group, _ in branches])
        index, logprob = self._pick(torch.stack([torch.logsumexp(part, 0) for part in parts]))
        group, only = branches[index]
        if only is not None:
            return only, logprob
        within, more = self._pick(parts[index])
        return group[within], logprob + more

    def _pick(self, logits: torch.Tensor) -> tuple[int, float]:
        if self._temperature <= 0:
            peak, place = logits.max(0)  # argmax takes twice as long on a CPU, logsumexp as well
            return int(place), -math.log(float((logits - peak).exp_().sum()))
        index = self._sample(logits / self._temperature)
        return index, float(logits[index] - torch.logsumexp(logits, 0))

    def _sample(self, logits: torch.Tensor) -> int:
        probabilities, order = torch.softmax(logits.cpu(), -1).sort(descending=True)
        # The nucleus: the fewest tokens whose mass reaches top_p, the first always among them.
        outside = probabilities.cumsum(-1) - probabilities >= self._top_p
        outside[0] = False
        probabilities[outside] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=self._random)])


def _melted(logits: torch.Tensor, pairs: tuple[Sequence[int], Sequence[int]]) -> torch.Tensor:
    """The logits with the mass of tokens that may not come added to those that begin as they do."""
    if not pairs[0]:
        return logits
    gone, heirs = torch.tensor(pairs, device=logits.device)
    peak = logits.max()
    mass = (logits - peak).exp()
    return (mass.index_add(0, heirs, mass[gone])).log() + peak


def reading(prefix: Prefix, tokens: Sequence[int]) -> Iterator[Feed]:
    """Read all of ``tokens`` that ``prefix`` does not hold yet, in chunks; only after the last are logits wanted.

    Who runs a feed counts its tokens to ``prefix.tokens``, in one step, so that the two never differ.
    """
    while (start := len(prefix.tokens)) < len(tokens):
        chunk = tokens[start : start + CHUNK]
        yield Feed(chunk, prefix.cache, int(start + len(chunk) == len(tokens)))


class Stream:
    """One text in the making: first `take` for the prompt's last logits, then `feed` and `take` in turns until `ended`.

    ``finished`` is whether the model ended it, by itself or because nothing could follow. ``opening`` is what can only
    come first: it is to be read with the prompt. The prefix always holds what its ``tokens`` say, also where the stream
    is dropped between two turns.

    Args:
        prefix: what the text continues; holds prompt and opening when `take` is first called.
        room: most tokens of the text.
        ends: ids that end it.
        cost: of a pass over n tokens, in passes over one, by which drafts are measured; ``None`` for no drafts.
    """

    def __init__(
        self,
        prefix: Prefix,
        constraint: Constraint | None,
        ends: frozenset[int],
        chooser: Chooser,
        room: int,
        cost: Callable[[int], float] | None = None,
    ) -> None:
        self.prefix = prefix
        self.ended = False
        self.finished = False
        self.opening = tuple(constraint.forced() if constraint is not None else ())[:room]
        self._constraint = _after(constraint, self.opening)
        self._ends = ends
        self._chooser = chooser
        self._room = room - len(self.opening)
        self._cost = cost
        self._due = self.opening  # accepted and not told
        self._unread: Sequence[int] = ()  # accepted and not read
        self._draft: Sequence[int] = ()
        self._lookup: Lookup | None = None
        # Guesses of the constraint are right more often than those of the lookup.
        self._known, self._looked = Trust(0.9), Trust(0.5)
        self._trust = self._known

    def feed(self) -> Feed:
        """What to run: what was accepted last, and a draft; of a long run of forced tokens only the next chunk."""
        if len(self._unread) > CHUNK:
            return Feed(self._unread[:CHUNK], self.prefix.cache, 0)
        self._draft = self._drafted() if self._cost is not None else ()
        return Feed((*self._unread, *self._draft), self.prefix.cache, len(self._draft) + 1)

    def _drafted(self) -> Sequence[int]:
        assert self._cost is not None
        most = min(LONGEST, self._room - 1)
        self._trust = self._known
        draft: Sequence[int] = self._constraint.draft(most) if self._constraint is not None else ()
        if not draft:
            if self._lookup is None:
                self._lookup = Lookup((*self.prefix.tokens, *self._unread))
            self._trust, draft = self._looked, self._lookup.following(most)
        return draft[: best_length(self._trust.share, self._cost, most)] if draft else ()

    def take(self, logits: torch.Tensor) -> Step:
        """Choose by the logits after each head of the draft, the empty one first, for as long as the draft is right.

        Args:
            logits: shape (rows that were asked for, vocabulary).
        """
        if not len(logits):
            self.prefix.tokens.extend(self._unread[:CHUNK])
            self._unread = self._unread[CHUNK:]
            return Step()
        sure = len(self.prefix.tokens) + len(self._unread)
        self.prefix.tokens.extend((*self._unread, *self._draft))
        made: list[int] = []
        logprob, chosen, right = 0.0, 0, 0
        while right == len(made) < self._room:
            token, score = self._chooser.choose(logits[right], self._constraint)
            chosen, logprob = chosen + 1, logprob + score
            if token is None or token in self._ends:
                self.ended = self.finished = True
                break
            made += self._accepted(token)
            right += common_length(self._draft[right:], made[right:])
        if self._draft:
            self._trust.learn(right, wrong=right < len(self._draft))
        self.prefix.crop(sure + right)
        del made[self._room :]
        self._room -= len(made)
        self.ended = self.ended or self._room <= 0
        self._unread, self._draft = made[right:], ()
        if self._lookup is not None:
            self._lookup.extend(made)
        step, self._due = Step((*self._due, *made), logprob, chosen), ()
        return step

    def _accepted(self, token: int) -> Sequence[int]:
        """A chosen token with what it forces; the constraint moves on."""
        self._constraint = _after(self._constraint, (token,))
        forced = self._constraint.forced() if self._constraint is not None else ()
        self._constraint = _after(self._constraint, forced)
        return (token, *forced)


def _after(constraint: Constraint | None, tokens: Sequence[int]) -> Constraint | None:
    for token in tokens:
        if constraint is None:
            break
        constraint = constraint.step(token)
    return constraint


Forward = Callable[[Sequence[Feed]], Sequence[torch.Tensor]]


def decoded(forward: Forward, stream: Stream, prompt: Sequence[int]) -> Iterator[Step]:
    """The turns of a stream that runs by itself; empty steps while the prompt is read."""
    for feed in reading(stream.prefix, (*prompt, *stream.opening)):
        (logits,) = forward([feed])
        stream.prefix.tokens.extend(feed.tokens)
        yield Step()
    yield stream.take(logits)
    while not stream.ended:
        (logits,) = forward([stream.feed()])
        yield stream.take(logits)
