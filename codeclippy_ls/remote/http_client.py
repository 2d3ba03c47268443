"""HTTP with one service: JSON out, JSON or a stream of events in; every failure as one `RemoteError`.

Leaving a stream closes its connection, which is how a service learns that nobody waits any more. Redirects are not
followed: code goes where the user said, and nowhere else. Proxies of the environment are used for https, of which they
see nothing but the host's name, and never for this machine. Knows no models.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from codeclippy_ls.remote.endpoint import Endpoint, is_loopback_address
from codeclippy_ls.remote.errors import ErrorKind, RemoteError, refusal
from codeclippy_ls.remote.events import EventStreamParser, parse_json_object

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 5.0
_WRITE_SECONDS = 10.0
_MOST_WHOLE = 4 << 20  # bytes of an answer that is no stream
_MOST_REFUSAL = 64 << 10


class HttpClient:
    """The connections to one endpoint. Belongs to the loop.

    Args:
        patience: seconds without a byte after which a service counts as stuck.
    """

    def __init__(self, endpoint: Endpoint, key: str, patience: float) -> None:
        self.endpoint = endpoint
        self._key = key
        self._patience = patience
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def get(self, path: str) -> Any:
        """The JSON object at a path.

        Raises:
            RemoteError: there is none.
        """
        async with self._asked("GET", path, None) as response:
            return parse_json_object(await self._whole(response, _MOST_WHOLE), self.endpoint.url)

    async def events(self, path: str, body: dict[str, Any], sent: str) -> AsyncGenerator[Any, None]:
        """What a service answers to a request, event by event; as one where it does not stream.

        Args:
            sent: the text that no message may repeat.

        Raises:
            RemoteError: it does not answer as it should, or stops in the middle.
        """
        async with self._asked("POST", path, body, sent) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":
                yield parse_json_object(await self._whole(response, _MOST_WHOLE), self.endpoint.url)
                return
            if kind != "text/event-stream":
                raise RemoteError(
                    f"{self.endpoint.url} answers with {kind[:40] or 'no type'}, not with events; "
                    '"model.endpoint" ends in /v1 as a rule',
                    ErrorKind.GARBLED,
                )
            events = EventStreamParser(self.endpoint.url)
            async for data in response.aiter_raw():
                for event in events.feed(data):
                    yield event
                if events.done:
                    return

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: dict[str, Any] | None, sent: str = ""
    ) -> AsyncIterator[httpx2.Response]:
        """An answer with status 200, whose body is still to be read."""
        client = await self._opened()
        import httpx2

        url = self.endpoint.url
        try:
            response = await _sent(client, method, url + path, body)
            try:
                if response.status_code != 200:
                    said = await self._whole(response, _MOST_REFUSAL, cut=True)
                    raise refusal(
                        url, response.status_code, said, response.headers.get("retry-after", ""), sent, self._key
                    )
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise RemoteError(f"{url} sends compressed what was asked for plain", ErrorKind.GARBLED)
                yield response
            finally:
                await response.aclose()
        except httpx2.ConnectTimeout:
            raise RemoteError(
                f"{url} cannot be reached within {CONNECT_SECONDS:.0f} seconds", ErrorKind.UNREACHABLE
            ) from None
        except httpx2.TimeoutException:
            raise RemoteError(f"{url} sent nothing for {self._patience:.0f} seconds", ErrorKind.SLOW) from None
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise RemoteError(
                f"{url} cannot be reached ({_cause(error)}); is the service running there?", ErrorKind.UNREACHABLE
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise RemoteError(f"{url} broke off ({type(error).__name__})", ErrorKind.BROKEN) from None
        except httpx2.InvalidURL:
            raise RemoteError('setting "model.endpoint" is no URL', ErrorKind.MISSING) from None

    async def _whole(self, response: httpx2.Response, most: int, cut: bool = False) -> bytes:
        """An answer's body, at most so long; a longer one is cut or refused."""
        found = b""
        async for data in response.aiter_raw():
            found += data
            if len(found) > most:
                if cut:
                    return found[:most]
                raise RemoteError(f"{self.endpoint.url} sends without end", ErrorKind.GARBLED)
        return found

    async def _opened(self) -> httpx2.AsyncClient:
        """The client, made beside the loop: its library and the certificates take time to load."""
        async with self._opening:
            if self.endpoint.loopback:
                await self._check_loopback()
            if self._client is None:
                if sys.version_info < (3, 11):
                    raise RemoteError('"model.endpoint" needs Python 3.11 or newer', ErrorKind.MISSING)
                try:
                    self._client = await asyncio.to_thread(self._made)
                except (OSError, ValueError) as error:  # certificates or proxies of the environment
                    raise RemoteError(
                        f"{self.endpoint.url} cannot be asked: the certificates or proxies of the "
                        f"environment are wrong ({type(error).__name__})",
                        ErrorKind.UNREACHABLE,
                    ) from None
            return self._client

    async def _check_loopback(self) -> None:
        """Refuse a name of this machine that the system resolves to another one."""
        if self.endpoint.host.lower() != "localhost":
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
        except OSError:
            found = []
        if not found or not all(is_loopback_address(str(address[0])) for *_, address in found):
            raise RemoteError(
                'setting "model.endpoint": localhost is not this machine here; use 127.0.0.1', ErrorKind.UNREACHABLE
            )

    def _made(self) -> httpx2.AsyncClient:
        import httpx2

        for library in ("httpx2", "httpcore2"):  # at lower levels they log headers
            logging.getLogger(library).setLevel(logging.WARNING)
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        timeout = httpx2.Timeout(self._patience, connect=CONNECT_SECONDS, write=_WRITE_SECONDS)
        return httpx2.AsyncClient(
            headers=headers,
            timeout=timeout,
            follow_redirects=False,
            trust_env=not self.endpoint.loopback,
            verify=httpx2.create_ssl_context(),  # also on loopback with the authorities that the environment names
            limits=httpx2.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=4.0),
        )


async def _sent(client: httpx2.AsyncClient, method: str, url: str, body: dict[str, Any] | None) -> httpx2.Response:
    """The beginning of an answer. A connection that was kept open may have been closed at its other end meanwhile:
    what fails on such a one is sent again on another, once."""
    import httpx2

    for last in (False, True):
        fresh = False

        async def trace(name: str, details: Any) -> None:
            nonlocal fresh
            fresh = fresh or name.startswith("connection.connect")

        request = client.build_request(method, url, json=body, extensions={"trace": trace})
        try:
            return await client.send(request, stream=True)
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
            if fresh or last:
                raise
    raise AssertionError("unreachable")


def _cause(error: Exception) -> str:
    """The first word of the operating system, or of TLS, on why there is no connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no connection"
