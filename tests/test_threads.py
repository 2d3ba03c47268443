"""The number of threads follows the machine: on simulated ones, where what each count would have taken is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from codeclippy_ls.engine.generation import threads
from codeclippy_ls.engine.generation.threads import ThreadCountTuner

Machine = Callable[[int, float], float]  # seconds of a pass by so many threads, at a time


def idle(count: int, now: float) -> float:
    """Two threads nearly halve it."""
    return 0.010 if count == 1 else 0.006


def busy(count: int, now: float) -> float:
    """Other programs want all cores."""
    return 0.020 if count == 1 else 0.150


def shared(count: int, now: float) -> float:
    """One other program runs: two threads are a little slower than one."""
    return 0.010 if count == 1 else 0.014


def building(count: int, now: float) -> float:
    """A build for twenty seconds in each minute."""
    return (busy if now % 60 < 20 else idle)(count, now)


def small(count: int, now: float) -> float:
    """A model so small that threads only cost."""
    return 0.001 if count == 1 else 0.0013


def played(machine: Machine, seconds: float, at_start: Machine | None = None) -> tuple[float, float, ThreadCountTuner]:
    """Passes for so long: seconds spent, and those that the best count of each moment would have."""
    chance, now = random.Random(3), 0.0
    subject = ThreadCountTuner(2, lambda: now)
    subject.calibrate({count: (at_start or machine)(count, now) for count in (1, 2)})
    spent = best = 0.0
    while now < seconds:
        noise = chance.uniform(0.95, 1.1) * (3 if chance.random() < 0.01 else 1)
        taken = machine(subject.count, now) * noise
        best += min(machine(count, now) for count in (1, 2)) * noise
        spent, now = spent + taken, now + taken + 0.01
        subject.update(taken)
    return spent, best, subject


@pytest.mark.parametrize("machine", [idle, busy, shared, small])
def test_on_a_steady_machine_the_best_is_found(machine: Machine) -> None:
    """A tenth more than the best count at most, trials included."""
    spent, best, _ = played(machine, 300)
    assert spent < 1.1 * best


@pytest.mark.parametrize(("then", "at_start"), [(idle, busy), (busy, idle), (shared, idle)])
def test_what_was_measured_at_the_start_may_change(then: Machine, at_start: Machine) -> None:
    """Loaded while the machine was otherwise."""
    spent, best, subject = played(then, 300, at_start)
    assert spent < 1.15 * best
    assert subject.count == (2 if then is idle else 1) or subject._trial_seconds


def test_builds_come_and_go() -> None:
    """Better than any fixed count, and not far from who knew when they would come."""
    spent, best, _ = played(building, 1200)
    assert spent < 1.25 * best


def test_a_count_that_was_asked_for_stays() -> None:
    """Nothing is measured then, and nothing learned."""
    subject = ThreadCountTuner(3)
    for seconds in (0.001, 9.0, 9.0, 9.0):
        subject.update(seconds)
        assert subject.count == 3


def test_one_core_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more, half, all but one and one are tried, and never more than a token has work for."""
    for cores, wanted in ((1, (1,)), (2, (1,)), (3, (1, 2)), (4, (2, 3, 1)), (12, (6, 8, 1)), (64, (8, 1))):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        assert threads.list_thread_counts() == wanted
