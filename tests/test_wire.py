"""Raw bytes sent to a real server over each transport: stdio, stdio under ``python -u``, a pipe, TCP."""

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
from tests.transports import TRANSPORTS, run_server

_TEXT = (Path(__file__).parent / "cases" / "wire.txt").read_text(encoding="utf-8")
CASES = dict(re.findall(r"^=== (.+)\n([\s\S]*?)(?=^=== |\Z)", _TEXT, re.MULTILINE))
INIT = '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{},"processId":null}}'
SERVER = ("-m", "codeclippy_ls")


@dataclass
class Session:
    """Streams to a server, and its process if it serves this session alone."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    child: asyncio.subprocess.Process | None = None

    async def read_response(self) -> dict[str, Any] | None:
        """Return the next response, ``None`` at the end. Requests and notifications from the server are skipped."""
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
        except ConnectionError:  # a server that exited may not have read everything
            return b""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()
        await asyncio.sleep(0.01)  # so that each write arrives on its own


def encode_frame(body: str) -> bytes:
    """Encode a message's body as a frame."""
    data = body.encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(data), data)


@asynccontextmanager
async def run_own_server(transport: str, folder: Path) -> AsyncIterator[Session]:
    """Run a process for this session alone."""
    async with run_server(transport, SERVER, folder) as server:
        yield Session(server.reader, server.writer, server.child)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server that listens, for all cases; yields its process and port."""
    command = [sys.executable, *SERVER, "--tcp", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        yield child, int(child.stderr.readline().rpartition(":")[2])
        child.kill()


@asynccontextmanager
async def connect(child: subprocess.Popen[str], port: int) -> AsyncIterator[Session]:
    """Connect to the server that listens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield Session(reader, writer)
    writer.close()
    assert child.poll() is None, "the end of one connection ended the server"


def contains(received: Any, expected: Any) -> bool:
    """Return whether everything expected is in what was received."""
    if isinstance(expected, dict):
        return isinstance(received, dict) and all(
            key in received and contains(received[key], expected[key]) for key in expected
        )
    return bool(received == expected)


async def play_case(session: Session, case: str) -> None:
    """Send what the case sends and compare the responses."""
    for line in case.strip().split("\n"):
        operator, _, rest = line.partition(" ")
        if operator == ">>":
            await session.send(codecs.escape_decode(rest.encode())[0])
        elif operator == ">":
            await session.send(encode_frame(INIT if rest == "INIT" else rest))
            if rest == "INIT":
                response = await session.read_response()
                assert response is not None and response["id"] == 0 and "capabilities" in response["result"]
        elif rest.startswith("end "):
            assert await session.read_response() is None, "the session did not end"
            if session.child is not None:
                assert await asyncio.wait_for(session.child.wait(), TIMEOUT) == int(rest[4:])
            return
        else:
            response = await session.read_response()
            assert contains(response, json.loads(rest)), f"{response} does not contain {rest}"
    await session.send(encode_frame('{"jsonrpc":"2.0","id":999,"method":"$/probe"}'))
    response = await session.read_response()
    assert response is not None and response["id"] == 999 and "error" in response, f"out of step: {response}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_wire(
    transport: str, name: str, tmp_path: Path, shared_server: tuple[subprocess.Popen[str], int]
) -> None:
    """One case over one transport."""
    async with connect(*shared_server) if transport == "tcp" else run_own_server(transport, tmp_path) as session:
        await play_case(session, CASES[name])
