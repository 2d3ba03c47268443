"""The number of threads follows the machine: on simulated ones, for which the time of each count is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from codeclippy_ls.engine.generation import threads
from codeclippy_ls.engine.generation.threads import ThreadCountTuner

Machine = Callable[[int, float], float]  # thread count and time to the seconds of a pass
LAYERS = 12


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
        best += min(machine(count, now) for count in (1, 2)) * noise
        started = now
        subject.start_pass(LAYERS, 1.0)
        for _ in range(LAYERS):
            now += machine(subject.count, now) * noise / LAYERS
            subject.finish_layer()
        spent += now - started
        subject.update(now - started)
        now += 0.01
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


def test_a_pass_yields_the_core_before_it_ends() -> None:
    """Others take both cores while a pass runs: it costs less than one and a half passes with one thread."""
    now = 0.0
    subject = ThreadCountTuner(2, lambda: now)
    subject.calibrate({1: 0.076, 2: 0.046})
    subject.start_pass(LAYERS, 1.0)
    counts = []
    for layer in range(LAYERS):
        now += (idle_large if layer < 4 else busy_large)(subject.count) / LAYERS
        subject.finish_layer()
        counts.append(subject.count)
    assert counts[3] == 2 and counts[-1] == 1
    assert now < 1.5 * 0.076
    subject.update(now)  # of a pass with both counts: says nothing about either
    subject.start_pass(LAYERS, 1.0)
    assert subject.count == 1 and not subject.finish_layer()


def idle_large(count: int) -> float:
    """Half a billion parameters, as measured."""
    return 0.076 if count == 1 else 0.046


def busy_large(count: int) -> float:
    """The same beside another program on each core: each layer waits for both."""
    return 0.076 if count == 1 else 0.5


def test_a_prompt_yields_and_tries_again() -> None:
    """Chunk by chunk: a chunk that others disturb goes on with one thread, a later one finds the cores quiet again."""
    now = 0.0
    subject = ThreadCountTuner(2, lambda: now)
    subject.calibrate({1: 0.076, 2: 0.046})
    counts = []
    for chunk in range(6):
        for layer in range(LAYERS):
            if layer == 0:
                subject.start_pass(LAYERS, 10.0)
            now += 10 * (busy_large if 1 <= chunk <= 2 else idle_large)(subject.count) / LAYERS
            subject.finish_layer()
        counts.append(subject.count)
    assert counts == [2, 1, 1, 2, 2, 2]


def test_a_pass_of_unknown_cost_is_never_late() -> None:
    """Nothing is known of it."""
    now = 0.0
    subject = ThreadCountTuner(2, lambda: now)
    subject.calibrate({1: 0.076, 2: 0.046})
    subject.start_pass(LAYERS, math.inf)
    now = 1000.0
    assert not subject.finish_layer() and subject.count == 2


def test_a_pass_that_nobody_started_is_not_watched() -> None:
    """As those that are measured while a model is loaded."""
    now = 0.0
    subject = ThreadCountTuner(2, lambda: now)
    subject.calibrate({1: 0.076, 2: 0.046})
    subject.start_pass(2, 1.0)
    assert not subject.finish_layer()
    now = 1000.0
    assert not subject.finish_layer() and subject.count == 2


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


def test_a_large_model_takes_both_of_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading its weights bounds it; with more cores the last one gains nothing."""
    for cores, wanted in ((1, (1,)), (2, (2, 1)), (3, (1, 2)), (4, (2, 3, 1))):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        assert threads.list_thread_counts(500_000_000) == wanted
