"""`HostEngine`: the engine in the shared host process, seen from one of its clients.

If the connection is lost, the requests in flight fail with the reason. After a delay the host is found or started
again, and the models that were ready are loaded again. If that happens too often, everything that waits fails with one
reason, until `load` is called again. A host that neither answers nor works is left at once, and replaced if it stays
so. Belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from codeclippy_ls.host import messages
from codeclippy_ls.host.address import HostError, HostRejectedError
from codeclippy_ls.host.messages import JsonObject, Notifications
from codeclippy_ls.host.process import HostProcess, HostSilentError, replace_host
from codeclippy_ls.host.start import HostConnection
from codeclippy_ls.inference.client_engine import ClientEngine
from codeclippy_ls.inference.engine import ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority
from codeclippy_ls.inference.spec import ModelSpec

log = logging.getLogger(__name__)

RETRY_DELAYS = (0.2, 1.0, 5.0, 5.0)  # seconds before each new try; after the last one the client gives up
_LOSS_WINDOW = 60.0  # seconds after which a lost connection does not count any longer
_PING_INTERVAL = 0.3  # seconds between pings while somebody waits for the host: a key's answer waits under two seconds
_MAX_BLAMES, _BLAME_WINDOW = 3, 600.0  # losses over one model, within seconds; step timeouts are minutes apart
_HEARTBEAT_INTERVAL = 30.0  # seconds between pings while nobody does
_HEARTBEAT_TIMEOUT = 120.0  # seconds; importing and loading can block the host's loop
_START_PATIENCE = 10.0  # seconds until the host counts as unreachable while it is started
_SILENCE_INTERVAL = 1.0  # seconds
_MAX_SILENCES = 5  # tries to reach a silent host before it is replaced, about ten seconds in all
_HOST_EXITED = "the engine has ended"  # short: Neovim makes users confirm a message that exceeds 80 columns

Connect = Callable[[Notifications], Awaitable[HostConnection]]
ReachableListener = Callable[[bool], None]


class HostEngine(ClientEngine[ModelSpec]):
    """One client of the host. Statuses are kept by spec, since models with equal specs are one model to the host.

    Args:
        connect: connects to the host, and starts it if there is no host; is given the functions that take its
            notifications.
        on_reachable: called when the host cannot be used for now (False), and when it can again (True). It does not
            tell of a host that ended, which is started again in a moment, or that refuses this client.
    """

    def __init__(
        self,
        connect: Connect,
        specs: Mapping[str, ModelSpec],
        on_status: StatusListener | None = None,
        on_reachable: ReachableListener | None = None,
    ) -> None:
        super().__init__(specs, on_status)
        self._connect = connect
        self._on_reachable = on_reachable
        self._is_reachable = True
        self._silent_process: HostProcess | None = None
        self._silences = 0  # tries to reach that process
        self._sent: set[int] = set()
        self._streamed: set[int] = set()  # requests of which deltas have come
        self._load_handles: dict[ModelSpec, list[RequestHandle]] = {}  # of the specs that are to be loaded
        self._connection: HostConnection | None = None
        self._connection_task: asyncio.Task[None] | None = None
        self._new_work: asyncio.Future[None] | None = None  # ends the wait for the next ping
        self._losses: list[float] = []  # times of the lost connections that count
        self._loss_reason = _HOST_EXITED
        self._give_up_reason = ""
        self._rejection = ""
        self._is_blame_known = False
        self._blames: dict[ModelSpec, list[float]] = {}  # times at which a host was lost over a spec
        self._blame_reasons: dict[ModelSpec, str] = {}

    @property
    def failure(self) -> str | None:
        """Reason of a host that rejects this client, which loading again does not change; ``None`` otherwise."""
        return self._rejection or None

    @property
    def process(self) -> int | None:
        """The host's process id, ``None`` without a connection."""
        return self._connection.process if self._connection is not None else None

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model, also again after a failure, or after the client gave up."""
        if not self._closed and self._give_up_reason:
            self._give_up_reason, self._losses = "", []
        return super().load(model)

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec, loaded when the first of them starts."""
        old_spec, self._specs[model] = self._specs.get(model), spec
        if self._connection is not None and old_spec is not None and old_spec not in self._specs.values():
            self._connection.peer.notify("release", {"spec": messages.encode_spec(old_spec)})
        if self._get_status(spec).state is ModelState.FAILED:  # the host would not try again on its own
            self._set_status(spec, ModelStatus(ModelState.LOADING))
            self._load_handles.setdefault(spec, [])
            self._send_load(spec)
        elif self._on_status is not None:
            self._on_status(model, self.status(model))

    def close(self) -> None:
        """Cancel what waits and disconnect."""
        super().close()
        for handle in itertools.chain(*self._load_handles.values()):
            handle.cancel()
        self._handles.clear()
        self._load_handles.clear()
        if self._connection_task is not None:
            self._connection_task.cancel()
        self._disconnect()

    def _status_key(self, model: str) -> ModelSpec:
        return self._specs[model]

    def _refusal(self, priority: Priority) -> EngineError | None:
        error = super()._refusal(priority)
        return EngineError(self._give_up_reason) if error is None and self._give_up_reason else error

    # To the host.

    def _start(self, id: int, handle: RequestHandle) -> None:
        if self._connection is None:
            self._ensure_connecting()  # which sends it
            return
        self._sent.add(id)
        self._expect_answer()
        request = handle.request
        params = {
            "id": id,
            "priority": int(handle.priority),
            "spec": messages.encode_spec(self._specs[request.model]),
            "task": messages.encode_task(request.task),
            "sampling": messages.encode_sampling(request.sampling),
            "stream": handle.priority is Priority.EDIT,
        }
        response = self._connection.peer.send_request("submit", params)
        response.add_done_callback(partial(self._on_response, id))

    def _start_load(self, handle: RequestHandle) -> None:
        spec = self._specs[handle.request.model]
        handles = self._load_handles.setdefault(spec, [])
        handles.append(handle)
        if self._get_status(spec).state is not ModelState.READY:
            self._set_status(spec, ModelStatus(ModelState.LOADING))
        if len(handles) == 1:
            self._send_load(spec)

    def _send_load(self, spec: ModelSpec) -> None:
        if self._connection is None:
            self._ensure_connecting()  # which sends it
            return
        self._expect_answer()
        response = self._connection.peer.send_request("load", {"spec": messages.encode_spec(spec)})
        response.add_done_callback(partial(self._on_load_response, spec))

    def _abort(self, id: int) -> None:
        self._forget(id)
        if self._connection is not None:
            self._connection.peer.notify("cancel", {"id": id})

    def _forget(self, id: int) -> RequestHandle | None:
        self._sent.discard(id)
        self._streamed.discard(id)
        return self._handles.pop(id, None)

    # From the host.

    def _on_response(self, id: int, response: Future[JsonObject]) -> None:
        was_streamed = id in self._streamed
        handle = self._forget(id)
        if handle is None:
            return
        try:
            generation = messages.decode_generation(response.result(), handle.request.task)
        except Exception as error:  # the host's, or the response is malformed
            handle.resolve(EngineError(_message_of(error)))
            return
        if not was_streamed and generation.text:
            handle.emit(generation.text)
        handle.resolve(generation)

    def _on_load_response(self, spec: ModelSpec, response: Future[JsonObject]) -> None:
        error = response.exception()
        if error is not None and self._get_status(spec).state is ModelState.LOADING:
            self._set_status(spec, ModelStatus(ModelState.FAILED, _message_of(error)))
        for handle in self._load_handles.pop(spec, ()):
            handle.resolve(Generation(FinishReason.END) if error is None else EngineError(_message_of(error)))

    def _on_delta(self, params: JsonObject) -> None:
        if (handle := self._handles.get(params["id"])) is not None:
            self._streamed.add(params["id"])
            handle.emit(params["text"])

    def _on_status_message(self, params: JsonObject) -> None:
        spec, status = messages.decode_status(params)
        if status.state is not ModelState.ABSENT:
            self._set_status(spec, status)

    def _on_failed(self, params: JsonObject) -> None:
        self._loss_reason = str(params["reason"]).removesuffix("; restart the server")
        self._is_blame_known = True
        if params["spec"] is not None:
            self._blame(messages.decode_spec(params["spec"]))

    # The connection.

    def _ensure_connecting(self) -> None:
        if self._connection_task is None or self._connection_task.done():
            self._connection_task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def _stay_connected(self) -> None:
        """Connect to the host, again after each loss, until there were too many."""
        loop = asyncio.get_running_loop()
        notifications = {"delta": self._on_delta, "status": self._on_status_message, "failed": self._on_failed}
        while True:
            self._loss_reason, self._is_blame_known = _HOST_EXITED, False
            try:
                with self._start_patience():
                    connection = await self._connect(notifications)
                self._resume(connection)
                if await self._wait_until_lost(connection):
                    self._is_blame_known = True  # it was stopped: no model's fault
                    self._set_reachable(False)
                    self._on_lost()
                    continue
                self._on_lost()
            except HostSilentError as error:
                await self._bear_silence(error)
                continue
            except HostError as error:
                self._loss_reason = str(error)
                if isinstance(error, HostRejectedError):
                    self._rejection = self._loss_reason
                else:
                    self._set_reachable(False)
                if error.permanent:
                    self._give_up(self._loss_reason)
                    return
            except Exception as error:  # nobody foresaw it, and somebody waits for an answer
                log.exception("the engine host cannot be reached")
                self._loss_reason = f"the engine host cannot be reached ({type(error).__name__})"
                self._set_reachable(False)
                self._on_lost()
            self._losses = [time for time in self._losses if loop.time() - time < _LOSS_WINDOW] + [loop.time()]
            if len(self._losses) > len(RETRY_DELAYS):
                count = len(self._losses)
                self._give_up(f"{self._loss_reason}; {count} times within a minute, so it is not started again")
                return
            await asyncio.sleep(RETRY_DELAYS[len(self._losses) - 1])

    @contextmanager
    def _start_patience(self) -> Iterator[None]:
        """Let the host count as unreachable if it cannot be reached within some seconds; it may still come."""
        timer = asyncio.get_running_loop().call_later(_START_PATIENCE, self._set_reachable, False)
        try:
            yield
        finally:
            timer.cancel()

    async def _bear_silence(self, error: HostSilentError) -> None:
        """Pass by a silent host; after some tries, replace it."""
        self._set_reachable(False)
        self._silences = self._silences + 1 if error.process == self._silent_process else 1
        self._silent_process = error.process
        if self._silences < _MAX_SILENCES:
            await asyncio.sleep(_SILENCE_INTERVAL)
        else:
            self._silences = 0
            await asyncio.to_thread(replace_host, error.address, error.process)

    def _set_reachable(self, reachable: bool) -> None:
        if self._is_reachable != reachable:
            self._is_reachable = reachable
            if not reachable:
                log.warning("the engine host cannot be used for now")
            if self._on_reachable is not None:
                self._on_reachable(reachable)

    async def _wait_until_lost(self, connection: HostConnection) -> bool:
        """Wait until the connection ends; close it if the host does not answer a ping. Return whether it was silent."""
        loop = asyncio.get_running_loop()
        while True:
            is_awaited = bool(self._sent or self._load_handles)
            self._new_work = loop.create_future()
            if await connection.wait_until_ended(_PING_INTERVAL if is_awaited else _HEARTBEAT_INTERVAL, self._new_work):
                return False
            if not await connection.answers(_HEARTBEAT_TIMEOUT):
                self._loss_reason = "the engine host does not answer"
                connection.close()
                return True

    def _expect_answer(self) -> None:
        """Ping the host soon, if that does not happen already."""
        if self._new_work is not None and not self._new_work.done():
            self._new_work.set_result(None)

    def _resume(self, connection: HostConnection) -> None:
        """Send what waits, and load again what was ready or loading."""
        self._connection = connection
        self._silences = 0
        self._set_reachable(True)
        for status_message in connection.statuses:
            self._on_status_message(status_message)
        for spec, status in list(self._statuses.items()):
            if len(self._blames.get(spec, ())) >= _MAX_BLAMES:
                self._reject_spec(spec)
            elif status.state is ModelState.LOADING:
                self._load_handles.setdefault(spec, [])
        for spec in list(self._load_handles):
            self._send_load(spec)
        for id, handle in list(self._handles.items()):
            self._start(id, handle)

    def _blame(self, spec: ModelSpec) -> None:
        """Note that a host was lost over a spec."""
        now = asyncio.get_running_loop().time()
        self._blames[spec] = [*(time for time in self._blames.get(spec, ()) if now - time < _BLAME_WINDOW), now]
        self._blame_reasons[spec] = self._loss_reason

    def _reject_spec(self, spec: ModelSpec) -> None:
        """Fail a spec that would end this host as well, at the cost of its other clients, until the user loads it."""
        del self._blames[spec]
        name = spec.name or "the shipped model"
        reason = f"{self._blame_reasons.pop(spec)}: {_MAX_BLAMES} times over {name}; choose another model"
        log.error("%s", reason)
        self._set_status(spec, ModelStatus(ModelState.FAILED, reason))
        for handle in self._load_handles.pop(spec, ()):
            handle.resolve(EngineError(reason))
        for id, waiting in list(self._handles.items()):
            if self._specs[waiting.request.model] == spec:
                self._forget(id)
                waiting.resolve(EngineError(reason))

    def _on_lost(self) -> None:
        """Fail the requests in flight. The user is told once: by an edit's answer, or else by the models' status.

        If nobody waited for anything, there is nothing to tell: the host is back before anybody misses it.
        """
        log.warning("the engine host is gone: %s", self._loss_reason)
        if self._connection is not None and not self._is_blame_known:
            for spec in self._load_handles:
                self._blame(spec)
        self._disconnect()
        message = f"{self._loss_reason}; it is started again"
        failed = [handle for id in list(self._sent) if (handle := self._forget(id)) is not None]
        for handle in failed:
            handle.resolve(EngineError(message))
        priorities = {handle.priority for handle in failed}
        reason = message if Priority.KEYSTROKE in priorities and Priority.EDIT not in priorities else ""
        for spec, status in list(self._statuses.items()):
            if status.state is ModelState.READY:
                self._set_status(spec, ModelStatus(ModelState.LOADING, reason))

    def _give_up(self, reason: str) -> None:
        self._give_up_reason = reason
        log.error("%s", reason)
        for handle in (*self._handles.values(), *itertools.chain(*self._load_handles.values())):
            handle.resolve(EngineError(reason))
        for specs in (set(self._specs.values()), set(self._load_handles)):
            for spec in specs:
                self._set_status(spec, ModelStatus(ModelState.FAILED, reason))
        self._handles.clear()
        self._load_handles.clear()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _message_of(error: BaseException) -> str:
    """Return the message of a host's error."""
    return str(getattr(error, "message", "") or error)
