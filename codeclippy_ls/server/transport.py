"""Frames over stdio, a pipe or a socket.

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
from typing import Protocol

log = logging.getLogger(__name__)

MAX_HEADER = 4096
MAX_BODY = 64 << 20
_MAX_UNSENT = 64 << 20
_FLUSH_SECONDS = 2.0


class FrameError(Exception):
    """What came in is no frame of the protocol; the stream cannot be followed any further."""


class Writer(Protocol):
    """Where frames go."""

    def write(self, data: bytes) -> None:
        """Queue bytes; returns at once."""

    def close(self) -> None:
        """Send what is queued, for a moment at most, and end."""


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message's body, ``None`` at the end of the stream.

    Raises:
        FrameError: the header is malformed (an HTTP request is, too), too long, or promises too much.
    """
    try:
        header = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise FrameError("the stream ended inside a header") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise FrameError(f"no end of header within {MAX_HEADER} bytes") from error
    length = _content_length(header)
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise FrameError(f"the stream ended {length - len(error.partial)} bytes before the message") from error


def _content_length(header: bytes) -> int:
    length: int | None = None
    for line in header[:-4].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or b" " in name.strip():
            raise FrameError(f"not a header field: {line[:60]!r}")
        if name.strip().lower() == b"content-length":
            digits = value.strip()
            if not digits.isdigit() or len(digits) > 12 or (length is not None and length != int(digits)):
                raise FrameError(f"not a length: {value[:60]!r}")
            length = int(digits)
    if length is None:
        raise FrameError("a header without Content-Length")
    if length > MAX_BODY:
        raise FrameError(f"a message of {length} bytes; {MAX_BODY} is the most")
    return length


def frame(body: bytes) -> bytes:
    """A message as it goes over the wire."""
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def new_reader() -> asyncio.StreamReader:
    """A reader that refuses headers longer than ``MAX_HEADER``."""
    return asyncio.StreamReader(limit=MAX_HEADER)


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

    def __init__(self, descriptor: int, lost: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._lost = lost
        self._unsent = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="codeclippy-writer", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue bytes; a client that has not read 64 MB is given up."""
        with self._lock:
            self._unsent += len(data)
            too_much = self._unsent > _MAX_UNSENT
        if too_much:
            self._lost()
            return
        self._queue.put(data)

    def close(self) -> None:
        """Flush for two seconds at most."""
        self._queue.put(None)
        self._thread.join(_FLUSH_SECONDS)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError:
                self._lost()
                return
            with self._lock:
                self._unsent -= len(data)


def read_descriptor(descriptor: int, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
    """Feed a descriptor's bytes to a reader from a daemon thread, until its end."""

    def run() -> None:
        try:
            while data := os.read(descriptor, 1 << 16):
                loop.call_soon_threadsafe(reader.feed_data, data)
        except OSError as error:
            log.warning("reading failed: %s", error)
        try:
            loop.call_soon_threadsafe(reader.feed_eof)
        except RuntimeError:  # the loop has closed
            pass

    threading.Thread(target=run, name="codeclippy-reader", daemon=True).start()


Serve = Callable[[asyncio.StreamReader, Writer], Awaitable[int]]


async def serve_stdio(serve: Serve, stdin: int, stdout: int) -> int:
    """Serve one client over two descriptors; returns the exit code."""
    loop, reader = asyncio.get_running_loop(), new_reader()

    def lost() -> None:
        loop.call_soon_threadsafe(reader.feed_eof)

    writer = DescriptorWriter(stdout, lost)
    read_descriptor(stdin, reader, loop)
    try:
        return await serve(reader, writer)
    finally:
        writer.close()


class StreamWriter:
    """Writes to a socket or pipe; a client that does not read is given up as one on stdio is."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        """Queue bytes; the connection is dropped where 64 MB are unread."""
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT:
            self._writer.transport.abort()

    def close(self) -> None:
        """Send what is queued and end."""
        self._writer.close()

    async def flushed(self) -> None:
        """Wait, for a moment at most, until what was queued has gone out."""
        self.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), _FLUSH_SECONDS)
        except (OSError, asyncio.TimeoutError):
            pass


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
        await frames.flushed()


async def _open_pipe(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if sys.platform != "win32":
        return await asyncio.open_unix_connection(path, limit=MAX_HEADER)
    loop, reader = asyncio.get_running_loop(), new_reader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_pipe_connection(lambda: protocol, path)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def listen_tcp(make_serve: Callable[[], Serve], host: str, port: int) -> int:
    """Listen, with a session of its own for each client; runs until it is cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = StreamWriter(writer)
        try:
            await make_serve()(reader, frames)
        except ConnectionError:
            pass
        finally:
            await frames.flushed()

    server = await asyncio.start_server(connected, host, port, limit=MAX_HEADER)
    address = server.sockets[0].getsockname()
    print(f"listening on {address[0]}:{address[1]}", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()
    return 0
