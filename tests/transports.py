"""Run a server process and connect to it: by stdio, by stdio under ``python -u``, by a pipe, by TCP."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT

TRANSPORTS = ("stdio", "unbuffered", "pipe", "tcp")
_ALWAYS = ("stdio", "tcp")  # a process that serves one client, and one that serves several
TRANSPORT_PARAMS = [
    transport if transport in _ALWAYS else pytest.param(transport, marks=pytest.mark.slow) for transport in TRANSPORTS
]
ROOT = Path(__file__).parent.parent
TOKEN = "a token of sixteen or more letters"  # with which a client of a port proves itself


def find_processes(marker: str) -> set[int]:
    """Return the running processes with this text in their command line, except those that wait to be reaped."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


async def wait_until_gone(marker: str, seconds: float = TIMEOUT) -> None:
    """Wait until no process has this text in its command line."""
    deadline = time.monotonic() + seconds
    while left := find_processes(marker):
        assert time.monotonic() < deadline, f"still there after {seconds:g} s: {left}"
        await asyncio.sleep(0.02)


@dataclass
class ServerConnection:
    """The streams of one client, and the server's process.

    Attributes:
        stderr: the file that the process writes its stderr to.
        port: the port of a process that serves several clients, else 0.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    child: asyncio.subprocess.Process
    stderr: Path
    port: int = 0

    @property
    def is_shared(self) -> bool:
        """True if the process goes on when this client disconnects."""
        return bool(self.port)

    async def connect_again(self) -> ServerConnection:
        """Connect as a second client to a process that serves several."""
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        return ServerConnection(*streams, self.child, self.stderr, self.port)

    async def wait_for_exit(self, seconds: float = TIMEOUT) -> int:
        """Wait until the process exits, and return its exit code."""
        return await asyncio.wait_for(self.child.wait(), seconds)


@asynccontextmanager
async def run_server(
    transport: str, program: Sequence[str], folder: Path, stderr: Path | None = None
) -> AsyncIterator[ServerConnection]:
    """Run a server process and connect to it.

    Args:
        program: the arguments of Python.
        folder: gets the process's stderr, as ``stderr``, and its stdout, as ``stdout``, unless that is the transport.
            Its path must be short, since the pipe is in it.
        stderr: a pipe for the process's stderr, which the caller reads.
    """
    stderr = stderr or folder / "stderr"
    with stderr.open("wb") as stderr_file, (folder / "stdout").open("wb") as stdout_file:

        async def start(*arguments: str, python: tuple[str, ...] = (), **streams: Any) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *python,
                *program,
                *arguments,
                cwd=ROOT,
                env={**os.environ, "CODECLIPPY_TOKEN": TOKEN},
                stderr=stderr_file,
                **streams,
            )

        # A library may print or read there, even if stdin and stdout are not the transport.
        unused_stdio: dict[str, Any] = {"stdin": asyncio.subprocess.PIPE, "stdout": stdout_file}
        if transport == "pipe":
            connected: asyncio.Queue[Any] = asyncio.Queue()
            listener = await asyncio.start_unix_server(lambda *streams: connected.put_nowait(streams), folder / "s")
            child = await start(f"--pipe={folder / 's'}", **unused_stdio)
            reader, writer = await asyncio.wait_for(connected.get(), TIMEOUT)
            server = ServerConnection(reader, writer, child, stderr)
            listener.close()
        elif transport == "tcp":
            child = await start("--tcp", "127.0.0.1:0", **unused_stdio)
            deadline = time.monotonic() + TIMEOUT
            while not stderr.read_text().endswith("\n"):
                assert time.monotonic() < deadline, "the server does not listen"
                await asyncio.sleep(0.01)
            port = int(stderr.read_text().rpartition(":")[2])
            server = ServerConnection(*await asyncio.open_connection("127.0.0.1", port), child, stderr, port)
        else:
            stdio = dict.fromkeys(("stdin", "stdout"), asyncio.subprocess.PIPE)
            child = await start(python=("-u",) if transport == "unbuffered" else (), **stdio)
            assert child.stdin is not None and child.stdout is not None
            server = ServerConnection(child.stdout, child.stdin, child, stderr)
        try:
            if transport in ("pipe", "tcp") and child.stdin is not None:
                child.stdin.write(b"y\n" * 10)
            yield server
        finally:
            server.writer.close()
            if not server.is_shared:
                with suppress(asyncio.TimeoutError):
                    await server.wait_for_exit()
            if child.returncode is None:
                child.kill()
                await child.wait()
