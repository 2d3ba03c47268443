"""JSON-RPC frames over a stream, with caps on what comes in and on what stays unread. Knows no methods."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, SupportsIndex

MAX_HEADER = 4096
MAX_BODY = 64 << 20
MAX_UNSENT = 64 << 20
FLUSH_TIMEOUT = 2.0


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


def encode_frame(body: bytes) -> bytes:
    """A message as it goes over the wire."""
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


class _Reader(asyncio.StreamReader):
    """Drops what comes behind its end: asyncio would put it, as part of an error, into the log."""

    _ended = False

    def feed_eof(self) -> None:
        self._ended = True
        super().feed_eof()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        if not self._ended:
            super().feed_data(data)


def make_reader() -> asyncio.StreamReader:
    """A reader that refuses headers longer than ``MAX_HEADER``."""
    return _Reader(limit=MAX_HEADER)


class StreamWriter:
    """Writes to a socket or pipe; a client that does not read is given up as one on stdio is."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        """Queue bytes; the connection is dropped where 64 MB are unread."""
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self._writer.transport.abort()

    def close(self) -> None:
        """Send what is queued and end."""
        self._writer.close()

    async def flush(self) -> None:
        """Wait, for a moment at most, until what was queued has gone out."""
        self.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), FLUSH_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            pass
