"""How many threads of the CPU a pass takes: all that make it faster, and one while other programs want the cores.

Threads of one pass wait for each other at every layer, so a core that is taken away from one of them stops all: where
all cores are busy two threads are up to fifteen times slower than one, where they are idle up to 1.7 times as fast
(`bench.threads`). So one core is left to others always, the count is found when a model is loaded, and then watched: a
pass that takes far too long, or two that one thread would have done sooner, and it is one; now and then more are tried
again, less often where that was in vain. Belongs to the engine thread; knows no torch.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable

MOST = 8  # threads; a token has too little work for more
_BAD = 2  # passes in a row that give a count up
_STALLED = 5.0  # times the usual: one such pass is enough
_TRIED = 3  # passes that a trial takes
_PAUSES = (2.0, 300.0)  # seconds between trials, at least and at most
_MARGIN = 1.2  # times what one thread is expected to take, until a pass counts as bad
_FORGETS = 1.02  # by which the best time of a pass grows with each: texts become longer


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def counts() -> tuple[int, ...]:
    """The counts worth trying, most likely the best first: half of the cores, as many are twins; all but one; one."""
    return tuple(dict.fromkeys(min(max(1, count), MOST) for count in (cores() // 2, cores() - 1, 1)))


class Threads:
    """The count that passes should take now.

    Args:
        count: the only one, by the user's wish or because nothing was measured.
        clock: seconds.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = self._most = count
        self._clock = clock
        self._gain = 1.0  # what one thread takes, in times of what most take
        self._quick = 0.0  # a pass by most, where nothing disturbs it
        self._bad = 0
        self._alone: deque[float] = deque(maxlen=5)
        self._trial: list[float] = []
        self._pause, self._next = _PAUSES[0], 0.0

    def measured(self, seconds: dict[int, float]) -> None:
        """Take in what a pass took by each count; the fastest is used."""
        most = {count: taken for count, taken in seconds.items() if count > 1}
        if not most or 1 not in seconds:
            return
        self._most = min(most, key=most.__getitem__)
        self._quick = most[self._most]
        self._gain = max(seconds[1] / self._quick, 1.0)
        self._alone.append(seconds[1])
        self.count = self._most if self._quick < seconds[1] else 1
        self._next = self._clock() + self._pause

    def learn(self, seconds: float) -> None:
        """Take in what a pass over one token took with ``count`` threads."""
        if self._most == 1 or not self._quick:
            return
        if self._trial or self.count == 1:
            self._learn_alone(seconds)
            return
        self._quick = min(seconds, self._quick * _FORGETS)
        self._bad = self._bad + 1 if seconds > _MARGIN * self._gain * self._quick else 0
        if self._bad >= _BAD or seconds > _STALLED * self._quick:
            self._give_up()

    def _learn_alone(self, seconds: float) -> None:
        """One thread works, or a trial runs of more."""
        if self.count == 1:
            self._alone.append(seconds)
            if self._clock() >= self._next:
                self.count, self._trial = self._most, [0.0]  # a place for the first, which wakes the threads up
            return
        self._trial.append(seconds)
        if len(self._trial) <= _TRIED:
            if seconds > 3 * statistics.median(self._alone):  # in vain already
                self._give_up()
            return
        taken = statistics.median(self._trial[2:])
        if taken < statistics.median(self._alone):
            self._gain = max(statistics.median(self._alone) / taken, 1.0)
            self._quick, self._bad, self._trial, self._pause = taken, 0, [], _PAUSES[0]
        else:
            self._give_up()

    def _give_up(self) -> None:
        if self._trial:
            self._pause = min(2 * self._pause, _PAUSES[1])
        else:
            self._alone.clear()
            self._alone.append(self._gain * self._quick)
        self.count, self._trial, self._bad = 1, [], 0
        self._next = self._clock() + self._pause
