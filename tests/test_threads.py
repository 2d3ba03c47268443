"""The number of threads follows the machine: on simulated ones, for which the time of each count is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from codeclippy_ls.engine.generation import threads
from codeclippy_ls.engine.generation.threads import ThreadCountTuner

Machine = Callable[[int, float], float]  # thread count and time to the seconds of a pass


def idle(count: int, now: float) -> float:
    """Two threads nearly halve the time."""
    return 0.010 if count == 1 else 0.006


def busy(count: int, now: float) -> float:
    """Other programs use all cores."""
    return 0.020 if count == 1 else 0.150


def shared(count: int, now: float) -> float:
    """One other program runs: two threads are a little slower than one."""
    return 0.010 if count == 1 else 0.014


def building(count: int, now: float) -> float:
    """A build runs for twenty seconds of each minute."""
    return (busy if now % 60 < 20 else idle)(count, now)


def small(count: int, now: float) -> float:
    """The model is so small that threads only cost."""
    return 0.001 if count == 1 else 0.0013


def simulate(
    machine: Machine, seconds: float, at_start: Machine | None = None
) -> tuple[float, float, ThreadCountTuner]:
    """Run passes for so long; return the seconds spent, and those with the best count at each moment."""
    generator, now = random.Random(3), 0.0
    subject = ThreadCountTuner(2, lambda: now)
    subject.calibrate({count: (at_start or machine)(count, now) for count in (1, 2)})
    spent = best = 0.0
    while now < seconds:
        noise = generator.uniform(0.95, 1.1) * (3 if generator.random() < 0.01 else 1)
        taken = machine(subject.count, now) * noise
        best += min(machine(count, now) for count in (1, 2)) * noise
        spent, now = spent + taken, now + taken + 0.01
        subject.update(taken)
    return spent, best, subject


@pytest.mark.parametrize("machine", [idle, busy, shared, small])
def test_best_count_is_found_on_a_steady_machine(machine: Machine) -> None:
    """At most a tenth slower than the best count, trials included."""
    spent, best, _ = simulate(machine, 300)
    assert spent < 1.1 * best


@pytest.mark.parametrize(("then", "at_start"), [(idle, busy), (busy, idle), (shared, idle)])
def test_count_adapts_when_the_machine_changes_after_loading(then: Machine, at_start: Machine) -> None:
    """Calibrated on a machine in another state."""
    spent, best, subject = simulate(then, 300, at_start)
    assert spent < 1.15 * best
    assert subject.count == (2 if then is idle else 1) or subject._trial_seconds


def test_count_follows_builds_that_come_and_go() -> None:
    """At most a quarter slower than the best count at each moment."""
    spent, best, _ = simulate(building, 1200)
    assert spent < 1.25 * best


def test_fixed_count_does_not_change() -> None:
    """Without calibration, updates change nothing."""
    subject = ThreadCountTuner(3)
    for seconds in (0.001, 9.0, 9.0, 9.0):
        subject.update(seconds)
        assert subject.count == 3


def test_one_core_is_left_to_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the cores, all but one, and one are tried, but never more than a token has work for."""
    for cores, wanted in ((1, (1,)), (2, (1,)), (3, (1, 2)), (4, (2, 3, 1)), (12, (6, 8, 1)), (64, (8, 1))):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        assert threads.list_thread_counts() == wanted
