"""The host process: an engine for several clients, each with a session; it exits when nobody has used it for a while.

A client's requests end with its connection. If the engine fails, every client is told and the process exits at once;
the clients start another. Source text is never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import hmac
import logging
import os
import sys
from collections.abc import Callable

from filelock import FileLock, Timeout

from codeclippy_ls.host import messages
from codeclippy_ls.host.address import (
    ALREADY_RUNNING,
    CODE_VERSION,
    STARTER_VARIABLE,
    HostAddress,
    is_same_user,
    listen,
    open_regular_file,
)
from codeclippy_ls.host.messages import JsonObject
from codeclippy_ls.inference.engine import STEP_TIMEOUT, LocalEngine, ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Generation, Priority, Request
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.listening import ConnectionLimit
from codeclippy_ls.tasks.model_info import describe_status

log = logging.getLogger(__name__)

_ENGINE_FAILED, _NO_FOLDER = 70, 72  # exit codes
_MAX_REQUESTS = 256  # of one client, in flight
_HANDSHAKE_TIMEOUT = 10.0  # seconds
_REJECTION_DELAY = 0.2  # seconds for a rejected client to read why
_CHECK_INTERVAL = 1.0  # seconds
_FIRST_CLIENT_TIMEOUT = 60.0  # seconds for the first client, which started the host

OpenEngine = Callable[[StatusListener], LocalEngine]


class EngineHost:
    """The engine and its clients' sessions. Belongs to the loop thread.

    Args:
        open_engine: makes the engine, given a listener that may be called from any thread.

    Attributes:
        idle_seconds: how long the host stays without a client; the clients decide.
        had_client: whether a handshake has been done.
    """

    def __init__(self, address: HostAddress, open_engine: OpenEngine) -> None:
        self.address, self.token = address, ""
        self.version = CODE_VERSION
        self.idle_seconds = _FIRST_CLIENT_TIMEOUT
        self.had_client = False
        self._wake = asyncio.Event()
        self.sessions: set[Session] = set()
        self.specs: dict[str, ModelSpec] = {}
        self._logged_states: dict[str, ModelState] = {}
        loop = asyncio.get_running_loop()

        def on_status(key: str, status: ModelStatus) -> None:
            loop.call_soon_threadsafe(self._on_status, key, status)

        self.engine = open_engine(on_status)

    async def run(self) -> int:
        """Serve until nobody has been connected for a while, or nobody can come, or the engine fails.

        Returns:
            The exit code.
        """
        loop = asyncio.get_running_loop()
        server, self.token = await listen(self.address, self._on_connection)
        socket = self.address.socket.stat()
        last_used = loop.time()
        while (
            self.engine.failure is None
            and not self._is_replaced(socket)
            and (
                self.sessions
                or (
                    loop.time() - last_used < self.idle_seconds
                    and self._owns_socket(socket)
                    and self._expects_clients()
                )
            )
        ):
            self._wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _CHECK_INTERVAL)
            last_used = loop.time() if self.sessions else last_used
        if self._owns_socket(socket):
            self.address.socket.unlink()
            self.address.process.unlink(missing_ok=True)
        server.close()
        if (reason := self.engine.failure) is not None:
            await self._report_failure(reason)
        self.engine.close()
        return 0 if reason is None else _ENGINE_FAILED

    def _owns_socket(self, socket: os.stat_result) -> bool:
        """Return whether the file that clients connect to is still this host's."""
        try:
            return os.path.samestat(socket, self.address.socket.stat())
        except OSError:
            return False

    def _is_replaced(self, socket: os.stat_result) -> bool:
        """Return whether another host listens at the address: it took this one for dead while it was suspended."""
        return self.address.socket.exists() and not self._owns_socket(socket)

    def _expects_clients(self) -> bool:
        """Return whether a client may come: the process that started the host does, unless it died before."""
        starter = os.environ.get(STARTER_VARIABLE)  # on Windows, a launcher may be between the two
        return self.had_client or starter is None or sys.platform == "win32" or starter == str(os.getppid())

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, writer)
        self.sessions.add(session)
        try:
            if is_same_user(writer):
                await session.run(reader)
        finally:
            self.sessions.discard(session)
            session.close()
            self._wake.set()

    def use_model(self, spec: ModelSpec, session: Session) -> str:
        """Return the engine's name for a spec, and note that the session uses it.

        If the model must be loaded, those that no session uses are unloaded: somebody chose another model.
        """
        key = repr(spec)
        session.models.add(key)
        if key not in self.specs:
            self.specs[key] = spec
            self.engine.set_model(key, spec)
        if self.engine.status(key).state is not ModelState.READY:
            used = set[str]().union(*(other.models for other in self.sessions))
            for unused in self.specs.keys() - used:
                if self.engine.status(unused).state is ModelState.READY:
                    self.engine.unload(unused)
        return key

    def statuses(self) -> list[JsonObject]:
        """Return the status of each model, as JSON."""
        return [messages.encode_status(spec, self.engine.status(key)) for key, spec in self.specs.items()]

    def _on_status(self, key: str, status: ModelStatus) -> None:
        if self._logged_states.get(key) is not status.state:  # not each step of a long preparation
            self._logged_states[key] = status.state
            level = logging.ERROR if status.state is ModelState.FAILED else logging.INFO
            log.log(level, "%s", describe_status(self.specs[key].name, status))
        if self.engine.failure is not None:
            self._wake.set()
        else:
            for session in self.sessions:
                session.notify("status", messages.encode_status(self.specs[key], status))

    async def _report_failure(self, reason: str) -> None:
        spec = self.specs.get(self.engine.failed_model)
        params = {"reason": reason, "spec": messages.encode_spec(spec) if spec is not None else None}
        for session in self.sessions:
            session.notify("failed", params)
        await asyncio.gather(*(session.peer.frames.flush() for session in self.sessions))


class Session:
    """One client and its requests in flight."""

    def __init__(self, host: EngineHost, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._handles: dict[int, RequestHandle] = {}
        self._handshake_done = False
        self.models: set[str] = set()
        requests = {"handshake": self.handshake, "load": self.load, "submit": self.submit, "ping": self.ping}
        self.peer = messages.Peer(writer, requests, {"cancel": self.cancel, "release": self.release})

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve the client until it disconnects, or does not begin with a handshake in time."""
        timer = asyncio.get_running_loop().call_later(_HANDSHAKE_TIMEOUT, self._close_without_handshake)
        try:
            await self.peer.run(reader)
        finally:
            timer.cancel()

    def close(self) -> None:
        """Disconnect and cancel the client's requests."""
        self.peer.frames.close()
        for handle in self._handles.values():
            handle.cancel()

    def notify(self, method: str, params: JsonObject) -> None:
        """Notify the client, if the handshake is done."""
        if self._handshake_done:
            self.peer.notify(method, params)

    async def handshake(self, params: JsonObject) -> JsonObject:
        """Accept a client that has the token and runs the same code."""
        asyncio.get_running_loop().call_later(_REJECTION_DELAY, self._close_without_handshake)
        if not hmac.compare_digest(str(params.get("token")).encode(), self._host.token.encode()):
            raise EngineError("the engine host rejects this client: its token is wrong; restart the language server")
        if params.get("version") != self._host.version:
            raise EngineError("Code Clippy was changed since it was started; restart the language server")
        self._handshake_done = self._host.had_client = True
        self._host.idle_seconds = float(params.get("idle_seconds", self._host.idle_seconds))
        return {"process": os.getpid(), "statuses": self._host.statuses()}

    async def ping(self, params: JsonObject) -> None:
        """Show that this loop runs."""

    async def load(self, params: JsonObject) -> None:
        """Load a model."""
        engine = self._engine()
        await self._result(engine.load(self._host.use_model(messages.decode_spec(params["spec"]), self)))

    async def submit(self, params: JsonObject) -> JsonObject:
        """Run a request, and send its text as it grows if the client wants that."""
        engine, id = self._engine(), params["id"]
        if len(self._handles) >= _MAX_REQUESTS:
            raise EngineError(f"more than {_MAX_REQUESTS} requests of one editor wait; try again in a moment")
        model = self._host.use_model(messages.decode_spec(params["spec"]), self)
        task, sampling = messages.decode_task(params["task"]), messages.decode_sampling(params["sampling"])
        handle = engine.submit(Request(task, sampling, model, client=self), Priority(params["priority"]))
        self._handles[id] = handle
        try:
            if params["stream"]:
                async for delta in handle.deltas():
                    self.peer.notify("delta", {"id": id, "text": delta})
            return messages.encode_generation(await self._result(handle))
        finally:
            del self._handles[id]

    def release(self, params: JsonObject) -> None:
        """Note that the client uses a model no more: it may be unloaded when another one needs the memory."""
        self.models.discard(repr(messages.decode_spec(params["spec"])))

    def cancel(self, params: JsonObject) -> None:
        """Cancel a request."""
        if (handle := self._handles.get(params["id"])) is not None:
            handle.cancel()

    async def _result(self, handle: RequestHandle) -> Generation:
        try:
            return await handle.result()
        except EngineError:
            if self._host.engine.failure is not None:
                await asyncio.Event().wait()  # the process exits, and tells every client at once
            raise

    def _engine(self) -> LocalEngine:
        if not self._handshake_done:
            raise EngineError("the engine host expects a handshake first")
        return self._host.engine

    def _close_without_handshake(self) -> None:
        if not self._handshake_done:
            self.peer.frames.close()


def run_host(address: HostAddress, open_engine: OpenEngine) -> int:
    """Run the engine host of an address; returns the exit code, `ALREADY_RUNNING` if one is running."""
    if not address.folder.is_dir():  # removed since; filelock would make it again, open to others
        return _NO_FOLDER
    lock = FileLock(address.lock, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        return ALREADY_RUNNING
    _write_process_id(address)
    faulthandler.enable()

    async def serve() -> int:
        ConnectionLimit(log).watch(asyncio.get_running_loop())
        watchdog = asyncio.create_task(_feed_watchdog())
        try:
            return await EngineHost(address, open_engine).run()
        finally:
            watchdog.cancel()

    try:
        code = asyncio.run(serve())
        logging.shutdown()
        # The engine's thread may be inside a step that never ends; the lock ends with the process.
        os._exit(code)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _write_process_id(address: HostAddress) -> None:
    """Let clients know which process to end if it stops; without the file (on a full disk), they cannot."""
    with contextlib.suppress(OSError):
        descriptor = open_regular_file(address.process, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(str(os.getpid()))


async def _feed_watchdog() -> None:
    """Keep postponing the end of this process.

    Native code that never returns to Python also stops this loop, so that no code here could notice; then the watchdog
    ends the process. Only for the host's own process: the watchdog ends whatever else runs in it.
    """
    while True:
        faulthandler.dump_traceback_later(2 * STEP_TIMEOUT, exit=True)
        await asyncio.sleep(_CHECK_INTERVAL)
