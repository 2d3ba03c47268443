"""The engine hosts that real servers start in a folder of a test's own: seen, stopped and killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from codeclippy_ls.host.address import HostAddress
from codeclippy_ls.host.start import connect_or_start
from tests.test_host import is_running

# An edit that takes long enough to be killed in the middle of it.
LONG_EDITS: dict[str, dict[str, Any]] = {
    "edit": {"maxTokens": 800, "temperature": 1.0, "candidates": 8},
    "completion": {"timeBudgetMs": 20000},
}
HOLE = "def add(first, second):\n    return first + second\n\n\ndef mul(first, second):\n    "
MANY = "".join(f"def f{number}(x):\n    return x + {number}\n\n\n" for number in range(12)) + HOLE
TOLD = "the engine has ended; it is started again"


class Hosts:
    """All hosts of one folder.

    Args:
        folder: theirs, which stands for the user's; a short path, as it holds sockets.
        server: how a server is started.
    """

    def __init__(self, folder: Path, server: list[str]) -> None:
        self.folder = folder
        # The tests' editors have a cache of their own, or libraries beside the system's, which users' have not: a
        # host's place depends on both.
        own = ["-u", "XDG_CACHE_HOME", "-u", "LD_LIBRARY_PATH"]
        self.command = [shutil.which("env") or "env", *own, f"XDG_RUNTIME_DIR={folder}", *server]

    def running(self) -> dict[int, HostAddress]:
        """The hosts that live, by process."""
        begins = f"--at={self.folder}/"
        there: dict[int, HostAddress] = {}
        for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            at = next((word for word in _words(process) if word.startswith(begins)), None)
            if at is not None and is_running(process):
                place = Path(at.removeprefix("--at="))
                there[process] = HostAddress(place.parent, place.name)
        return there

    def only(self) -> int:
        """The one host there is."""
        (process,) = self.running()
        return process

    def stop(self) -> None:
        """Let it do nothing from now on, so that what it is asked for is under way until it is killed."""
        os.kill(self.only(), signal.SIGSTOP)

    def kill(self) -> tuple[int, float]:
        """Kill it; which one that was, and when."""
        process = self.only()
        os.kill(process, signal.SIGKILL)
        return process, time.monotonic()

    def models(self) -> list[Any]:
        """What the one host says of its models."""
        (place,) = self.running().values()

        async def look() -> list[Any]:
            connection = await connect_or_start(place, ["false"], 600.0, {})
            connection.close()
            return connection.statuses

        return asyncio.run(look())

    def torches(self) -> list[int]:
        """The processes, of all that use this folder, that have the library in memory that models need."""
        users = [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and f"XDG_RUNTIME_DIR={self.folder}" in _read(path / "environ").split("\0")
        ]
        return [process for process in users if "libtorch" in _read(Path(f"/proc/{process}/maps"))]


def _words(process: int) -> list[str]:
    return _read(Path(f"/proc/{process}/cmdline")).split("\0")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has just ended, or is another's
        return ""
