"""Drafts: tokens that probably come next, verified in one pass instead of being sampled one by one.

There is no draft model. Code repeats itself, so the tokens that followed the last occurrence of the current n-gram are
a good guess (prompt lookup); constraints that know more make better ones. How long a draft should be follows from how
often drafts were right and from the cost of a longer pass: ``optimal_draft_length``. Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

MAX_DRAFT_LENGTH = 48
_DECAY = 0.9  # weight of the past in the running acceptance rate


class NgramProposer:
    """Index of the last occurrence of each pair and triple of tokens in a growing sequence."""

    def __init__(self, token_ids: Sequence[int] = ()) -> None:
        self._token_ids: list[int] = []
        self._next_index: dict[tuple[int, ...], int] = {}
        self.extend(token_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Append tokens to the sequence."""
        for token_id in token_ids:
            # An n-gram is indexed one token late, when something follows it: else it would be its own last occurrence.
            size = len(self._token_ids)
            for length in (2, 3):
                if size >= length:
                    self._next_index[tuple(self._token_ids[size - length :])] = size
            self._token_ids.append(token_id)

    def propose(self, limit: int) -> list[int]:
        """Return what followed the last three tokens where they occurred before, else the last two; else nothing."""
        for length in (3, 2):
            if (index := self._next_index.get(tuple(self._token_ids[-length:]))) is not None:
                return self._token_ids[index : index + limit]
        return []


class AcceptanceRate:
    """The running share of one kind of drafted tokens that were accepted."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, num_accepted: int, is_rejected: bool) -> None:
        """Count the accepted tokens of a draft, and whether the one after them was rejected."""
        for outcome in [1.0] * num_accepted + [0.0] * is_rejected:
            self.value = _DECAY * self.value + (1 - _DECAY) * outcome


def optimal_draft_length(
    acceptance_rate: float, pass_cost: Callable[[int], float], limit: int = MAX_DRAFT_LENGTH
) -> int:
    """Choose the draft length that yields the most tokens per unit of time.

    A draft of k tokens, each accepted with probability p, yields 1 + p + ... + p^k tokens for the cost of a pass over
    k + 1 of them (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", eq. 1).

    Args:
        acceptance_rate: p.
        pass_cost: cost of a pass over n tokens, in passes over one.
    """
    best, length = 1.0, 0
    expected = power = 1.0
    for k in range(1, limit + 1):
        power *= acceptance_rate
        expected += power
        if (rate := expected / pass_cost(k + 1)) > best:
            best, length = rate, k
    return length


class PassCost:
    """The cost of a pass over n tokens, in passes over one: measured at loading, then updated by the passes that run.

    Seconds are kept at a few lengths and interpolated between. A length without a measurement has the cost measured on
    common CPUs, on the low side: so it is tried, and then known.

    Args:
        seconds: of passes measured before, by number of tokens.
    """

    LENGTHS = (1, 2, 4, 8, 16, 32, 64)

    def __init__(self, seconds: Mapping[int, float] | None = None) -> None:
        self._seconds = {length: value for length, value in (seconds or {}).items() if length in self.LENGTHS}
        self._table: dict[int, float] = {}
        self._updates = 0

    def __call__(self, num_tokens: int) -> float:
        cost = self._table.get(num_tokens)
        if cost is None:
            self._table[num_tokens] = cost = self._interpolate(num_tokens)
        return cost

    @property
    def seconds(self) -> dict[int, float]:
        """The seconds of the passes that were measured, by number of tokens."""
        return dict(self._seconds)

    def update(self, num_tokens: int, seconds: float) -> None:
        """Update the estimate from one measured pass; outliers are down-weighted."""
        if not 0 < num_tokens <= self.LENGTHS[-1]:
            return
        nearest = min(self.LENGTHS, key=lambda length: abs(length - num_tokens) / length)
        seconds *= self(nearest) / self(num_tokens)
        known = self._seconds.get(nearest, seconds)
        is_first = nearest not in self._seconds
        self._seconds[nearest] = known + (0.3 if seconds < known else 0.1) * (min(seconds, 2 * known) - known)
        self._updates += 1
        if is_first or self._updates >= 32:  # filling the table costs as much as a short pass's overhead
            self._table, self._updates = {}, 0

    def _interpolate(self, num_tokens: int) -> float:
        above = next((length for length in self.LENGTHS if length >= num_tokens), self.LENGTHS[-1])
        index = max(self.LENGTHS.index(above), 1)
        left, right = self.LENGTHS[index - 1], self.LENGTHS[index]
        low, high = self._estimate(left), self._estimate(right)
        return low + (high - low) * (num_tokens - left) / (right - left)

    def _estimate(self, length: int) -> float:
        one, here = self._seconds.get(1), self._seconds.get(length)
        return 1 + 0.06 * (length - 1) if one is None or here is None else max(here / one, 0.5)
