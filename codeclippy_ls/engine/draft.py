"""Drafts: tokens that may well come next, to be checked in one pass instead of being chosen one by one.

There is no second model. Code repeats itself, so what followed the last few tokens where they stood before is a good
guess (prompt lookup); constraints that know more make better ones. How long a draft should be follows from how often
drafts were right and from what a longer pass costs: ``best_length``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

LONGEST = 48
_MEMORY = 0.9  # weight of the past in the running share of right guesses


class Lookup:
    """Where each pair and triple of tokens stood last in a growing sequence."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take more tokens in."""
        for token in tokens:
            # The place of an n-gram becomes known one token later, when something follows it.
            size = len(self._tokens)
            for length in (2, 3):
                if size >= length:
                    self._places[tuple(self._tokens[size - length :])] = size
            self._tokens.append(token)

    def following(self, most: int) -> list[int]:
        """What followed the last three tokens, or else the last two, where they stood before; none where not."""
        for length in (3, 2):
            if (place := self._places.get(tuple(self._tokens[-length:]))) is not None:
                return self._tokens[place : place + most]
        return []


class Trust:
    """The running share of guesses of one kind that were right."""

    def __init__(self, share: float) -> None:
        self.share = share

    def learn(self, right: int, wrong: bool) -> None:
        """Take in that ``right`` guesses were, and that the next one was not."""
        for outcome in [1.0] * right + [0.0] * wrong:
            self.share = _MEMORY * self.share + (1 - _MEMORY) * outcome


def best_length(share: float, cost: Callable[[int], float], most: int = LONGEST) -> int:
    """The length of draft that brings the most tokens for its time.

    A draft of k tokens of which each is right with probability p brings 1 + p + ... + p^k tokens for the cost of a pass
    over k + 1 of them (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", eq. 1).

    Args:
        share: p.
        cost: of a pass over n tokens, in passes over one.
    """
    best, length = 1.0, 0
    brought = power = 1.0
    for k in range(1, most + 1):
        power *= share
        brought += power
        if (rate := brought / cost(k + 1)) > best:
            best, length = rate, k
    return length
