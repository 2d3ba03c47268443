"""Raw bytes against a real server in four ways to reach it: stdio, stdio under ``python -u``, a pipe, TCP."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT
from tests.ways import WAYS, reached

_TEXT = (Path(__file__).parent / "cases" / "wire.txt").read_text(encoding="utf-8")
CASES = dict(re.findall(r"^=== (.+)\n([\s\S]*?)(?=^=== |\Z)", _TEXT, re.MULTILINE))
INIT = '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{},"processId":null}}'
SERVER = ("-m", "codeclippy_ls")


@dataclass
class Session:
    """Streams to a server, and its process where it serves this session alone."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    child: asyncio.subprocess.Process | None = None

    async def message(self) -> dict[str, Any] | None:
        """The next answer; ``None`` at the end. What the server says by itself is passed over."""
        while header := await self._line():
            assert re.fullmatch(rb"Content-Length: \d+\r\n", header), f"no frame: {header!r}"
            rest = await self.reader.readline()
            while rest.strip():
                rest = await self.reader.readline()
            message: dict[str, Any] = json.loads(await self.reader.readexactly(int(header.split(b":")[1])))
            if "method" not in message:
                return message
        return None

    async def _line(self) -> bytes:
        try:
            return await asyncio.wait_for(self.reader.readline(), TIMEOUT)
        except ConnectionError:  # a server that has ended may not have read all that was sent
            return b""

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()
        await asyncio.sleep(0.01)  # so that each write comes by itself


def framed(body: str) -> bytes:
    """A message."""
    data = body.encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(data), data)


@asynccontextmanager
async def alone(way: str, folder: Path) -> AsyncIterator[Session]:
    """A process of its own."""
    async with reached(way, SERVER, folder) as found:
        yield Session(found.reader, found.writer, found.child)


@pytest.fixture(scope="module")
def listening() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that listens, for all cases, and its port."""
    command = [sys.executable, *SERVER, "--tcp", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        yield child, int(child.stderr.readline().rpartition(":")[2])
        child.kill()


@asynccontextmanager
async def tcp(child: subprocess.Popen[str], port: int) -> AsyncIterator[Session]:
    """One of the connections to a server that listens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield Session(reader, writer)
    writer.close()
    assert child.poll() is None, "one connection's end ended the server"


def holds(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is in what was found."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and holds(found[key], wanted[key]) for key in wanted)
    return bool(found == wanted)


async def played(session: Session, case: str) -> None:
    """Say what the case says and compare what comes back."""
    for line in case.strip().split("\n"):
        sign, _, rest = line.partition(" ")
        if sign == ">>":
            await session.send(codecs.escape_decode(rest.encode())[0])
        elif sign == ">":
            await session.send(framed(INIT if rest == "INIT" else rest))
            if rest == "INIT":
                answer = await session.message()
                assert answer is not None and answer["id"] == 0 and "capabilities" in answer["result"]
        elif rest.startswith("end "):
            assert await session.message() is None, "the session goes on"
            if session.child is not None:
                assert await asyncio.wait_for(session.child.wait(), TIMEOUT) == int(rest[4:])
            return
        else:
            found = await session.message()
            assert holds(found, json.loads(rest)), f"{found} is not {rest}"
    await session.send(framed('{"jsonrpc":"2.0","id":999,"method":"$/probe"}'))
    found = await session.message()
    assert found is not None and found["id"] == 999 and "error" in found, f"out of step: {found}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", WAYS)
async def test_wire(way: str, name: str, tmp_path: Path, listening: tuple[subprocess.Popen[str], int]) -> None:
    """One case in one way."""
    async with tcp(*listening) if way == "tcp" else alone(way, tmp_path) as session:
        await played(session, CASES[name])
