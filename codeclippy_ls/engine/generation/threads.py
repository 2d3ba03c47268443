"""The number of CPU threads of a pass: as many as help; a single one under CPU contention.

The threads of one pass wait for each other at every layer, so a core that is taken away from one of them stops all:
when all cores are busy two threads are up to fifteen times slower than one, when they are idle up to 1.7 times as fast
(`bench.threads`). So one core is left to other programs, but for large models on two cores, which reading the weights
bounds. The count is measured when a model is loaded, and then watched, layer by layer: a pass that is later than it
would be with one thread goes on with one, and so do the next ones. More threads are tried again from time to time, less
often after each trial that failed. Belongs to the engine thread; knows no torch.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable

MAX_THREADS = 8  # a pass over one token has too little work for more
_MAX_SLOW_PASSES = 2  # in a row, before the count drops to one
_STALL_FACTOR = 5.0  # times the usual pass: one such pass is enough to drop to one thread
_LATE_SHARE = 0.25  # of a usual pass, by which it may be later than with one thread
_TRIAL_PASSES = 3
_LONG_COST = 3.0  # passes over one token: a pass that is worth more threads after a longer one that was not
_RETRY_SECONDS = (0.1, 10.0)  # between trials, minimum and maximum; a failed one costs little more than a pass
_SLOW_FACTOR = 1.2  # times the expected pass with one thread, before a pass counts as slow
_BASELINE_GROWTH = 1.02  # of the usual pass, with every pass: texts become longer
_MIN_MEMORY_BOUND = 100_000_000  # parameters from which a second core is worth more than to leave it to others


def count_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def list_thread_counts(num_parameters: int = 0) -> tuple[int, ...]:
    """List the counts worth trying, most promising first.

    Half the logical cores (many are SMT siblings), all but one, one; for a large model on two cores both.
    """
    if count_cores() == 2 and num_parameters >= _MIN_MEMORY_BOUND:
        return (2, 1)
    return tuple(dict.fromkeys(min(max(1, count), MAX_THREADS) for count in (count_cores() // 2, count_cores() - 1, 1)))


class ThreadCountTuner:
    """Chooses between one thread and the fastest higher count, pass by pass.

    Args:
        count: the fixed count, until `calibrate` is called.
        clock: returns seconds.

    Attributes:
        count: the number of threads that the next pass should have.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = self._full_count = count
        self._clock = clock
        self._speedup = 1.0  # of the full count over one thread
        self._usual_seconds = 0.0  # of an undisturbed pass with the full count; 0 before calibration
        self._slow_passes = 0  # in a row
        self._single_seconds: deque[float] = deque(maxlen=5)  # of the last passes with one thread
        self._trial_seconds: list[float] = []  # of a running trial of the full count
        self._pass_started = 0.0
        self._layers_left, self._num_layers = 0, 1  # of the pass that is watched; without the last one
        self._layer_limit = 0.0  # seconds that a layer may take
        self._has_yielded = False  # the last pass went on with one thread
        self._is_long_trial = False  # the pass that is watched is a trial of the full count
        self._retry_seconds, self._next_trial = _RETRY_SECONDS[0], 0.0

    @property
    def seconds_by_count(self) -> dict[int, float]:
        """The seconds of a pass over one token by number of threads; empty before calibration."""
        if not self._usual_seconds:
            return {}
        return {1: statistics.median(self._single_seconds), self._full_count: self._usual_seconds}

    def calibrate(self, seconds_by_count: dict[int, float]) -> None:
        """Choose the fastest count from measured passes; without a count above one, nothing changes."""
        multiple = {count: seconds for count, seconds in seconds_by_count.items() if count > 1}
        if not multiple or 1 not in seconds_by_count:
            return
        self._full_count = min(multiple, key=multiple.__getitem__)
        self._usual_seconds = multiple[self._full_count]
        self._speedup = max(seconds_by_count[1] / self._usual_seconds, 1.0)
        self._single_seconds.append(seconds_by_count[1])
        self.count = self._full_count if self._usual_seconds < seconds_by_count[1] else 1
        self._next_trial = self._clock() + self._retry_seconds

    def start_pass(self, num_layers: int, cost: float) -> None:
        """Note the start of a pass; ``cost`` is its usual time, in passes over one token.

        The count may change: a chunk of a prompt takes long enough to be a trial of its own.
        """
        self._has_yielded = self._is_long_trial = False
        self._layers_left = 0
        if not self._usual_seconds:
            return
        if self.count == 1 < self._full_count and cost >= _LONG_COST and self._clock() >= self._next_trial:
            self.count, self._is_long_trial = self._full_count, True
        if self.count > 1:
            self._pass_started, self._layers_left, self._num_layers = self._clock(), num_layers - 1, num_layers
            self._layer_limit = _SLOW_FACTOR * cost * self._expect_single() / num_layers

    def finish_layer(self) -> bool:
        """Note that a layer of the pass has run; return True if the rest of the pass is to run with one thread."""
        if self.count == 1 or not self._layers_left:
            return False
        self._layers_left -= 1
        grace = _LATE_SHARE * min(self._usual_seconds, self._expect_single())
        layers_run = self._num_layers - 1 - self._layers_left
        if self._clock() - self._pass_started <= layers_run * self._layer_limit + grace:
            return False
        self._drop_to_one()
        self._has_yielded = True
        return True

    def _expect_single(self) -> float:
        """Return the seconds of a pass over one token with one thread."""
        return min(statistics.median(self._single_seconds), self._speedup * self._usual_seconds)

    def update(self, seconds: float) -> None:
        """Adapt ``count`` to the time of a pass over one token that ran with it."""
        if self._full_count == 1 or not self._usual_seconds or self._has_yielded:
            return
        if self._trial_seconds or self.count == 1:
            self._update_single(seconds)
            return
        self._usual_seconds = min(seconds, self._usual_seconds * _BASELINE_GROWTH)
        is_slow = seconds > _SLOW_FACTOR * self._speedup * self._usual_seconds
        self._slow_passes = self._slow_passes + 1 if is_slow else 0
        if self._slow_passes >= _MAX_SLOW_PASSES or seconds > _STALL_FACTOR * self._usual_seconds:
            self._drop_to_one()

    def _update_single(self, seconds: float) -> None:
        """Update while one thread works or a trial of the full count runs."""
        if self.count == 1:
            self._single_seconds.append(seconds)
            if self._clock() >= self._next_trial:
                self.count, self._trial_seconds = self._full_count, [0.0]  # not empty: a trial is running
            return
        self._trial_seconds.append(seconds)
        if len(self._trial_seconds) <= _TRIAL_PASSES:
            if seconds > 3 * statistics.median(self._single_seconds):  # failed already
                self._drop_to_one()
            return
        trial = statistics.median(self._trial_seconds[2:])  # without the first, which wakes the threads up
        if trial < statistics.median(self._single_seconds):
            self._speedup = max(statistics.median(self._single_seconds) / trial, 1.0)
            self._usual_seconds, self._slow_passes = trial, 0
            self._trial_seconds, self._retry_seconds = [], _RETRY_SECONDS[0]
        else:
            self._drop_to_one()

    def _drop_to_one(self) -> None:
        if self._trial_seconds or self._is_long_trial:
            self._retry_seconds = min(2 * self._retry_seconds, _RETRY_SECONDS[1])
        else:
            self._single_seconds.clear()
            self._single_seconds.append(self._speedup * self._usual_seconds)
        self.count, self._trial_seconds, self._slow_passes = 1, [], 0
        self._next_trial = self._clock() + self._retry_seconds
