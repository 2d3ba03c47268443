"""The engine's face: submit a request, await its ticket.

One background thread owns models, tokenizers, KV caches and the device. Jobs wait in lanes, KEYSTROKE before EDIT
before BACKGROUND; a job of a higher lane pre-empts a lower one between two steps, and the lower one resumes with its
KV cache. Of the jobs with one key in one lane the newest wins, the others are answered at once. Below KEYSTROKE the
clients take turns. A step that takes too long fails the engine. Knows nothing of text, documents, LSP or diffs, and
imports torch only on its own thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codeclippy_ls.inference.engine import STEP_TIMEOUT, ModelState, ModelStatus
from codeclippy_ls.inference.errors import DeviceError, EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Task
from codeclippy_ls.inference.spec import ModelSpec

if TYPE_CHECKING:
    from codeclippy_ls.engine.worker import Worker

log = logging.getLogger(__name__)

_TURN = 1.0  # seconds that a client's edit runs while another client's waits


class ThreadEngine:
    """One thread that runs models. ``submit`` and ``prepare`` are called on a running loop.

    Args:
        host: makes, on the engine thread, what loads models and runs jobs (``worker.Worker``).
        specs: the models by the name that requests use; what a spec is, is the host's affair.
        on_status: called from any thread when a model's status changes.
        step_timeout: seconds that one step may take before the engine counts as hung.
    """

    def __init__(
        self,
        host: Callable[[], Worker],
        specs: Mapping[str, Any],
        on_status: Callable[[str, ModelStatus], None] | None = None,
        step_timeout: float = STEP_TIMEOUT,
    ) -> None:
        self._make_host = host
        self._specs = dict(specs)
        self._on_status = on_status
        self._status = {name: ModelStatus(ModelState.ABSENT) for name in self._specs}
        self._lanes: dict[Priority, deque[Any]] = {lane: deque() for lane in Priority}
        self._loads: deque[tuple[str, RequestHandle]] = deque()
        self._unloads: deque[str] = deque()
        self._current: RequestHandle | None = None
        self._condition = threading.Condition()
        self._closed = False
        self._failure: str | None = None
        self._step_timeout = step_timeout
        self._step_began: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codeclippy-engine", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why the engine failed for good; ``None`` while it works."""
        return self._failure

    def status(self, model: str = "default") -> ModelStatus:
        """A model's status now."""
        return self._status[model]

    def submit(self, request: Request, lane: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Queue a request. Fails the ticket at once where the engine is closed or has died."""
        ticket = RequestHandle(request, lane, asyncio.get_running_loop())
        with self._condition:
            if (error := self._refusal()) is not None:
                ticket.resolve(error)
                return ticket
            self._supersede(request.key, lane)
            self._lanes[lane].append(Job(ticket))
            self._wake()
        return ticket

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model, also again after a failure. The ticket's generation is empty."""
        ticket = RequestHandle(Request(Task(), model=model), Priority.KEYSTROKE, asyncio.get_running_loop())
        with self._condition:
            if (error := self._refusal()) is not None:
                ticket.resolve(error)
                return ticket
            self._loads.append((model, ticket))
            if self._status[model].state is not ModelState.READY:
                self._set_status(model, ModelStatus(ModelState.LOADING))
            self._wake()
        return ticket

    def cancel(self, key: Hashable, lane: Priority) -> None:
        """Cancel what waits or runs under a key in a lane."""
        with self._condition:
            self._supersede(key, lane, FinishReason.CANCELLED)

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec, loaded when the first of them starts."""
        with self._condition:
            self._specs[model] = spec
            self._set_status(model, ModelStatus(ModelState.ABSENT))

    def unload(self, model: str) -> None:
        """Give a model's memory back; it is loaded again when a request wants it."""
        with self._condition:
            self._unloads.append(model)
            self._set_status(model, ModelStatus(ModelState.ABSENT))
            self._wake()

    def close(self) -> None:
        """Stop taking jobs, answer the waiting ones and end the thread at its next step."""
        with self._condition:
            self._closed = True
            self._drop_all(lambda ticket: ticket.cancel())
            self._condition.notify()
        self._ended.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; false where it still runs after ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _wake(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
            threading.Thread(target=self._watch_steps, name="codeclippy-watchdog", daemon=True).start()
        self._condition.notify()

    def _refusal(self) -> EngineError | None:
        if self._failure is not None:
            return EngineError(self._failure)
        return EngineError("the engine is closed") if self._closed else None

    def _supersede(self, key: Hashable | None, lane: Priority, reason: FinishReason = FinishReason.SUPERSEDED) -> None:
        if key is None:
            return
        for job in list(self._lanes[lane]):
            if job.ticket.request.key == key:
                job.ticket.cancel(reason)
                if not job.started:
                    self._lanes[lane].remove(job)
        running = self._current
        if running is not None and running.priority == lane and running.request.key == key:
            running.cancel(reason)

    def _drop_all(self, answer: Callable[[RequestHandle], None]) -> None:
        for lane in self._lanes.values():
            for job in lane:
                answer(job.ticket)
            lane.clear()
        for _, ticket in self._loads:
            answer(ticket)
        self._loads.clear()
        if self._current is not None:
            answer(self._current)

    def _set_status(self, model: str, status: ModelStatus) -> None:
        changed = self._status.get(model) != status
        self._status[model] = status
        if changed and self._on_status is not None:
            self._on_status(model, status)

    def _watch_steps(self) -> None:
        """A thread of its own: notice a step that does not end, which no exception would tell of."""
        while not self._ended.wait(self._step_timeout / 4):
            began = self._step_began
            if began is not None and time.monotonic() - began > self._step_timeout:
                self._fail(
                    f"the engine hangs: one step has taken more than {self._step_timeout:g} s; restart the server"
                )
                return

    # From here on: the engine thread.

    def _run(self) -> None:
        try:
            host = self._make_host()
            while (work := self._next()) is not None:
                if isinstance(work, Job):
                    self._advance(host, work)
                elif isinstance(work, str):
                    host.unload(work)
                else:
                    self._load(host, *work)
        except BaseException as error:
            log.exception("the engine thread ended")
            what = f"the device failed ({error})" if isinstance(error, DeviceError) else type(error).__name__
            self._fail(f"the engine stopped: {what}; restart the server")
        finally:
            self._ended.set()

    def _fail(self, reason: str) -> None:
        with self._condition:
            if self._failure is not None:
                return
            self._failure = reason
            # Before the tickets: whoever is answered finds that the engine failed, and leaves it to others to say so.
            for name in self._specs:
                self._set_status(name, ModelStatus(ModelState.FAILED, reason))
            self._drop_all(lambda ticket: ticket.resolve(EngineError(reason)))

    def _next(self) -> Job | tuple[str, RequestHandle] | str | None:
        with self._condition:
            self._current = None
            while not self._closed and self._failure is None:
                if self._unloads:
                    return self._unloads.popleft()
                if self._loads:
                    return self._loads.popleft()
                for lane in Priority:
                    if self._lanes[lane]:
                        job: Job = self._lanes[lane].popleft()
                        self._current = job.ticket
                        return job
                self._condition.wait()
            return None

    def _load(self, host: Worker, name: str, ticket: RequestHandle) -> None:
        try:
            if self._status[name].state is not ModelState.READY:
                self._try_load(host, name)
        except BaseException as error:  # the thread ends with it, and the ticket is in no lane
            ticket.resolve(EngineError(f"the engine stopped: {type(error).__name__}; restart the server"))
            raise
        status = self._status[name]
        ticket.resolve(Generation(FinishReason.END) if status.state is ModelState.READY else EngineError(status.reason))

    def _try_load(self, host: Worker, name: str) -> ModelStatus:
        spec = self._specs[name]
        self._set_status(name, ModelStatus(ModelState.LOADING))
        try:
            status = ModelStatus(ModelState.READY, info=host.load(name, spec))
        except EngineError as error:
            status = ModelStatus(ModelState.FAILED, str(error))
        except Exception as error:
            log.exception("loading %s failed", name)
            status = ModelStatus(ModelState.FAILED, f"the model could not be loaded: {type(error).__name__}: {error}")
        with self._condition:
            if self._specs[name] is spec:
                self._set_status(name, status)
                return status
        return self._try_load(host, name)  # another spec was set meanwhile

    def _advance(self, host: Worker, job: Job) -> None:
        """Run a job's steps until it ends, is cancelled, or a job of a higher lane waits."""
        ticket = job.ticket
        try:
            if job.steps is None:
                status = self._status[ticket.request.model]
                if status.state is ModelState.ABSENT:
                    status = self._try_load(host, ticket.request.model)
                if status.state is not ModelState.READY:
                    raise EngineError(status.reason)
                job.steps = host.start(ticket)
            began = self._step_began = time.monotonic()
            for generation in job.steps:
                if generation is not None:
                    ticket.resolve(generation)
                    return
                now = self._step_began = time.monotonic()
                job.turn, began = job.turn + now - began, now
                if self._failure is not None or self._gives_way(job):
                    return
            ticket.cancel()
        except EngineError as error:
            ticket.resolve(error)
        except Exception as error:
            log.exception("a request failed")
            ticket.resolve(EngineError(f"generation failed ({type(error).__name__}); see the server's log"))
        finally:
            self._step_began = None

    def _gives_way(self, job: Job) -> bool:
        """Whether a job was put back: to the head of its lane for a higher lane, to its end when its turn is over."""
        lane = job.ticket.priority
        if any(self._lanes[higher] for higher in Priority if higher < lane):
            with self._condition:
                self._lanes[lane].appendleft(job)
            return True
        if lane is Priority.KEYSTROKE or not self._lanes[lane] or job.turn < _TURN:
            return False
        with self._condition:
            if all(other.ticket.request.client == job.ticket.request.client for other in self._lanes[lane]):
                return False
            self._lanes[lane].append(job)
        job.turn = 0.0
        return True


@dataclass(slots=True)
class Job:
    """A ticket with its steps, which exist once it has started: ``None`` between steps, at last a generation."""

    ticket: RequestHandle
    steps: Any = None
    turn: float = 0.0  # seconds that it has run since others of its lane had theirs

    @property
    def started(self) -> bool:
        """Whether a part of it has run, so that its prefix must be put back by its own steps."""
        return self.steps is not None
