"""The process of a host, as its clients see it from outside: whether it stands still, and how it is replaced.

A process that is stopped (SIGSTOP, a frozen cgroup) or waits for a disk that does not answer holds its lock and its
socket, and answers nobody. It uses no CPU time either, unlike one that is busy. Only Linux says so; elsewhere nothing
is known of a process, and only the time decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeclippy_ls.host.address import HostAddress, HostError, read_regular_file

log = logging.getLogger(__name__)

_STILL_SECONDS = 0.75  # without an answer and without any work, after which a host counts as stopped
_END_TIMEOUT = 2.0  # seconds for a process that was killed; a frozen one does not end


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process that is known to be the host of an address."""

    id: int

    def read_progress(self) -> tuple[bytes, ...] | None:
        """Return what changes while it works: CPU times and page faults; ``None`` if it is ready to run, or gone."""
        fields = _read(self.id, "stat").rpartition(b")")[2].split()
        if len(fields) < 13 or fields[0] == b"R":
            return None
        return fields[7], fields[9], fields[11], fields[12]


class HostSilentError(HostError):
    """The host of an address is there, and does not answer.

    Attributes:
        process: its process, if that is known.
    """

    def __init__(self, address: HostAddress, process: HostProcess | None) -> None:
        super().__init__("the engine host does not answer")
        self.address, self.process = address, process


def find_host_process(address: HostAddress) -> HostProcess | None:
    """Return the host's process, if it is verified: it runs, is the user's, and was started for this address."""
    try:
        id = int(read_regular_file(address.process))
        is_own = Path(f"/proc/{id}").stat().st_uid == os.getuid()
    except (OSError, ValueError):
        return None
    return HostProcess(id) if is_own and os.fsencode(address.folder / address.name) in _read(id, "cmdline") else None


async def wait_for_answer(
    process: HostProcess | None, awaited: Collection[asyncio.Future[Any]], timeout: float
) -> bool:
    """Wait until one of these is done; return False if the host's process stands still, or the time is over."""
    deadline = time.monotonic() + timeout
    progress = process.read_progress() if process is not None else None
    while True:
        seconds = min(_STILL_SECONDS, max(deadline - time.monotonic(), 0.0))
        done, _ = await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return True
        before, progress = progress, process.read_progress() if process is not None else None
        if (progress is not None and progress == before) or time.monotonic() >= deadline:
            return False


def replace_host(address: HostAddress, silent: HostProcess | None) -> None:
    """Make room for another host: end the silent one, and take its files away if it cannot end. Takes seconds.

    Should it run again one day, it finds that its files are gone, and exits.

    Args:
        silent: the process that did not answer; if another one is there now, somebody else has replaced it.
    """
    if find_host_process(address) != silent:
        return
    if silent is not None:
        log.warning("the engine host (process %d) does not answer; it is ended", silent.id)
        with contextlib.suppress(OSError):
            os.kill(silent.id, getattr(signal, "SIGKILL", signal.SIGTERM))
        deadline = time.monotonic() + _END_TIMEOUT
        while find_host_process(address) == silent:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    for path in (address.socket, address.lock, address.process):
        with contextlib.suppress(OSError):
            path.unlink()


def _read(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:
        return b""
