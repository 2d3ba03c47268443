"""Read and write JSON-RPC frames on a stream, with limits on their size and on unsent bytes. Knows no methods."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, SupportsIndex

MAX_HEADER = 4096  # bytes
MAX_BODY = 64 << 20  # bytes
MAX_SKIPPED = 4 << 30  # bytes of a body that is read past; a longer one is no message
_EXCERPT = 1 << 14  # bytes at either end of such a body
MAX_UNSENT = 64 << 20  # bytes
FLUSH_TIMEOUT = 2.0  # seconds


class FrameError(Exception):
    """The input is not a frame of the protocol; nothing after it can be read."""


class OversizedError(FrameError):
    """A message was too long, and was read past: the next one can be read.

    Attributes:
        length: of the body, in bytes.
        head, tail: the body's first and last bytes.
    """

    def __init__(self, length: int, head: bytes, tail: bytes) -> None:
        super().__init__(f"message of {length} bytes; the limit is {MAX_BODY}")
        self.length, self.head, self.tail = length, head, tail


class Writer(Protocol):
    """A sink for frames."""

    def write(self, data: bytes) -> None:
        """Queue bytes and return at once."""

    def close(self) -> None:
        """Send the queued bytes, within two seconds, and close."""


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Read the body of the next message; ``None`` at the end of the stream.

    Raises:
        OversizedError: the body is too long; it has been read past.
        FrameError: the header is malformed (like that of an HTTP request) or too long.
    """
    try:
        header = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise FrameError("the stream ended inside a header") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise FrameError(f"header longer than {MAX_HEADER} bytes") from error
    length = _content_length(header)
    try:
        if length > MAX_BODY:
            raise await _skip(reader, length)
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise FrameError(f"the stream ended {length - len(error.partial)} bytes too early") from error


async def _skip(reader: asyncio.StreamReader, length: int) -> OversizedError:
    """Read past a body, piece by piece, and return the error that describes it."""
    head = await reader.readexactly(_EXCERPT)
    left, tail = length - len(head), b""
    while left:
        piece = await reader.readexactly(min(left, 1 << 16))
        left -= len(piece)
        tail = (tail + piece)[-_EXCERPT:]
    return OversizedError(length, head, tail)


def _content_length(header: bytes) -> int:
    length: int | None = None
    for line in header[:-4].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or b" " in name.strip():
            raise FrameError(f"a line of {len(line)} bytes is not a header field")
        if name.strip().lower() == b"content-length":
            digits = value.strip()
            if not digits.isdigit() or len(digits) > 12 or (length is not None and length != int(digits)):
                raise FrameError("invalid Content-Length")
            length = int(digits)
    if length is None:
        raise FrameError("header without Content-Length")
    if length > MAX_SKIPPED:
        raise FrameError(f"message of {length} bytes; the limit is {MAX_BODY}")
    return length


def encode_frame(body: bytes) -> bytes:
    """Encode a message's body as a frame."""
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


class _Reader(asyncio.StreamReader):
    """A reader that drops data after the end of the stream: asyncio would log it as part of an error."""

    _ended = False

    def feed_eof(self) -> None:
        self._ended = True
        super().feed_eof()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        if not self._ended:
            super().feed_data(data)


def make_reader() -> asyncio.StreamReader:
    """Make a reader that refuses headers longer than ``MAX_HEADER``."""
    return _Reader(limit=MAX_HEADER)


class StreamWriter:
    """Writes to a socket or pipe, and disconnects from a client that does not read, as on stdio."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        """Queue bytes; disconnect if more than 64 MiB are unsent."""
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self._writer.transport.abort()

    def close(self) -> None:
        """Send the queued bytes and close."""
        self._writer.close()

    async def flush(self) -> None:
        """Close, and wait up to two seconds until the queued bytes have been sent."""
        self.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), FLUSH_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            pass
