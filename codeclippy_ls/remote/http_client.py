"""HTTP with one service: JSON out, JSON or an event stream in; every failure becomes a `RemoteError`.

Leaving a stream closes its connection, which tells the service that nobody waits any more. Redirects are not followed:
code goes where the user said, and nowhere else. The environment's proxies are used for https, of which they see only
the host's name, and never for this machine. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from codeclippy_ls.remote.endpoint import Endpoint, is_loopback_address
from codeclippy_ls.remote.errors import ErrorKind, RemoteError, make_status_error
from codeclippy_ls.remote.events import EventStreamParser, JsonObject, parse_json_object

if TYPE_CHECKING:
    import httpx2

_CONNECT_TIMEOUT = 5.0  # seconds
_WRITE_TIMEOUT = 10.0  # seconds
_MAX_BODY = 4 << 20  # bytes of a response that is not a stream
_MAX_ERROR_BODY = 64 << 10


class HttpClient:
    """The connections to one endpoint. Belongs to the loop thread.

    Args:
        read_timeout: seconds without a byte after which a request fails.
    """

    def __init__(self, endpoint: Endpoint, key: str, read_timeout: float) -> None:
        self.endpoint = endpoint
        self._key = key
        self._read_timeout = read_timeout
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def get(self, path: str, from_root: bool = False) -> JsonObject:
        """Return the JSON object at a path of the interface, or at one beside it (``from_root``).

        Raises:
            RemoteError: there is none.
        """
        root = self.endpoint.url.removesuffix("/v1") if from_root else self.endpoint.url
        async with self._request("GET", path, None, root=root) as response:
            return parse_json_object(await self._read_body(response), self.endpoint.url, key=self._key)

    async def stream_events(self, path: str, body: JsonObject, sent: str) -> AsyncGenerator[JsonObject | None, None]:
        """Post a request and yield the events of the response; a single one if the service does not stream.

        The last one is ``None`` if the service says that its answer is complete.

        Args:
            sent: the text that no message may repeat.

        Raises:
            RemoteError: the response is not as expected, or stops in the middle.
        """
        async with self._request("POST", path, body, sent) as response:
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if content_type == "application/json":
                yield parse_json_object(await self._read_body(response), self.endpoint.url, sent, self._key)
                yield None
                return
            if content_type != "text/event-stream":
                raise RemoteError(
                    f"{self.endpoint.url} answers with {content_type[:40] or 'no content type'} instead of events; "
                    'see the setting "model.endpoint", which usually ends in /v1',
                    ErrorKind.GARBLED,
                )
            parser = EventStreamParser(self.endpoint.url, sent, self._key)
            async for data in response.aiter_raw():
                for event in parser.feed(data):
                    yield event
                if parser.done:
                    yield None
                    return

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: JsonObject | None, sent: str = "", root: str = ""
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request and yield the response with status 200, whose body has not been read."""
        client = await self._open()
        import httpx2

        url = self.endpoint.url
        try:
            response = await _send(client, method, (root or url) + path, body)
            try:
                if response.status_code != 200:
                    error_body = await self._read_error_body(response)
                    retry_after = response.headers.get("retry-after", "")
                    raise make_status_error(url, response.status_code, error_body, retry_after, sent, self._key)
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise RemoteError(f"{url} sends a compressed answer, which was not asked for", ErrorKind.GARBLED)
                yield response
            finally:
                await response.aclose()
        except httpx2.ConnectTimeout:
            raise RemoteError(
                f"{url} cannot be reached within {_CONNECT_TIMEOUT:.0f} seconds", ErrorKind.UNREACHABLE
            ) from None
        except httpx2.TimeoutException:
            raise RemoteError(f"{url} sent nothing for {self._read_timeout:.0f} seconds", ErrorKind.SLOW) from None
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise RemoteError(
                f"{url} cannot be reached ({_find_cause(error)}); is the service running there?", ErrorKind.UNREACHABLE
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise RemoteError(f"{url} closed the connection ({type(error).__name__})", ErrorKind.BROKEN) from None
        except httpx2.InvalidURL:
            raise RemoteError('setting "model.endpoint" is not a URL', ErrorKind.MISSING) from None

    async def _read_body(self, response: httpx2.Response) -> bytes:
        """Return a response's body.

        Raises:
            RemoteError: it is longer than 4 MiB.
        """
        body = b""
        async for data in response.aiter_raw():
            body += data
            if len(body) > _MAX_BODY:
                raise RemoteError(f"the answer of {self.endpoint.url} exceeds {_MAX_BODY >> 20} MiB", ErrorKind.GARBLED)
        return body

    async def _read_error_body(self, response: httpx2.Response) -> bytes:
        """Return the first 64 KiB of a response's body."""
        body = b""
        async for data in response.aiter_raw():
            body += data
            if len(body) > _MAX_ERROR_BODY:
                break
        return body[:_MAX_ERROR_BODY]

    async def _open(self) -> httpx2.AsyncClient:
        """Return the client, made on another thread: its library and the certificates take time to load."""
        async with self._opening:
            if self.endpoint.loopback:
                await self._check_loopback()
            if self._client is None:
                if sys.version_info < (3, 11):
                    raise RemoteError('setting "model.endpoint" needs Python 3.11 or newer', ErrorKind.MISSING)
                try:
                    self._client = await asyncio.to_thread(self._make_client)
                except (OSError, ValueError) as error:  # the environment's certificates or proxies
                    raise RemoteError(
                        f"{self.endpoint.url} cannot be called: the environment's certificates or proxies are invalid "
                        f"({type(error).__name__}); see the variables SSL_CERT_FILE and HTTPS_PROXY",
                        ErrorKind.UNREACHABLE,
                    ) from None
            return self._client

    async def _check_loopback(self) -> None:
        """Refuse ``localhost`` if the system resolves it to another machine."""
        if self.endpoint.host != "localhost":
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
        except OSError:
            found = []
        if not found or not all(is_loopback_address(str(address[0])) for *_, address in found):
            raise RemoteError(
                'setting "model.endpoint": localhost does not resolve to this machine; use 127.0.0.1',
                ErrorKind.UNREACHABLE,
            )

    def _make_client(self) -> httpx2.AsyncClient:
        import httpx2

        for library in ("httpx2", "httpcore2"):  # at lower levels they log headers
            logging.getLogger(library).setLevel(logging.WARNING)
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        timeout = httpx2.Timeout(self._read_timeout, connect=_CONNECT_TIMEOUT, write=_WRITE_TIMEOUT)
        return httpx2.AsyncClient(
            headers=headers,
            timeout=timeout,
            follow_redirects=False,
            trust_env=not self.endpoint.loopback,
            verify=httpx2.create_ssl_context(),  # also on loopback with the authorities that the environment names
            limits=httpx2.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=4.0),
        )


async def _send(client: httpx2.AsyncClient, method: str, url: str, body: JsonObject | None) -> httpx2.Response:
    """Send a request and return the response, whose body has not been read.

    The service may have closed a connection that was kept open: a request that fails on one is sent again, once.
    """
    import httpx2

    for is_last_try in (False, True):
        is_new_connection = False

        async def trace(name: str, details: object) -> None:
            nonlocal is_new_connection
            is_new_connection = is_new_connection or name.startswith("connection.connect")

        request = client.build_request(method, url, json=body, extensions={"trace": trace})
        try:
            return await client.send(request, stream=True)
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
            if is_new_connection or is_last_try:
                raise
    raise AssertionError("unreachable")


def _find_cause(error: Exception) -> str:
    """Return the operating system's or TLS's own words on why there is no connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no connection"
