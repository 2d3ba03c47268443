"""Connect to the host of an address, or start it: the first client does, and all others find that one."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from pygls.exceptions import JsonRpcException

from codeclippy_ls.host.address import (
    ALREADY_RUNNING,
    CODE_VERSION,
    PACKAGE_FOLDER,
    STARTER_VARIABLE,
    HostAddress,
    HostError,
    HostRejectedError,
    open_connection,
    open_regular_file,
)
from codeclippy_ls.host.messages import JsonObject, Notifications, Peer
from codeclippy_ls.host.process import HostSilentError, find_host_process, wait_for_answer

log = logging.getLogger(__name__)

_START_TIMEOUT = 60.0  # seconds until a host listens; by then it has imported nothing heavy
_HANDSHAKE_TIMEOUT = 10.0  # seconds
_RETRY_INTERVAL = 0.03  # seconds
_LOCKED_INTERVAL = 0.25  # seconds until another process is started that tries to take the lock
_LOCKED_TIMEOUT = 5.0  # seconds that somebody may hold the lock and not listen: a host does so while it starts or ends
_MAX_LOG_BYTES = 1 << 20


class HostConnection:
    """A client's end of a connection after the handshake.

    Attributes:
        process: the host's process id.
        statuses: the statuses of the host's models, as JSON.
    """

    def __init__(self, address: HostAddress, peer: Peer, reading: asyncio.Task[None], handshake: JsonObject) -> None:
        self.peer = peer
        self._address = address
        self.process: int = handshake["process"]
        self.statuses: list[JsonObject] = handshake["statuses"]
        self._reading = reading

    async def wait_until_ended(self, timeout: float, response: asyncio.Future[Any] | None = None) -> bool:
        """Wait until the connection ends, the response comes or time is up; return whether the connection ended."""
        awaited = {self._reading} if response is None else {self._reading, response}
        await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return self._reading.done()

    async def answers(self, timeout: float) -> bool:
        """Ping the host; return False if it stands still, or does not answer in time. The connection's end counts."""
        process = find_host_process(self._address)
        return await wait_for_answer(process, {self.peer.send_request_async("ping"), self._reading}, timeout)

    def close(self) -> None:
        """Disconnect."""
        self._reading.cancel()
        self.peer.frames.close()


async def connect_or_start(
    address: HostAddress, command: Sequence[str], idle_seconds: float, notifications: Notifications
) -> HostConnection:
    """Connect to the host of an address; ``command`` starts it if there is none.

    Args:
        idle_seconds: how long the host stays when nobody is connected.

    Raises:
        HostSilentError: a host is there and does not answer.
        HostError: the host cannot be started, or rejects this client.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    process: subprocess.Popen[bytes] | None = None
    locked_at = 0.0  # when the lock was first seen to be another's
    while time.monotonic() < deadline:
        try:
            return await _connect(address, idle_seconds, notifications)
        except OSError:
            pass  # nobody listens, or the host was about to end
        if process is None:
            process = _start(address, command)
        elif (code := process.poll()) is not None:
            if code != ALREADY_RUNNING:
                raise HostError(f"the engine host could not be started (exit code {code}); {address.log} may say why")
            process, locked_at = None, locked_at or time.monotonic()
            if time.monotonic() - locked_at > _LOCKED_TIMEOUT:
                raise HostSilentError(address, find_host_process(address))
            await asyncio.sleep(_LOCKED_INTERVAL)
        await asyncio.sleep(_RETRY_INTERVAL)
    raise HostError(f"the engine host did not start within {_START_TIMEOUT:g} s; {address.log} may say why")


async def _connect(address: HostAddress, idle_seconds: float, notifications: Notifications) -> HostConnection:
    """Connect to a host that listens.

    Raises:
        OSError: none listens.
        HostSilentError: it does not answer.
        HostRejectedError: it rejects this client.
    """
    silent = find_host_process(address)
    reader, writer, token = await open_connection(address)
    peer = Peer(writer, {}, notifications)
    reading = asyncio.get_running_loop().create_task(peer.run(reader))
    handshake = peer.send_request_async(
        "handshake", {"version": CODE_VERSION, "token": token, "idle_seconds": idle_seconds}
    )
    try:
        if not await wait_for_answer(silent, {handshake, reading}, _HANDSHAKE_TIMEOUT):
            raise HostSilentError(address, silent)
        if handshake.done():
            return HostConnection(address, peer, reading, handshake.result())
        raise OSError("the engine host is about to end")
    except BaseException as error:
        reading.cancel()
        peer.frames.close()
        if isinstance(error, JsonRpcException):
            raise HostRejectedError(error.message) from error
        raise


def _start(address: HostAddress, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the host as a process that outlives this one.

    Raises:
        HostError: it cannot be started.
    """
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    try:
        log_file = open_regular_file(address.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if os.fstat(log_file).st_size > _MAX_LOG_BYTES:
                os.truncate(log_file, 0)
            # In the host's folder: the editor's current folder may hold files that are named like modules.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_file,
                cwd=address.folder,
                env=_environment(),
                **detached,
            )
        finally:
            os.close(log_file)
    except OSError as error:
        raise HostError(f"the engine host could not be started: {error.strerror}") from error


def _environment() -> dict[str, str]:
    """Copy this process's environment and add its id; module paths become absolute, since the host runs elsewhere."""
    environment = {**os.environ, STARTER_VARIABLE: str(os.getpid())}
    paths = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]  # noqa: PTH100
    if PACKAGE_FOLDER.parent.name not in ("site-packages", "dist-packages"):  # a checkout, perhaps the current folder
        paths = [str(PACKAGE_FOLDER.parent), *(path for path in paths if path != str(PACKAGE_FOLDER.parent))]
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
