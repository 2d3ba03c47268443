"""The engine's face over a service: tickets here, models there, each request a task of the loop.

A model is ready once the service has listed it. Where the service cannot be reached or lets nobody in, the models are
failed with the reason, and the next request that comes after a pause asks again; so nothing needs to be restarted. An
edit is tried a second time where that may help and nothing of it was shown yet; a keystroke never, since the next one
comes by itself. After failures, keystrokes are answered at once, without the service, for a while that grows.
Belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Task
from codeclippy_ls.inference.spec import ModelRole, ModelSpec
from codeclippy_ls.remote.endpoint import parse_endpoint, read_key
from codeclippy_ls.remote.errors import ErrorKind, RemoteError
from codeclippy_ls.remote.generation import Job
from codeclippy_ls.remote.http_client import HttpClient
from codeclippy_ls.remote.models import select_model
from codeclippy_ls.settings import ModelSettings
from codeclippy_ls.tasks.model_info import ModelInfo

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 5.0, 15.0, 30.0)  # seconds after each failure in a row
_LONGEST_RETRY = 10.0  # seconds that an edit waits for its second try
# Of services that have no list of models, or have lost it.
_NO_LIST = frozenset({404, 405, 500, 501})
# At a time; more wait, those of one lane for each other only.
_AT_ONCE = {Priority.KEYSTROKE: 4, Priority.EDIT: 2, Priority.BACKGROUND: 1}


class RemoteEngine:
    """One client of a service.

    Args:
        specs: the models by the name that requests use, of which the names alone count.
        watch: called when a model's status changes.
        patience: seconds without a byte after which the service counts as stuck.
        pauses: seconds after each failure in a row.
    """

    def __init__(
        self,
        settings: ModelSettings,
        specs: Mapping[str, ModelSpec],
        watch: Callable[[str, ModelStatus], None] | None = None,
        patience: float = PATIENCE,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._settings = settings
        self._specs = dict(specs)
        self._watch = watch
        self._patience, self._pauses = patience, pauses
        self._status = {model: ModelStatus(ModelState.ABSENT) for model in specs}
        self._tickets: dict[RequestHandle, asyncio.Task[None]] = {}
        self._turns = {lane: asyncio.Semaphore(count) for lane, count in _AT_ONCE.items()}
        self._connection: HttpClient | None = None
        self._finding: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._failures = 0
        self._quiet_until = 0.0
        self._quiet: EngineError | None = None
        self._bare: set[Priority] = set()
        self._closed = False

    @property
    def failure(self) -> None:
        """None: a service may come back."""

    def status(self, model: str = "default") -> ModelStatus:
        """A model's status now."""
        return self._status[model]

    def submit(self, request: Request, lane: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Send a request; while the models are not known, it waits for them."""
        ticket = RequestHandle(request, lane, asyncio.get_running_loop(), self._cancelled)
        if self._closed:
            ticket.resolve(EngineError("the engine is closed"))
            return ticket
        if request.key is not None:
            self.cancel(request.key, lane, FinishReason.SUPERSEDED)
        if lane is not Priority.EDIT and self._quiet is not None and time.monotonic() < self._quiet_until:
            ticket.resolve(self._quiet)
            return ticket
        self._tickets[ticket] = asyncio.get_running_loop().create_task(self._run(ticket))
        return ticket

    def load(self, model: str = "default") -> RequestHandle:
        """Ask the service for its models, also again after a failure."""
        ticket = RequestHandle(Request(Task(), model=model), Priority.EDIT, asyncio.get_running_loop(), self._cancelled)
        if self._closed:
            ticket.resolve(EngineError("the engine is closed"))
            return ticket
        self._tickets[ticket] = asyncio.get_running_loop().create_task(self._prepare(ticket))
        return ticket

    def cancel(self, key: Hashable, lane: Priority, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Cancel what waits or runs under a key in a lane."""
        for ticket in list(self._tickets):
            if ticket.priority is lane and ticket.request.key == key:
                ticket.cancel(reason)

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another of the service's models; it does not have the shipped one."""
        if spec.name:
            self._specs[model] = spec
            self._set_status(model, ModelStatus(ModelState.ABSENT))

    def close(self) -> None:
        """Answer what waits and leave the service."""
        self._closed = True
        for ticket in list(self._tickets):
            ticket.cancel()
        if self._finding is not None:
            self._finding.cancel()
        if self._connection is not None:
            self._closing = asyncio.get_running_loop().create_task(self._connection.close())

    def join(self, timeout: float | None = None) -> bool:
        """Nothing of it runs in a thread of this process."""
        return True

    # Tickets.

    def _cancelled(self, ticket: RequestHandle) -> None:
        """Leave a ticket's request, which closes its connections."""
        if (task := self._tickets.pop(ticket, None)) is not None:
            task.cancel()

    async def _run(self, ticket: RequestHandle) -> None:
        await self._settled(ticket, self._answered(ticket))

    async def _prepare(self, ticket: RequestHandle) -> None:
        async def found() -> Generation:
            await self._found()
            return Generation(FinishReason.END)

        await self._settled(ticket, found())

    async def _settled(self, ticket: RequestHandle, answer: Any) -> None:
        """Answer a ticket once, whatever happens."""
        try:
            ticket.resolve(await answer)
        except EngineError as error:
            ticket.resolve(error)
        except Exception as error:
            log.exception("a request of the endpoint failed")
            ticket.resolve(EngineError(f"the request failed ({type(error).__name__}); the log has the details"))
        finally:
            self._tickets.pop(ticket, None)

    async def _answered(self, ticket: RequestHandle) -> Generation:
        async with self._turns[ticket.priority]:
            for last in (False, True):
                job = None
                try:
                    facts = await self._facts(ticket.request.model)
                    assert self._connection is not None
                    bare = ticket.priority in self._bare
                    job = Job(self._connection, facts, ticket, self._settings.endpoint_fim, bare)
                    generation = await self._with_fewer_fields(job, facts, ticket)
                    self._succeeded()
                    return generation
                except RemoteError as error:
                    self._failed(error)
                    shown = job is not None and job.emitted
                    wait = error.after if error.after is not None else self._pauses[0]
                    if (
                        last
                        or shown
                        or ticket.priority is not Priority.EDIT
                        or not error.retryable
                        or wait > _LONGEST_RETRY
                    ):
                        raise
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _with_fewer_fields(self, job: Job, facts: ModelInfo, ticket: RequestHandle) -> Generation:
        """The generation; a service that refuses the fields that not all have is asked without them from then on: in
        this lane, since edits have one more, the grammar."""
        try:
            return await job.generation()
        except RemoteError as error:
            if error.kind is not ErrorKind.REFUSED or ticket.priority in self._bare:
                raise
        assert self._connection is not None
        again = Job(self._connection, facts, ticket, self._settings.endpoint_fim, bare=True)
        generation = await again.generation()
        self._bare.add(ticket.priority)
        return generation

    # The service.

    async def _facts(self, model: str) -> ModelInfo:
        """Facts of a model, of which the service is asked where nothing is known, or where it failed."""
        if self._status[model].state is not ModelState.READY:
            await self._found()
        facts: ModelInfo = self._status[model].info
        return facts

    async def _found(self) -> None:
        """Ask the service for its models, once for all that wait for it."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.get_running_loop().create_task(self._find())
            # Read even where all who waited for it are gone.
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._finding)

    async def _find(self) -> None:
        for model, status in list(self._status.items()):
            if status.state is ModelState.ABSENT:
                self._set_status(model, ModelStatus(ModelState.LOADING))
        try:
            connection = self._connected()
            listed = await self._listed(connection)
            for model, spec in self._specs.items():
                own = model == ModelRole.EDIT and bool(self._settings.edit)
                facts = select_model(
                    listed, spec.name, self._settings.endpoint_context_length, own, connection.endpoint.url
                )
                self._set_status(model, ModelStatus(ModelState.READY, info=facts))
        except Exception as error:
            said = str(error) if isinstance(error, EngineError) else f"the endpoint failed ({type(error).__name__})"
            for model in self._status:
                self._set_status(model, ModelStatus(ModelState.FAILED, said))
            raise

    async def _listed(self, connection: HttpClient) -> Any:
        """What the service lists; nothing where it lists nothing, but all models have names in the settings."""
        try:
            return await connection.get("/models")
        except RemoteError as error:
            if error.status in _NO_LIST and all(spec.name for spec in self._specs.values()):
                return {}
            raise

    def _connected(self) -> HttpClient:
        if self._connection is None:
            try:
                where = parse_endpoint(self._settings.endpoint)
                key = read_key(self._settings.endpoint_key_variable, os.environ)
            except ValueError as error:
                raise RemoteError(str(error), ErrorKind.DENIED) from error
            self._connection = HttpClient(where, key, self._patience)
        return self._connection

    def _succeeded(self) -> None:
        self._failures, self._quiet, self._quiet_until = 0, None, 0.0

    def _failed(self, error: RemoteError) -> None:
        """Leave the service alone for a while; where no model answers at all, say so."""
        if error.kind in (ErrorKind.REFUSED, ErrorKind.GARBLED, ErrorKind.SLOW):
            return
        pause = self._pauses[min(self._failures, len(self._pauses) - 1)]
        self._failures += 1
        self._quiet = error
        self._quiet_until = time.monotonic() + max(pause, error.after or 0.0)
        if error.permanent:
            for model in self._status:
                self._set_status(model, ModelStatus(ModelState.FAILED, str(error)))

    def _set_status(self, model: str, status: ModelStatus) -> None:
        if self._status[model] != status:
            self._status[model] = status
            if self._watch is not None:
                self._watch(model, status)
