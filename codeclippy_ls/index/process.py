"""The process that builds a folder's index, and the end of it that a server holds.

A process of its own, at the lowest priority: reading a file holds the interpreter's lock for milliseconds, which a
thread of the server would take from the event loop (figures in bench/LOG.md), and the engine host, which has the same
lock, decodes. It looks at the folder once, then reads names of changed files from its standard input, one line of JSON
for each group, and ends with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codeclippy_ls.index.building import update_index

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.3  # without a further change until changed files are read: tools write files in several steps
_MAX_PATHS = 400  # in a line: of more, the whole folder is looked at
_PACKAGE_FOLDER = Path(__file__).resolve().parent.parent


class IndexProcess:
    """A running process that builds the index of a folder. Belongs to one thread.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "codeclippy_ls", "indexer", str(folder)]
        priority: dict[str, Any] = {}
        if sys.platform == "win32":
            priority = {"creationflags": subprocess.IDLE_PRIORITY_CLASS | subprocess.CREATE_NO_WINDOW}
        # Not in the workspace: it may hold files that are named like modules.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=_PACKAGE_FOLDER.parent,
            bufsize=0,
            **priority,
        )
        if sys.platform != "win32" and self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)  # a process that is stopped must not stop the loop

    def update(self, paths: Sequence[str]) -> bool:
        """Have changed files read again; return False if the process has ended, or reads nothing any more."""
        named = list(paths) if len(paths) <= _MAX_PATHS else []
        line = json.dumps(named).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            return self._process.stdin.write(line) == len(line)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """End the process; what it has written so far stays."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def run_indexer(folder: Path) -> int:
    """Build the index of a folder, and keep it up to date until standard input ends; return the exit code."""
    _lower_priority()
    waiting: queue.Queue[list[str] | None] = queue.Queue()
    threading.Thread(target=_read_changes, args=(sys.stdin.fileno(), waiting), daemon=True).start()
    changes: list[str] | None = []
    while changes is not None:
        started = time.monotonic()
        try:
            size = update_index(folder, changes)
        except (OSError, sqlite3.Error) as error:
            log.error("the index of the workspace cannot be written: %s", error)
            return 1
        if size is not None and not changes:
            log.info("the index has %d files; looked at in %.1f s", size.files, time.monotonic() - started)
        changes = _collect(waiting)
    return 0


def _lower_priority() -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.nice(19)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the editor's


def _read_changes(descriptor: int, waiting: queue.Queue[list[str] | None]) -> None:
    """Read lines until the other end closes; then end the process, also in the middle of its work."""
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                waiting.put([str(path) for path in json.loads(line)])
    os._exit(0)


def _collect(waiting: queue.Queue[list[str] | None]) -> list[str] | None:
    """Wait for changes, and for a pause after them; an empty list is the whole folder."""
    groups = [waiting.get()]
    with contextlib.suppress(queue.Empty):
        while True:
            groups.append(waiting.get(timeout=_SETTLE_SECONDS))
    if None in groups:
        return None
    paths = [path for group in groups if group for path in group]
    return [] if any(not group for group in groups) else list(dict.fromkeys(paths))
