"""Finding a place's host, or starting it: whoever comes first does, and everybody else finds that one."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pygls.exceptions import JsonRpcException

from codeclippy_ls.host.address import ALREADY_RUNNING, PACKAGE, STARTER, HostAddress, HostError, connect, version
from codeclippy_ls.host.messages import Peer

log = logging.getLogger(__name__)

_START_SECONDS = 60.0  # for a host to listen; it has imported nothing heavy by then
_HELLO_SECONDS = 10.0
_LOOK_SECONDS = 0.03
_MOST_LOG = 1 << 20

Notifications = Mapping[str, Callable[[Any], None]]


class HostConnection:
    """A client's end of a connection that has said hello.

    Attributes:
        process: the host's id.
        statuses: what the host has loaded, as JSON.
    """

    def __init__(self, peer: Peer, reading: asyncio.Task[None], hello: Mapping[str, Any]) -> None:
        self.peer = peer
        self.process: int = hello["process"]
        self.statuses: list[Any] = hello["statuses"]
        self._reading = reading

    async def ended(self, seconds: float, answer: asyncio.Future[Any] | None = None) -> bool:
        """Wait so long, or until an answer comes, for its end; whether it ended."""
        awaited = {self._reading} if answer is None else {self._reading, answer}
        await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return self._reading.done()

    def close(self) -> None:
        """Leave the host."""
        self._reading.cancel()
        self.peer.frames.close()


async def connect_or_start(
    place: HostAddress, command: Sequence[str], idle: float, notifications: Notifications
) -> HostConnection:
    """A connection to the place's host, which ``command`` starts where there is none.

    Args:
        idle: seconds that the host stays when nobody is connected.

    Raises:
        HostError: it cannot be started, or does not let this client in.
    """
    deadline = time.monotonic() + _START_SECONDS
    process: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline:
        try:
            return await _greeted(place, idle, notifications)
        except OSError:
            pass  # nobody listens, or it was about to end
        if process is None:
            process = _started(place, command)
        elif (code := process.poll()) is not None:
            if code != ALREADY_RUNNING:
                raise HostError(f"the engine host could not be started (exit code {code}); {place.log} may say why")
            process = None
        await asyncio.sleep(_LOOK_SECONDS)
    raise HostError(f"the engine host did not start within {_START_SECONDS:g} s; {place.log} may say why")


async def _greeted(place: HostAddress, idle: float, notifications: Notifications) -> HostConnection:
    """A connection to the host that listens.

    Raises:
        OSError: none does.
        HostError: it does not let this client in, or is about to end.
    """
    reader, writer, token = await connect(place)
    peer = Peer(writer, {}, notifications)
    reading = asyncio.get_running_loop().create_task(peer.run(reader))
    hello = peer.send_request_async("hello", {"version": version(), "token": token, "idle": idle})
    try:
        await asyncio.wait({hello, reading}, timeout=_HELLO_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if hello.done():
            return HostConnection(peer, reading, hello.result())
        raise HostError("the engine host does not answer")
    except BaseException as error:
        reading.cancel()
        peer.frames.close()
        if isinstance(error, JsonRpcException):
            raise HostError(error.message, permanent=True) from error
        raise


def _started(place: HostAddress, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the host as a process of its own, which outlives this one.

    Raises:
        HostError: it cannot be started.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        own = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        detached = {"creationflags": own}
    try:
        log_file = os.open(place.log, flags, 0o600)
        try:
            if os.fstat(log_file).st_size > _MOST_LOG:
                os.truncate(log_file, 0)
            # In its own folder: the editor's may hold files that are named like modules.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_file,
                cwd=place.folder,
                env=_environment(),
                **detached,
            )
        finally:
            os.close(log_file)
    except OSError as error:
        raise HostError(f"the engine host could not be started: {error.strerror}") from error


def _environment() -> dict[str, str]:
    """Copy this process's environment and add its id; module paths become absolute, since the host runs elsewhere."""
    environment = {**os.environ, STARTER: str(os.getpid())}
    places = [os.path.abspath(place) for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]  # noqa: PTH100
    if PACKAGE.parent.name not in ("site-packages", "dist-packages"):  # a checkout, perhaps found by the current folder
        places = [str(PACKAGE.parent), *(place for place in places if place != str(PACKAGE.parent))]
    if places:
        environment["PYTHONPATH"] = os.pathsep.join(places)
    return environment
