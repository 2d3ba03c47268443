"""What a test leaves behind fails it."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import leaks

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """Takes each leak back."""
    with ExitStack() as stack:
        yield stack


def leak_timer(undo: ExitStack) -> None:
    undo.callback(faulthandler.cancel_dump_traceback_later)
    faulthandler.dump_traceback_later(1000.0, exit=False)


def leak_thread(undo: ExitStack) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="leaked", daemon=True)
    undo.callback(thread.join)
    undo.callback(end.set)
    thread.start()


def leak_child(undo: ExitStack) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    undo.callback(child.communicate)


def leak_socket(undo: ExitStack) -> None:
    for one in socket.socketpair():
        undo.callback(one.close)


def leak_variable(undo: ExitStack) -> None:
    undo.callback(os.environ.pop, "LEAKED")
    os.environ["LEAKED"] = "1"


def leak_folder(undo: ExitStack) -> None:
    undo.callback(os.chdir, Path.cwd())
    os.chdir(Path(__file__).parent)


def leak_handler(undo: ExitStack) -> None:
    undo.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leak_stream(undo: ExitStack) -> None:
    undo.callback(setattr, sys, "stdin", sys.stdin)
    sys.stdin = None


@pytest.mark.parametrize(
    ("leak", "sentence"),
    [
        (leak_timer, "timer left armed: faulthandler.dump_traceback_later"),
        (leak_thread, "thread left running: <Thread(leaked, started daemon"),
        pytest.param(leak_child, f"child process left: {sys.executable} -c input() ", marks=linux),
        pytest.param(leak_socket, "socket or pipe left open: descriptor", marks=linux),
        (leak_variable, "environment variable changed: LEAKED was None, is '1'"),
        (leak_folder, "working directory changed: was"),
        (leak_handler, "signal handler changed: SIGTERM is"),
        (leak_stream, "stream replaced: sys.stdin is None"),
    ],
)
def test_each_leak_is_found_and_named(leak: Callable[[ExitStack], None], sentence: str, undo: ExitStack) -> None:
    """Within the time that is given to what is ending; without a leak there is nothing to say."""
    before = leaks.state()
    assert leaks.lasting_changes(before) == []
    leak(undo)
    assert any(found.startswith(sentence) for found in leaks.lasting_changes(before, grace=0.1))
    undo.close()
    assert leaks.lasting_changes(before) == []


def test_threads_that_are_ending_are_waited_for() -> None:
    """A thread that ends within the time allowed is not a leak."""
    before, end = leaks.state(), threading.Event()
    thread = threading.Thread(target=end.wait, name="ending")
    thread.start()
    release = threading.Timer(0.1, end.set)
    release.start()
    assert leaks.lasting_changes(before) == []


@linux
def test_engine_hosts_are_compared_only_on_request(undo: ExitStack) -> None:
    """A process in a session of its own outlives a test, but not the run."""
    before = leaks.state(with_hosts=True)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    undo.callback(child.communicate)
    assert not any("child" in found for found in leaks.lasting_changes(before, grace=0.1))
    assert any("child" in found for found in leaks.lasting_changes(before, with_hosts=True, grace=0.1))


def test_a_leak_fails_its_test_and_is_reported_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures of this suite, in a run of their own: those of the module and of the run do not repeat it."""
    pytester.makeconftest("from tests.leaks import no_host_is_left, nothing_is_left, nothing_is_left_by_modules")
    pytester.makepyfile("import os\n\ndef test_it():\n    os.environ['LEAKED'] = '1'\n\ndef test_next():\n    pass\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run = pytester.runpytest_subprocess(timeout=300)
    run.assert_outcomes(passed=2, errors=1)
    run.stdout.fnmatch_lines(["left behind: environment variable changed: LEAKED was None, is '1'"])
