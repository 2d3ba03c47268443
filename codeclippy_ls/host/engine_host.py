"""The host process: an engine that several clients use, each through a session of its own; it ends when nobody does.

A client's requests end with its connection. What fails the engine ends the process, hard, after everybody was told:
their side starts another. Source text is never logged.
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
from typing import Any

from filelock import FileLock, Timeout

from codeclippy_ls.host import messages
from codeclippy_ls.host.address import ALREADY_RUNNING, STARTER, HostAddress, is_own, listen, version
from codeclippy_ls.inference.engine import STEP_TIMEOUT, LocalEngine, ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Priority, Request
from codeclippy_ls.inference.spec import ModelSpec

log = logging.getLogger(__name__)

_FAILED = 70  # exit code: the engine failed
_MOST_WAITING = 256  # requests of one client
_HELLO_SECONDS = 10.0
_ANSWER_SECONDS = 0.2  # until somebody who was refused has read why
_BEAT_SECONDS = 1.0
_FIRST_SECONDS = 60.0  # for the first client, which started it

OpenEngine = Callable[[StatusListener], LocalEngine]


class EngineHost:
    """The engine and those who use it. Belongs to the loop thread.

    Args:
        open_engine: makes the engine, given what to call from any thread when a model's status changes.
    """

    def __init__(self, place: HostAddress, open_engine: OpenEngine) -> None:
        self.place, self.token = place, ""
        self.version = version()
        self.idle = _FIRST_SECONDS  # without a connection, after which it ends; clients say how long that is
        self.greeted = False
        self._news = asyncio.Event()
        self.sessions: set[Session] = set()
        self.specs: dict[str, ModelSpec] = {}
        loop = asyncio.get_running_loop()

        def watch(key: str, status: ModelStatus) -> None:
            loop.call_soon_threadsafe(self._status_changed, key, status)

        self.engine = open_engine(watch)

    async def run(self) -> int:
        """Serve until nobody has been connected for a while, or can, or the engine fails; returns the exit code."""
        loop = asyncio.get_running_loop()
        server, self.token = await listen(self.place, self._connected)
        made = self.place.socket.stat()
        used = loop.time()
        while self.engine.failure is None and (
            self.sessions or (loop.time() - used < self.idle and self._is_found(made) and self._is_awaited())
        ):
            self._news.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), _BEAT_SECONDS)
            used = loop.time() if self.sessions else used
        if self._is_found(made):  # else it is another's
            self.place.socket.unlink()
        server.close()
        if (reason := self.engine.failure) is not None:
            await self._tell(reason)
        self.engine.close()
        return 0 if reason is None else _FAILED

    def _is_found(self, made: os.stat_result) -> bool:
        """Whether the socket is still there, where clients look for it."""
        try:
            return os.path.samestat(made, self.place.socket.stat())
        except OSError:
            return False

    def _is_awaited(self) -> bool:
        """Whether somebody may come: who started it does, unless that process has died before."""
        starter = os.environ.get(STARTER)  # on Windows a launcher may stand between the two
        return self.greeted or starter is None or sys.platform == "win32" or starter == str(os.getppid())

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, writer)
        self.sessions.add(session)
        try:
            if is_own(writer):
                await session.run(reader)
        finally:
            self.sessions.discard(session)
            session.close()
            self._news.set()

    def model(self, spec: ModelSpec, session: Session) -> str:
        """The engine's name for a spec, which a session uses from now on.

        Where it is to be loaded, those that no session uses make room: somebody chose another model.
        """
        key = repr(spec)
        session.models.add(key)
        if key not in self.specs:
            self.specs[key] = spec
            self.engine.set_model(key, spec)
        if self.engine.status(key).state is not ModelState.READY:
            used = set[str]().union(*(one.models for one in self.sessions))
            for other in self.specs.keys() - used:
                if self.engine.status(other).state is ModelState.READY:
                    self.engine.unload(other)
        return key

    def statuses(self) -> list[Any]:
        """What there is to say of each model."""
        return [messages.status_to(spec, self.engine.status(key)) for key, spec in self.specs.items()]

    def _status_changed(self, key: str, status: ModelStatus) -> None:
        if self.engine.failure is not None:
            self._news.set()
        else:
            for session in self.sessions:
                session.tell("status", messages.status_to(self.specs[key], status))

    async def _tell(self, reason: str) -> None:
        for session in self.sessions:
            session.tell("failed", {"reason": reason})
        await asyncio.gather(*(session.peer.frames.flush() for session in self.sessions))


class Session:
    """One client: what it asked for and has not been answered."""

    def __init__(self, service: EngineHost, writer: asyncio.StreamWriter) -> None:
        self._service = service
        self._tickets: dict[int, RequestHandle] = {}
        self._known = False
        self.models: set[str] = set()
        requests = {"hello": self.hello, "prepare": self.prepare, "submit": self.submit, "ping": self.ping}
        self.peer = messages.Peer(writer, requests, {"cancel": self.cancel})

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve the client until it leaves; who does not say hello is not served."""
        late = asyncio.get_running_loop().call_later(_HELLO_SECONDS, self._leave_unknown)
        try:
            await self.peer.run(reader)
        finally:
            late.cancel()

    def close(self) -> None:
        """Cancel what the client waits for."""
        self.peer.frames.close()
        for ticket in self._tickets.values():
            ticket.cancel()

    def tell(self, method: str, params: Any) -> None:
        """Notify the client, once it has said hello."""
        if self._known:
            self.peer.notify(method, params)

    async def hello(self, params: dict[str, Any]) -> Any:
        """Let a client in that has the token and runs the same code."""
        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, self._leave_unknown)
        if not hmac.compare_digest(str(params.get("token")).encode(), self._service.token.encode()):
            raise EngineError("the engine host does not know this client")
        if params.get("version") != self._service.version:
            raise EngineError("Code Clippy was changed since it was started; restart the language server")
        self._known = self._service.greeted = True
        self._service.idle = float(params.get("idle", self._service.idle))
        return {"process": os.getpid(), "statuses": self._service.statuses()}

    async def ping(self, params: Any) -> None:
        """Show that this loop runs."""

    async def prepare(self, params: dict[str, Any]) -> None:
        """Load a model."""
        await self._answered(self._engine().load(self._service.model(messages.spec_from(params["spec"]), self)))

    async def submit(self, params: dict[str, Any]) -> Any:
        """Run a request; pieces of its text go out as they come where the client wants that."""
        engine, id = self._engine(), params["ticket"]
        if len(self._tickets) >= _MOST_WAITING:
            raise EngineError("too many requests wait")
        model = self._service.model(messages.spec_from(params["spec"]), self)
        request = Request(
            messages.ask_from(params["ask"]), messages.sampling_from(params["sampling"]), model, client=self
        )
        ticket = self._tickets[id] = engine.submit(request, Priority(params["lane"]))
        try:
            if params["stream"]:
                async for delta in ticket.deltas():
                    self.peer.notify("delta", {"ticket": id, "text": delta})
            return messages.generation_to(await self._answered(ticket))
        finally:
            del self._tickets[id]

    def cancel(self, params: dict[str, Any]) -> None:
        """Cancel a request."""
        if (ticket := self._tickets.get(params["ticket"])) is not None:
            ticket.cancel()

    async def _answered(self, ticket: RequestHandle) -> Any:
        try:
            return await ticket.result()
        except EngineError:
            if self._service.engine.failure is not None:
                await asyncio.Event().wait()  # the process ends, and says so to everybody at once
            raise

    def _engine(self) -> LocalEngine:
        if not self._known:
            raise EngineError("a client says hello first")
        return self._service.engine

    def _leave_unknown(self) -> None:
        if not self._known:
            self.peer.frames.close()


def run_host(place: HostAddress, open_engine: OpenEngine) -> int:
    """Be the host of a place; returns the exit code, `ALREADY_RUNNING` where there is one already."""
    lock = FileLock(place.lock, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        return ALREADY_RUNNING
    faulthandler.enable()

    async def serve() -> int:
        watchdog = asyncio.create_task(_feed_watchdog())
        try:
            return await EngineHost(place, open_engine).run()
        finally:
            watchdog.cancel()

    try:
        code = asyncio.run(serve())
        logging.shutdown()
        # The engine's thread may be inside a step that never ends; the lock goes with the process.
        os._exit(code)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _feed_watchdog() -> None:
    """Keep putting off the end of this process.

    Native code that never returns to Python also stops this loop, and nothing of ours could notice; then the watchdog
    ends the process. Only for a process of the host's own: it ends whatever else runs in it.
    """
    while True:
        faulthandler.dump_traceback_later(2 * STEP_TIMEOUT, exit=True)
        await asyncio.sleep(_BEAT_SECONDS)
