"""The connection to the client: stdio, a pipe or a socket.

With every transport, bytes come in through an ``asyncio.StreamReader`` and go out through one writer that only the loop
calls. Stdin and stdout belong to the protocol alone: both are moved aside before anything heavy is imported, so that a
stray ``print`` or ``input`` of a library can neither break nor consume a frame. Knows no LSP methods.
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

log = logging.getLogger(__name__)


def guard_stdio() -> tuple[int, int]:
    """Move stdin and stdout aside for the protocol; then descriptor 0 is empty and descriptor 1 is stderr.

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
    """Writes to a descriptor on its own thread, because a client that stops reading must not block the loop.

    Args:
        on_lost: called on that thread when the client cannot be written to any more.
    """

    def __init__(self, descriptor: int, on_lost: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_lost = on_lost
        self._unsent = 0
        self._is_dropped = False
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="codeclippy-writer", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue bytes; a client with more than 64 MB unread is dropped."""
        with self._lock:
            self._unsent += len(data)
            self._is_dropped |= self._unsent > MAX_UNSENT
        if self._is_dropped:
            self._on_lost()
            return
        self._queue.put(data)

    def close(self) -> None:
        """Flush for at most two seconds, unless the client was dropped."""
        self._queue.put(None)
        if not self._is_dropped:
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
    """Feed a descriptor's bytes to a reader from a daemon thread, until end of file."""

    def run() -> None:
        with suppress(RuntimeError):  # the loop has closed
            try:
                while data := os.read(descriptor, 1 << 16):
                    loop.call_soon_threadsafe(reader.feed_data, data)
            except OSError as error:
                log.warning("cannot read from the client: %s", error)
            loop.call_soon_threadsafe(reader.feed_eof)

    threading.Thread(target=run, name="codeclippy-reader", daemon=True).start()


Serve = Callable[[asyncio.StreamReader, Writer], Awaitable[int]]


async def serve_stdio(serve: Serve, stdin: int, stdout: int) -> int:
    """Serve one client over two descriptors; return the exit code."""
    loop, reader = asyncio.get_running_loop(), make_reader()

    def end_session() -> None:
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(reader.feed_eof)

    writer = DescriptorWriter(stdout, end_session)
    read_descriptor(stdin, reader, loop)
    try:
        return await serve(reader, writer)
    finally:
        writer.close()


async def serve_connected(serve: Serve, *, port: int | None = None, path: str | None = None) -> int:
    """Connect to a client that listens on a loopback port or a pipe, and serve it; return the exit code."""
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
    """Listen and serve each client with its own session, until cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = StreamWriter(writer)
        try:
            await make_serve()(reader, frames)
        except ConnectionError:
            pass
        finally:
            await frames.flush()

    server = await asyncio.start_server(connected, host, port, limit=MAX_HEADER)
    address = server.sockets[0].getsockname()
    print(f"listening on {address[0]}:{address[1]}", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()
    return 0
