"""The engine's face over a host process: tickets here, models there.

A connection that is lost fails the tickets that were under way, each with the reason; the host is found or started
again with back-off, and the models that were ready are loaded again. Where that happens too often, all that waits fails
with one reason, until somebody prepares a model again. Belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Any

from codeclippy_ls.host import messages
from codeclippy_ls.host.address import HostError
from codeclippy_ls.host.start import HostConnection, Notifications
from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Task
from codeclippy_ls.inference.spec import ModelSpec

log = logging.getLogger(__name__)

BACK_OFF = (0.2, 1.0, 5.0, 5.0)  # seconds before each new try; after the last it is given up
_FORGIVEN = 60.0  # seconds after which a loss does not count any longer
_BEAT_SECONDS = 30.0  # between signs of life that are asked for
_SILENCE_SECONDS = 120.0  # that a host may take for one: importing and loading can hold its loop up
_LOST = "the engine has ended"  # short: where a terminal has 80 columns, Neovim makes users confirm longer ones


class HostEngine:
    """One client of a host.

    Args:
        find: connects to the host, starting it where there is none, and takes what to call on a notification.
        specs: the models by the name that requests use.
        watch: called when a model's status changes.
    """

    def __init__(
        self,
        find: Callable[[Notifications], Awaitable[HostConnection]],
        specs: Mapping[str, ModelSpec],
        watch: Callable[[str, ModelStatus], None] | None = None,
    ) -> None:
        self._find = find
        self._specs = dict(specs)
        self._watch = watch
        self._status: dict[ModelSpec, ModelStatus] = {}
        self._numbers = itertools.count(1)
        self._tickets: dict[int, RequestHandle] = {}  # asked for and not answered
        self._sent: set[int] = set()
        self._streamed: set[int] = set()
        self._loading: dict[ModelSpec, list[RequestHandle]] = {}
        self._connection: HostConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._losses: list[float] = []
        self._reason = _LOST
        self._failure = ""
        self._closed = False

    @property
    def process(self) -> int | None:
        """The host's process id, where there is a connection."""
        return self._connection.process if self._connection is not None else None

    @property
    def failure(self) -> None:
        """None: a host that is lost is started again when a model is prepared."""

    def status(self, model: str = "default") -> ModelStatus:
        """A model's status now."""
        return self._status.get(self._specs[model], ModelStatus(ModelState.ABSENT))

    def submit(self, request: Request, lane: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Queue a request; while there is no host, it waits for one."""
        ticket = RequestHandle(request, lane, asyncio.get_running_loop(), self._cancelled)
        if (reason := self._refusal()) is not None:
            ticket.resolve(EngineError(reason))
            return ticket
        if request.key is not None:
            self.cancel(request.key, lane, FinishReason.SUPERSEDED)
        number = next(self._numbers)
        self._tickets[number] = ticket
        self._send(number, ticket)
        return ticket

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model, also again after a failure, or after the host was given up."""
        ticket = RequestHandle(Request(Task(), model=model), Priority.KEYSTROKE, asyncio.get_running_loop())
        if self._closed:
            ticket.resolve(EngineError("the engine is closed"))
            return ticket
        if self._failure:
            self._failure, self._losses = "", []
        spec = self._specs[model]
        waiting = self._loading.setdefault(spec, [])
        waiting.append(ticket)
        if self.status(model).state is not ModelState.READY:
            self._set_status(spec, ModelStatus(ModelState.LOADING))
        if len(waiting) == 1:
            self._load(spec)
        return ticket

    def cancel(self, key: Hashable, lane: Priority, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Cancel what waits or runs under a key in a lane."""
        for ticket in list(self._tickets.values()):
            if ticket.priority is lane and ticket.request.key == key:
                ticket.cancel(reason)

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec, loaded when the first of them starts."""
        self._specs[model] = spec
        if self.status_of(spec).state is ModelState.FAILED:  # the host would not try again by itself
            self._set_status(spec, ModelStatus(ModelState.LOADING))
            self._loading.setdefault(spec, [])
            self._load(spec)
        elif self._watch is not None:
            self._watch(model, self.status(model))

    def close(self) -> None:
        """Answer what waits and leave the host."""
        self._closed = True
        for ticket in (*self._tickets.values(), *itertools.chain(*self._loading.values())):
            ticket.cancel()
        self._tickets.clear()
        self._loading.clear()
        if self._keeper is not None:
            self._keeper.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def join(self, timeout: float | None = None) -> bool:
        """Nothing of it runs in this process."""
        return True

    def _refusal(self) -> str | None:
        return "the engine is closed" if self._closed else self._failure or None

    # What goes out.

    def _send(self, number: int, ticket: RequestHandle) -> None:
        if self._connection is None:
            self._keep()
            return
        request, stream = ticket.request, ticket.priority is Priority.EDIT
        self._sent.add(number)
        params = {
            "ticket": number,
            "lane": int(ticket.priority),
            "spec": messages.spec_to(self._specs[request.model]),
            "ask": messages.ask_to(request.task),
            "sampling": messages.sampling_to(request.sampling),
            "stream": stream,
        }
        answer = self._connection.peer.send_request("submit", params)
        answer.add_done_callback(partial(self._answered, number))

    def _load(self, spec: ModelSpec) -> None:
        if self._connection is None:
            self._keep()
            return
        answer = self._connection.peer.send_request("prepare", {"spec": messages.spec_to(spec)})
        answer.add_done_callback(partial(self._loaded, spec))

    def _cancelled(self, ticket: RequestHandle) -> None:
        """Forget a ticket that was answered here, and let the host drop it at its next step."""
        number = next((number for number, one in self._tickets.items() if one is ticket), None)
        if number is None:
            return
        self._drop(number)
        if self._connection is not None:
            self._connection.peer.notify("cancel", {"ticket": number})

    def _drop(self, number: int) -> RequestHandle | None:
        self._sent.discard(number)
        self._streamed.discard(number)
        return self._tickets.pop(number, None)

    # What comes in.

    def _answered(self, number: int, answer: Any) -> None:
        streamed = number in self._streamed
        ticket = self._drop(number)
        if ticket is None:
            return
        try:
            generation = messages.generation_from(answer.result(), ticket.request.task)
        except Exception as error:  # the host's, or an answer that makes no sense
            ticket.resolve(EngineError(_said(error)))
            return
        if not streamed and generation.text:
            ticket.emit(generation.text)
        ticket.resolve(generation)

    def _loaded(self, spec: ModelSpec, answer: Any) -> None:
        error = answer.exception()
        if error is not None and self.status_of(spec).state is ModelState.LOADING:
            self._set_status(spec, ModelStatus(ModelState.FAILED, _said(error)))
        for ticket in self._loading.pop(spec, ()):
            ticket.resolve(Generation(FinishReason.END) if error is None else EngineError(_said(error)))

    def status_of(self, spec: ModelSpec) -> ModelStatus:
        """A spec's status now."""
        return self._status.get(spec, ModelStatus(ModelState.ABSENT))

    def _delta(self, params: Any) -> None:
        if (ticket := self._tickets.get(params["ticket"])) is not None:
            self._streamed.add(params["ticket"])
            ticket.emit(params["text"])

    def _status_said(self, params: Any) -> None:
        spec, status = messages.status_from(params)
        if status.state is not ModelState.ABSENT:
            self._set_status(spec, status)

    def _failed(self, params: Any) -> None:
        self._reason = str(params["reason"]).removesuffix("; restart the server")

    def _set_status(self, spec: ModelSpec, status: ModelStatus) -> None:
        changed = self.status_of(spec) != status
        self._status[spec] = status
        for name, used in self._specs.items():
            if changed and used == spec and self._watch is not None:
                self._watch(name, status)

    # The connection.

    def _keep(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        """Find the host, again after each loss, until that has happened too often."""
        loop = asyncio.get_running_loop()
        while True:
            self._reason = _LOST
            try:
                connection = await self._find(
                    {"delta": self._delta, "status": self._status_said, "failed": self._failed}
                )
                self._begin(connection)
                await self._until_lost(connection)
                self._lose()
            except HostError as error:
                self._reason = str(error)
                if error.permanent:
                    self._give_up(self._reason)
                    return
            except Exception as error:  # whatever it is, somebody waits for an answer
                log.exception("the engine host cannot be reached")
                self._reason = f"the engine host cannot be reached ({type(error).__name__})"
                self._lose()
            self._losses = [when for when in self._losses if loop.time() - when < _FORGIVEN] + [loop.time()]
            if len(self._losses) > len(BACK_OFF):
                self._give_up(f"{self._reason}; {len(self._losses)} times within a minute, so it is not started again")
                return
            await asyncio.sleep(BACK_OFF[len(self._losses) - 1])

    async def _until_lost(self, connection: HostConnection) -> None:
        """Wait until a connection ends; where the host is stopped or stuck, it is ended from here."""
        while not await connection.ended(_BEAT_SECONDS):
            answer = connection.peer.send_request_async("ping")
            if not await connection.ended(_SILENCE_SECONDS, answer) and not answer.done():
                self._reason = "the engine host does not answer"
                connection.close()
                return

    def _begin(self, connection: HostConnection) -> None:
        self._connection = connection
        for found in connection.statuses:
            self._status_said(found)
        for spec, status in self._status.items():
            if status.state is ModelState.LOADING:
                self._loading.setdefault(spec, [])
        for spec in list(self._loading):
            self._load(spec)
        for number, ticket in list(self._tickets.items()):
            self._send(number, ticket)

    def _lose(self) -> None:
        """Answer what was under way; the user is told once: by an edit's answer, or else by the models' status.

        Where nobody waited for anything, there is nothing to tell: the host is back before it is missed.
        """
        log.warning("the engine host is gone: %s", self._reason)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        said = f"{self._reason}; it is started again"
        lost = [ticket for number in list(self._sent) if (ticket := self._drop(number)) is not None]
        for ticket in lost:
            ticket.resolve(EngineError(said))
        lanes = {ticket.priority for ticket in lost}
        reason = said if Priority.KEYSTROKE in lanes and Priority.EDIT not in lanes else ""
        for spec, status in list(self._status.items()):
            if status.state is ModelState.READY:
                self._set_status(spec, ModelStatus(ModelState.LOADING, reason))

    def _give_up(self, reason: str) -> None:
        self._failure = reason
        log.error("%s", reason)
        for ticket in (*self._tickets.values(), *itertools.chain(*self._loading.values())):
            ticket.resolve(EngineError(self._failure))
        for specs in (set(self._specs.values()), set(self._loading)):
            for spec in specs:
                self._set_status(spec, ModelStatus(ModelState.FAILED, self._failure))
        self._tickets.clear()
        self._loading.clear()


def _said(error: BaseException) -> str:
    """A host's error as a sentence."""
    return str(getattr(error, "message", "") or error)
