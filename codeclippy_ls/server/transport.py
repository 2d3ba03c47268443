"""The client's end over stdio, a pipe or a socket.

Bytes come in through an ``asyncio.StreamReader`` whatever the transport is, and go out through one writer that only
the loop calls. Stdin and stdout belong to the protocol alone: both are moved aside before anything heavy is imported,
so that a stray ``print`` or ``input`` of any library can neither break nor eat a frame. Knows no LSP methods.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from codeclippy_ls.framing import FLUSH_TIMEOUT, MAX_HEADER, MAX_UNSENT, StreamWriter, Writer, make_reader
from codeclippy_ls.listening import ConnectionLimit

log = logging.getLogger(__name__)

_BACKLOG = 16  # connections that asyncio accepts before one of them can be refused


def guard_stdio() -> tuple[int, int]:
    """Move stdin and stdout aside for the protocol; descriptor 0 then reads nothing and 1 writes to stderr.

    Returns:
        Descriptors of the real stdin and stdout.
    """
    sys.stdout.flush()
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (stdin, stdout):
            msvcrt.setmode(descriptor, os.O_BINARY)
    sys.stdout = sys.stderr
    return stdin, stdout


class DescriptorWriter:
    """Writes to a descriptor on a thread of its own, because a client that stops reading must not stop the loop."""

    def __init__(self, descriptor: int, on_lost: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_lost = on_lost
        self._unsent = 0
        self._given_up = False
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="codeclippy-writer", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue bytes; a client that has not read 64 MB is given up."""
        with self._lock:
            self._unsent += len(data)
            self._given_up |= self._unsent > MAX_UNSENT
        if self._given_up:
            self._on_lost()
            return
        self._queue.put(data)

    def close(self) -> None:
        """Flush for two seconds at most; a client that was given up is not waited for."""
        self._queue.put(None)
        if not self._given_up:
            self._thread.join(FLUSH_TIMEOUT)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError:
                self._on_lost()
                return
            with self._lock:
                self._unsent -= len(data)


def read_descriptor(descriptor: int, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
    """Feed a descriptor's bytes to a reader from a daemon thread, until its end."""

    def run() -> None:
        with suppress(RuntimeError):  # the loop has closed
            try:
                while data := os.read(descriptor, 1 << 16):
                    loop.call_soon_threadsafe(reader.feed_data, data)
            except OSError as error:
                log.warning("reading failed: %s", error)
            loop.call_soon_threadsafe(reader.feed_eof)

    threading.Thread(target=run, name="codeclippy-reader", daemon=True).start()


Serve = Callable[[asyncio.StreamReader, Writer], Awaitable[int]]


async def serve_stdio(serve: Serve, stdin: int, stdout: int) -> int:
    """Serve one client over two descriptors; returns the exit code."""
    loop, reader = asyncio.get_running_loop(), make_reader()

    def lost() -> None:
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(reader.feed_eof)

    writer = DescriptorWriter(stdout, lost)
    read_descriptor(stdin, reader, loop)
    try:
        return await serve(reader, writer)
    finally:
        writer.close()


async def serve_connected(serve: Serve, *, port: int | None = None, path: str | None = None) -> int:
    """Connect to a client that listens on a loopback port or a pipe, as editors do it, and serve it."""
    if path is not None:
        reader, writer = await _open_pipe(path)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_HEADER)
    frames = StreamWriter(writer)
    try:
        return await serve(reader, frames)
    finally:
        await frames.flush()


async def _open_pipe(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if sys.platform != "win32":
        return await asyncio.open_unix_connection(path, limit=MAX_HEADER)
    loop, reader = asyncio.get_running_loop(), make_reader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_pipe_connection(lambda: protocol, path)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def listen_tcp(make_serve: Callable[[], Serve], host: str, port: int) -> int:
    """Listen, with a session of its own for each client; runs until it is cancelled."""
    limit = ConnectionLimit(log)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not limit.acquire():
            writer.transport.abort()
            return
        frames = StreamWriter(writer)
        try:
            await make_serve()(reader, frames)
        except ConnectionError:
            pass
        finally:
            limit.release()
            await frames.flush()

    limit.watch(asyncio.get_running_loop())
    server = await asyncio.start_server(connected, host, port, limit=MAX_HEADER, backlog=_BACKLOG)
    address = server.sockets[0].getsockname()
    print(f"listening on {address[0]}:{address[1]}", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()
    return 0
