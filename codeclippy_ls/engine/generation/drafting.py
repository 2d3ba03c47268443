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


class Cost:
    """What a pass over so many tokens takes, in passes over one: measured, and learned on from the passes that are run.

    Seconds are kept at a few points and interpolated between. What was not measured yet is taken as measured on common
    CPUs, on the low side: it is tried, and then known.
    """

    POINTS = (1, 2, 4, 8, 16, 32, 64)

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._table: dict[int, float] = {}
        self._news = 0

    def __call__(self, tokens: int) -> float:
        found = self._table.get(tokens)
        if found is None:
            self._table[tokens] = found = self._interpolated(tokens)
        return found

    def learn(self, tokens: int, seconds: float) -> None:
        """Take in what a pass took; one that others disturbed counts for little."""
        if not 0 < tokens <= self.POINTS[-1]:
            return
        point = min(self.POINTS, key=lambda point: abs(point - tokens) / point)
        seconds *= self(point) / self(tokens)
        known = self._seconds.get(point, seconds)
        first = point not in self._seconds
        self._seconds[point] = known + (0.3 if seconds < known else 0.1) * (min(seconds, 2 * known) - known)
        self._news += 1
        if first or self._news >= 32:  # the table costs as much as a short pass's overhead
            self._table, self._news = {}, 0

    def _interpolated(self, tokens: int) -> float:
        above = next((point for point in self.POINTS if point >= tokens), self.POINTS[-1])
        index = max(self.POINTS.index(above), 1)
        left, right = self.POINTS[index - 1], self.POINTS[index]
        low, high = self._at(left), self._at(right)
        return low + (high - low) * (tokens - left) / (right - left)

    def _at(self, point: int) -> float:
        one, here = self._seconds.get(1), self._seconds.get(point)
        return 1 + 0.06 * (point - 1) if one is None or here is None else max(here / one, 0.5)
