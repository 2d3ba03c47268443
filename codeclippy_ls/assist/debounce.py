"""`AdaptiveDebounce`: how long an automatic request waits for the next keystroke.

A request that a keystroke overtakes wastes the engine's time; waiting wastes the user's. So nothing waits while answers
come before the next keystroke. If they come later, a request waits until a pause is likely. Times are seconds.
"""

from __future__ import annotations

_MAX_TYPING_INTERVAL = 1.0  # a longer interval is not typing
_SMOOTHING = 0.2  # weight of a new value in a moving average
_PAUSE_FACTOR = 1.3  # of the usual interval: by then a pause has probably begun
_MAX_DELAY = 0.25


class AdaptiveDebounce:
    """Moving averages of the interval between keystrokes and of the latency. Belongs to the loop thread."""

    def __init__(self) -> None:
        self._last_keystroke = float("-inf")
        self._interval: float | None = None
        self._latency: float | None = None

    def record_keystroke(self, now: float) -> None:
        """Update the typing interval."""
        if (interval := now - self._last_keystroke) < _MAX_TYPING_INTERVAL:
            self._interval = _moving_average(self._interval, interval)
        self._last_keystroke = now

    def is_typing(self, now: float) -> bool:
        """Return whether a key was typed so recently that the user probably still types."""
        return now - self._last_keystroke < _MAX_TYPING_INTERVAL

    def record_latency(self, seconds: float) -> None:
        """Update the latency with how long the engine took for one suggestion."""
        self._latency = _moving_average(self._latency, seconds)

    def delay(self, now: float) -> float:
        """Return how long to wait from ``now`` on."""
        if self._interval is None or self._latency is None or self._latency <= self._interval:
            return 0.0
        return max(0.0, min(_PAUSE_FACTOR * self._interval, _MAX_DELAY) - (now - self._last_keystroke))


def _moving_average(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _SMOOTHING * (value - mean)
