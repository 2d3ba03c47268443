"""The state of the process that every test must leave as it was, and the fixtures that compare it.

Children in a session of their own are engine hosts, which outlive a test so that the next one finds them; they are
compared at the end of the run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GRACE_SECONDS = 20.0  # for threads and processes that are ending; a busy machine is slow
_TASKS = Path("/proc/self/task")
_DESCRIPTORS = Path("/dev/fd")
_SIGNALS = sorted(signal.valid_signals())
# What a library sets or starts once and for good: pytest before each phase, torch when it first compiles, tqdm with
# the first progress bar.
_IGNORED_VARIABLES = {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"}
_IGNORED_THREADS = {"tqdm_monitor"}

_armed = False
_reported: set[str] = set()  # by the fixture of the test, so that those of its module and of the run are silent


@pytest.fixture(scope="session", autouse=True)
def no_host_is_left() -> Iterator[None]:
    """Fail a run whose engine hosts do not end. What ends them must be a fixture that uses this one."""
    before = state(with_hosts=True)
    yield
    _refuse(lasting_changes(before, with_hosts=True))


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_by_modules() -> Iterator[None]:
    """Fail a module whose fixtures leave something changed."""
    before = state()
    yield
    _refuse(lasting_changes(before))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a timer, a thread, a child process or anything else of `State` changed."""
    before = state()
    yield
    _refuse(lasting_changes(before))


def _refuse(found: list[str]) -> None:
    if found:
        _reported.update(found)
        pytest.fail("left behind: " + "; ".join(found), pytrace=False)


def track_watchdog() -> None:
    """Record calls to faulthandler's timer, which cannot be asked if it is armed. Called once, by ``conftest.py``."""

    def recorded(function: Callable[..., None], armed: bool) -> Callable[..., None]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> None:
            global _armed
            function(*args, **options)
            _armed = armed

        return call

    faulthandler.dump_traceback_later = recorded(faulthandler.dump_traceback_later, True)
    faulthandler.cancel_dump_traceback_later = recorded(faulthandler.cancel_dump_traceback_later, False)


@dataclass(frozen=True)
class State:
    """The things that a test can leave behind, by the words that a failure uses."""

    timers: frozenset[str]
    threads: frozenset[threading.Thread]
    children: frozenset[int]
    sockets: frozenset[tuple[int, int]]
    environment: dict[str, str]
    folder: str
    handlers: dict[int, Any]
    streams: tuple[Any, ...]


def state(with_hosts: bool = False) -> State:
    """Return the present state.

    Args:
        with_hosts: count child processes in a session of their own, too.
    """
    timers = {"faulthandler.dump_traceback_later"} if _armed else set()
    if hasattr(signal, "getitimer"):
        timers |= {
            name
            for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
            if any(signal.getitimer(getattr(signal, name)))
        }
    return State(
        timers=frozenset(timers),
        threads=frozenset(thread for thread in threading.enumerate() if thread.name not in _IGNORED_THREADS),
        children=_children(with_hosts),
        sockets=_sockets(),
        environment={name: value for name, value in os.environ.items() if name not in _IGNORED_VARIABLES},
        folder=_folder(),
        handlers={number: signal.getsignal(number) for number in _SIGNALS},
        streams=(sys.stdin, sys.stdout, sys.stderr),
    )


def changes(before: State, after: State) -> list[str]:
    """Return one sentence for each change."""
    found = [f"timer left armed: {name}" for name in after.timers - before.timers]
    found += [f"thread left running: {thread!r}" for thread in after.threads - before.threads]
    found += [f"child process left: {_command(child)}" for child in after.children - before.children]
    found += [f"socket or pipe left open: descriptor {number}" for number, _ in after.sockets - before.sockets]
    for name in sorted(before.environment.keys() | after.environment.keys()):
        was, now = before.environment.get(name), after.environment.get(name)
        if was != now:
            found.append(f"environment variable changed: {name} was {was!r}, is {now!r}")
    if before.folder != after.folder:
        found.append(f"working directory changed: was {before.folder}, is {after.folder}")
    for number, handler in after.handlers.items():
        if handler != before.handlers[number]:
            found.append(f"signal handler changed: {signal.Signals(number).name} is {handler!r}")
    for name, was, now in zip(("stdin", "stdout", "stderr"), before.streams, after.streams, strict=True):
        if was is not now:
            found.append(f"stream replaced: sys.{name} is {now!r}")
    return found


def lasting_changes(before: State, with_hosts: bool = False, grace: float = GRACE_SECONDS) -> list[str]:
    """Return the changes that are still there after a while: threads, processes and sockets may be about to end."""
    began, collected = time.monotonic(), False
    while found := [one for one in changes(before, state(with_hosts)) if one not in _reported]:
        if not any(sentence.startswith(("thread", "child", "socket")) for sentence in found):
            break  # nothing that ends with time
        waited = time.monotonic() - began
        if waited > grace and collected:
            break
        if waited > grace / 20 and not collected:
            gc.collect()  # a socket that only a cycle of references holds; it takes half a second
            collected = True
        time.sleep(0.005)
    return found


def _children(with_hosts: bool) -> frozenset[int]:
    """Child processes that have not ended, if the system lists them cheaply (Linux does)."""
    found: set[int] = set()
    try:
        tasks = os.listdir(_TASKS)  # noqa: PTH208 - after each test
    except OSError:
        return frozenset()
    for task in tasks:
        with contextlib.suppress(OSError):  # the thread has ended
            found.update(map(int, (_TASKS / task / "children").read_bytes().split()))
    return frozenset(child for child in found if _runs(child) and (with_hosts or not _is_detached(child)))


def _runs(child: int) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def _is_detached(child: int) -> bool:
    try:
        return os.getsid(child) == child
    except OSError:
        return False


def _command(child: int) -> str:
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return str(child)


def _sockets() -> frozenset[tuple[int, int]]:
    """Descriptors of sockets and pipes with their inodes, on systems that list them."""
    found = set()
    try:
        names = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - after each test
    except OSError:
        return frozenset()
    for name in names:
        with contextlib.suppress(OSError):  # that of the listing itself
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                found.add((int(name), status.st_ino))
    return frozenset(found)


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - after each test
    except OSError:
        return "(a removed folder)"
