"""How long an automatic request waits for the next key: a debounce that adapts to who types and to what answers.

A request that a key overtakes costs the engine's time for nothing; waiting costs the user's. So nothing waits while
answers come before the next key, and where they come later, a request waits until a pause is likely. Belongs to the
loop thread. Times are seconds.
"""

from __future__ import annotations

_PAUSE = 1.0  # a longer interval is no typing
_SHARE = 0.2  # of what is new in a mean that forgets
_LONGER = 1.3  # than the usual interval: by then a pause has begun, as like as not
_MOST = 0.25


class AdaptiveDebounce:
    """Means of the intervals between keys and of how long suggestions took."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._interval: float | None = None
        self._latency: float | None = None

    def key(self, now: float) -> None:
        """A key was struck."""
        if (interval := now - self._last) < _PAUSE:
            self._interval = _mixed(self._interval, interval)
        self._last = now

    def answered(self, seconds: float) -> None:
        """The engine took so long for a suggestion."""
        self._latency = _mixed(self._latency, seconds)

    def delay(self, now: float) -> float:
        """How long to wait from now on, where the last key was struck before."""
        if self._interval is None or self._latency is None or self._latency <= self._interval:
            return 0.0
        return max(0.0, min(_LONGER * self._interval, _MOST) - (now - self._last))


def _mixed(mean: float | None, new: float) -> float:
    return new if mean is None else mean + _SHARE * (new - mean)
