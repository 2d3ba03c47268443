"""Four ways to a server process: stdio, stdio under ``python -u``, a pipe at which the client listens, TCP."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT

WAYS = ("stdio", "unbuffered", "pipe", "tcp")
_OFTEN = ("stdio", "tcp")  # of which each process serves one client, or several
SOME_WAYS = [way if way in _OFTEN else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
ROOT = Path(__file__).parent.parent


def alive(marker: str) -> set[int]:
    """The processes that run and have a text in their command line; ones that ended and wait to be noticed do not."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


async def gone(marker: str, seconds: float = TIMEOUT) -> None:
    """Wait until none of them is left."""
    deadline = time.monotonic() + seconds
    while left := alive(marker):
        assert time.monotonic() < deadline, f"still there after {seconds:g} s: {left}"
        await asyncio.sleep(0.02)


@dataclass
class Way:
    """The streams of one client, and the process behind them, which serves more than this one where ``shared``."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    child: asyncio.subprocess.Process
    said: Path
    port: int = 0

    @property
    def shared(self) -> bool:
        """Whether the process goes on when this client leaves."""
        return bool(self.port)

    async def another(self) -> Way:
        """A second client of a process that has several."""
        return Way(*await asyncio.open_connection("127.0.0.1", self.port), self.child, self.said, self.port)

    async def code(self, seconds: float = TIMEOUT) -> int:
        """The exit code of the process, which ends."""
        return await asyncio.wait_for(self.child.wait(), seconds)


@asynccontextmanager
async def reached(way: str, program: Sequence[str], folder: Path, said: Path | None = None) -> AsyncIterator[Way]:
    """A server process of one's own, and the streams to it.

    Args:
        program: what Python runs, as arguments.
        folder: where its stderr goes, as ``stderr``, and its stdout where that is not the way, as ``stdout``; a short
            path, for it holds the pipe.
        said: a pipe for its stderr instead, of which somebody holds the other end.
    """
    said = said or folder / "stderr"
    with said.open("wb") as stderr, (folder / "stdout").open("wb") as stdout:

        async def start(*arguments: str, python: tuple[str, ...] = (), **streams: Any) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, *python, *program, *arguments, cwd=ROOT, stderr=stderr, **streams
            )

        # Where stdin and stdout are not the way, somebody may still stand there.
        aside: dict[str, Any] = {"stdin": asyncio.subprocess.PIPE, "stdout": stdout}
        if way == "pipe":
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            listener = await asyncio.start_unix_server(lambda *streams: arrived.put_nowait(streams), folder / "s")
            child = await start(f"--pipe={folder / 's'}", **aside)
            reader, writer = await asyncio.wait_for(arrived.get(), TIMEOUT)
            made = Way(reader, writer, child, said)
            listener.close()
        elif way == "tcp":
            child = await start("--tcp", "127.0.0.1:0", **aside)
            deadline = time.monotonic() + TIMEOUT
            while not said.read_text().endswith("\n"):
                assert time.monotonic() < deadline, "it does not listen"
                await asyncio.sleep(0.01)
            port = int(said.read_text().rpartition(":")[2])
            made = Way(*await asyncio.open_connection("127.0.0.1", port), child, said, port)
        else:
            streams = dict.fromkeys(("stdin", "stdout"), asyncio.subprocess.PIPE)
            child = await start(python=("-u",) if way == "unbuffered" else (), **streams)
            assert child.stdin is not None and child.stdout is not None
            made = Way(child.stdout, child.stdin, child, said)
        try:
            if way in ("pipe", "tcp") and child.stdin is not None:
                child.stdin.write(b"y\n" * 10)
            yield made
        finally:
            made.writer.close()
            if not made.shared:
                with suppress(asyncio.TimeoutError):
                    await made.code()
            if child.returncode is None:
                child.kill()
                await child.wait()
