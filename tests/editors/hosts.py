"""Find, suspend and kill the engine hosts that real servers start in the folder of a test."""

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

# Edits that take so long that the host can be killed during one.
LONG_EDITS: dict[str, dict[str, Any]] = {
    "edit": {"maxTokens": 800, "temperature": 1.0, "candidates": 8},
    "completion": {"timeBudgetMs": 20000},
}
UNFINISHED = "def add(first, second):\n    return first + second\n\n\ndef mul(first, second):\n    "
LONG_FILE = "".join(f"def f{number}(x):\n    return x + {number}\n\n\n" for number in range(12)) + UNFINISHED
EXIT_MESSAGE = "the engine has ended; it is started again"


class Hosts:
    """The engine hosts in one folder.

    Args:
        folder: used instead of the user's runtime folder; a short path, as sockets are in it.
        server: the command that starts a server.
    """

    def __init__(self, folder: Path, server: list[str]) -> None:
        self.folder = folder
        # The editors in tests have their own cache or libraries, which users' editors have not; the address of a host
        # depends on both.
        own = ["-u", "XDG_CACHE_HOME", "-u", "LD_LIBRARY_PATH"]
        self.command = [shutil.which("env") or "env", *own, f"XDG_RUNTIME_DIR={folder}", *server]

    def list_running(self) -> dict[int, HostAddress]:
        """List the running hosts by process id."""
        prefix = f"--at={self.folder}/"
        found: dict[int, HostAddress] = {}
        for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            at = next((word for word in _read_command(process) if word.startswith(prefix)), None)
            if at is not None and is_running(process):
                path = Path(at.removeprefix("--at="))
                found[process] = HostAddress(path.parent, path.name)
        return found

    def get_only(self) -> int:
        """Return the process id of the only host."""
        (process,) = self.list_running()
        return process

    def suspend(self) -> None:
        """Suspend the host, so that later requests are unanswered when it is killed."""
        os.kill(self.get_only(), signal.SIGSTOP)

    def kill(self) -> tuple[int, float]:
        """Kill the host; return its process id and the time."""
        process = self.get_only()
        os.kill(process, signal.SIGKILL)
        return process, time.monotonic()

    def get_model_statuses(self) -> list[Any]:
        """Return the statuses of the models in the only host."""
        (address,) = self.list_running().values()

        async def read_statuses() -> list[Any]:
            connection = await connect_or_start(address, ["false"], 600.0, {})
            connection.close()
            return connection.statuses

        return asyncio.run(read_statuses())

    def list_torch_processes(self) -> list[int]:
        """List the processes that use this folder and have loaded torch."""
        users = [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and f"XDG_RUNTIME_DIR={self.folder}" in _read(path / "environ").split("\0")
        ]
        return [process for process in users if "libtorch" in _read(Path(f"/proc/{process}/maps"))]


def _read_command(process: int) -> list[str]:
    return _read(Path(f"/proc/{process}/cmdline")).split("\0")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has just exited, or belongs to another user
        return ""
