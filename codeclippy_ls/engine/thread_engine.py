"""`ThreadEngine`: an engine on a thread of this process. Submit a request, await its handle.

One background thread owns models, tokenizers, KV caches and the device. Jobs wait in one queue per priority: KEYSTROKE
before EDIT before BACKGROUND. A job of a higher priority pre-empts a lower one between two steps, and the lower one
resumes with its KV cache. Of the jobs with the same key and priority the newest wins; the others are resolved at once.
Below KEYSTROKE the clients share the thread by time slices. A step that takes too long fails the engine. Knows nothing
of text, documents, LSP or diffs, and imports torch only on its own thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from codeclippy_ls.inference.engine import STEP_TIMEOUT, ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import DeviceError, EngineError, is_recoverable
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Task
from codeclippy_ls.inference.spec import ModelSpec

if TYPE_CHECKING:
    from codeclippy_ls.engine.worker import Worker

log = logging.getLogger(__name__)

_PERCENT_STEP = 5  # of the progress of preparing a model
_TIME_SLICE = 1.0  # seconds that one client's job runs while another client's job of the same priority waits


@dataclass(slots=True)
class Job:
    """A submitted request and its steps.

    Attributes:
        steps: see `Worker.start`; ``None`` until the job starts.
        slice_seconds: how long it has run since the other clients last had a time slice.
    """

    handle: RequestHandle
    steps: Iterator[Generation | None] | None = None
    slice_seconds: float = 0.0

    @property
    def is_started(self) -> bool:
        """It holds a cached prefix, which only its own steps can release."""
        return self.steps is not None


class ThreadEngine:
    """One thread that runs models. Call ``submit`` and ``load`` on a running loop.

    ``_condition`` guards the queues, the pending loads and unloads, and ``_running``.

    Args:
        make_worker: called on the engine thread; makes the worker that loads models and runs jobs.
        specs: the models by the name that requests use.
        on_status: called from any thread when a model's status changes.
        step_timeout: seconds for one step, after which the engine counts as hung.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        specs: Mapping[str, ModelSpec],
        on_status: StatusListener | None = None,
        step_timeout: float = STEP_TIMEOUT,
    ) -> None:
        self._make_worker = make_worker
        self._specs = dict(specs)
        self._on_status = on_status
        self._step_timeout = step_timeout
        self._status = {name: ModelStatus(ModelState.ABSENT) for name in self._specs}
        self._queues: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._pending_loads: deque[tuple[str, RequestHandle]] = deque()
        self._pending_unloads: deque[str] = deque()
        self._running: RequestHandle | None = None
        self._condition = threading.Condition()
        self._closed = False
        self._failure: str | None = None
        self._step_started: float | None = None
        self._worker: Worker | None = None
        self._working_on = ""
        self._failed_model = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codeclippy-engine", daemon=True)

    @property
    def failure(self) -> str | None:
        """Reason why the engine can never work again; ``None`` while it works."""
        return self._failure

    @property
    def failed_model(self) -> str:
        """Name of the model that was loaded or run when the engine failed; empty if none was."""
        return self._failed_model

    def status(self, model: str = "default") -> ModelStatus:
        """Return the current status of a model."""
        return self._status[model]

    def submit(self, request: Request, priority: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Queue a request. Its handle fails at once if the engine is closed or has failed."""
        handle = RequestHandle(request, priority, asyncio.get_running_loop())
        with self._condition:
            if (error := self._submit_error()) is not None:
                handle.resolve(error)
                return handle
            self._cancel_jobs(request.key, priority, FinishReason.SUPERSEDED)
            self._queues[priority].append(Job(handle))
            self._wake_thread()
        return handle

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model, also again after a failure. The handle's generation is empty."""
        handle = RequestHandle(Request(Task(), model=model), Priority.KEYSTROKE, asyncio.get_running_loop())
        with self._condition:
            if (error := self._submit_error()) is not None:
                handle.resolve(error)
                return handle
            self._pending_loads.append((model, handle))
            if self._status[model].state is not ModelState.READY:
                self._set_status(model, ModelStatus(ModelState.LOADING))
            self._wake_thread()
        return handle

    def cancel(self, key: Hashable, priority: Priority) -> None:
        """Cancel the waiting and running requests of a priority that have this key."""
        with self._condition:
            self._cancel_jobs(key, priority, FinishReason.CANCELLED)

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec, loaded when the first of them starts."""
        with self._condition:
            if self._specs.get(model) not in (None, spec):
                self._pending_unloads.append(model)  # the old one's memory
                self._wake_thread()
            self._specs[model] = spec
            self._set_status(model, ModelStatus(ModelState.ABSENT))

    def unload(self, model: str) -> None:
        """Release a model's memory. The next request for it loads it again."""
        with self._condition:
            self._pending_unloads.append(model)
            self._set_status(model, ModelStatus(ModelState.ABSENT))
            self._wake_thread()

    def close(self) -> None:
        """Stop taking requests, cancel the waiting ones and end the thread after its current step."""
        with self._condition:
            self._closed = True
            self._resolve_all(lambda handle: handle.cancel())
            self._condition.notify()
        self._stopped.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended; return False if it still runs after ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _submit_error(self) -> EngineError | None:
        if self._failure is not None:
            return EngineError(self._failure)
        return EngineError("the engine is closed") if self._closed else None

    def _wake_thread(self) -> None:
        """Notify the engine thread; start it, and its watchdog, at the first call."""
        if self._thread.ident is None:
            self._thread.start()
            threading.Thread(target=self._watch_steps, name="codeclippy-watchdog", daemon=True).start()
        self._condition.notify()

    def _cancel_jobs(self, key: Hashable | None, priority: Priority, reason: FinishReason) -> None:
        """Cancel the jobs with this key. One that has started stays queued until its steps notice and clean up."""
        if key is None:
            return
        for job in list(self._queues[priority]):
            if job.handle.request.key == key:
                job.handle.cancel(reason)
                if not job.is_started:
                    self._queues[priority].remove(job)
        running = self._running
        if running is not None and running.priority == priority and running.request.key == key:
            running.cancel(reason)

    def _resolve_all(self, resolve: Callable[[RequestHandle], None]) -> None:
        for queue in self._queues.values():
            for job in queue:
                resolve(job.handle)
            queue.clear()
        for _, handle in self._pending_loads:
            resolve(handle)
        self._pending_loads.clear()
        if self._running is not None:
            resolve(self._running)

    def _set_status(self, model: str, status: ModelStatus) -> None:
        has_changed = self._status.get(model) != status
        self._status[model] = status
        if has_changed and self._on_status is not None:
            self._on_status(model, status)

    def _fail(self, reason: str) -> None:
        """Fail for good: from now on every request is answered with ``reason``."""
        with self._condition:
            if self._failure is not None:
                return
            self._failure, self._failed_model = reason, self._working_on
            # Status first: when a handle is resolved, its caller already sees that the engine itself has failed, and
            # does not report the error as its own.
            for name in self._specs:
                self._set_status(name, ModelStatus(ModelState.FAILED, reason))
            self._resolve_all(lambda handle: handle.resolve(EngineError(reason)))

    def _watch_steps(self) -> None:
        """Fail the engine when a step or a load hangs; runs on the watchdog thread, since what hangs raises nothing."""
        while not self._stopped.wait(self._step_timeout / 4):
            started, now = self._step_started, time.monotonic()
            load_deadline = self._worker.load_deadline if self._worker is not None else None
            if started is not None and now - started > self._step_timeout:
                limit = f"{self._step_timeout:g} s"
                self._fail(f"the engine hangs: one step has taken more than {limit}; restart the server")
                return
            if load_deadline is not None and now > load_deadline:
                self._fail("the engine hangs: a model is not loaded after several minutes; restart the server")
                return

    # Everything below runs on the engine thread.

    def _run(self) -> None:
        try:
            worker = self._worker = self._make_worker()
            while (work := self._next_work()) is not None:
                if isinstance(work, Job):
                    self._run_job(worker, work)
                elif isinstance(work, str):
                    worker.unload(work)
                else:
                    self._load_and_resolve(worker, *work)
        except BaseException as error:
            log.exception("the engine thread ended")
            cause = f"the device failed ({error})" if isinstance(error, DeviceError) else type(error).__name__
            self._fail(f"the engine stopped: {cause}; restart the server")
        finally:
            self._stopped.set()

    def _next_work(self) -> Job | tuple[str, RequestHandle] | str | None:
        """Wait for work: a model to unload, a model to load, or a job. ``None`` means that the thread must end."""
        with self._condition:
            self._running = None
            while not self._closed and self._failure is None:
                if self._pending_unloads:
                    return self._pending_unloads.popleft()
                if self._pending_loads:
                    load = self._pending_loads.popleft()
                    self._running = load[1]
                    return load
                if (job := self._pop_job()) is not None:
                    self._running = job.handle
                    return job
                self._condition.wait()
            return None

    def _pop_job(self) -> Job | None:
        """Take the next job: first those that were cancelled when they had started, to have their prefixes back."""
        for queue in self._queues.values():
            for job in queue:
                if job.is_started and job.handle.cancel_reason is not None:
                    queue.remove(job)
                    return job
        return next((queue.popleft() for queue in self._queues.values() if queue), None)

    def _load_and_resolve(self, worker: Worker, name: str, handle: RequestHandle) -> None:
        try:
            if self._status[name].state is not ModelState.READY:
                self._load_model(worker, name)
        except BaseException as error:  # ends the thread; this handle is in no queue, so resolve it here
            handle.resolve(EngineError(f"the engine stopped: {type(error).__name__}; restart the server"))
            raise
        status = self._status[name]
        handle.resolve(Generation(FinishReason.END) if status.state is ModelState.READY else EngineError(status.reason))

    def _load_model(self, worker: Worker, name: str) -> ModelStatus:
        spec, self._working_on = self._specs[name], name
        self._set_status(name, ModelStatus(ModelState.LOADING))
        worker.report = partial(self._report_progress, name, spec)
        try:
            status = ModelStatus(ModelState.READY, info=worker.load(name, spec))
        except EngineError as error:
            status = ModelStatus(ModelState.FAILED, str(error))
        except BaseException as error:
            if not is_recoverable(error):
                raise
            log.exception("loading %s failed", name)
            status = ModelStatus(ModelState.FAILED, f"the model could not be loaded: {type(error).__name__}: {error}")
        self._working_on = ""
        with self._condition:
            if self._specs[name] is spec:
                self._set_status(name, status)
                return status
        return self._load_model(worker, name)  # `set_model` was called while it loaded

    def _report_progress(self, name: str, spec: ModelSpec, share: float) -> None:
        """Tell how far a model is prepared, in steps, because each is a message to every client."""
        percentage = int(share * 100) // _PERCENT_STEP * _PERCENT_STEP
        with self._condition:
            if self._failure is None and self._specs[name] is spec:
                self._set_status(name, ModelStatus(ModelState.LOADING, percentage=percentage))

    def _run_job(self, worker: Worker, job: Job) -> None:
        """Run a job's steps until it ends, is cancelled, or has to yield to other jobs."""
        handle = job.handle
        self._working_on = handle.request.model
        try:
            if job.steps is None:
                status = self._status[handle.request.model]
                if status.state is ModelState.ABSENT:
                    status = self._load_model(worker, handle.request.model)
                if status.state is not ModelState.READY:
                    raise EngineError(status.reason)
                job.steps = worker.start(handle)
            started = self._step_started = time.monotonic()
            for generation in job.steps:
                if generation is not None:
                    handle.resolve(generation)
                    return
                now = self._step_started = time.monotonic()
                job.slice_seconds, started = job.slice_seconds + now - started, now
                if self._failure is not None or self._yield_to_others(job):
                    return
            handle.cancel()
        except EngineError as error:
            handle.resolve(error)
        except BaseException as error:
            if not is_recoverable(error):
                raise
            log.exception("a request failed")
            handle.resolve(EngineError(f"generation failed ({type(error).__name__}); see the server's log"))
        finally:
            self._step_started, self._working_on = None, ""

    def _yield_to_others(self, job: Job) -> bool:
        """Put a job back if another one is to run first; return whether it was.

        It goes to the head of its queue if a job of a higher priority waits, and to the end if its time slice is over
        and another client waits.
        """
        priority = job.handle.priority
        queue = self._queues[priority]
        if job.handle.cancel_reason is not None:
            return False  # its next step ends it, and the prefix that it holds may be what the others need
        if any(self._queues[higher] for higher in Priority if higher < priority):
            with self._condition:
                queue.appendleft(job)
            return True
        if priority is Priority.KEYSTROKE or not queue or job.slice_seconds < _TIME_SLICE:
            return False
        with self._condition:
            if all(other.handle.request.client == job.handle.request.client for other in queue):
                return False
            queue.append(job)
        job.slice_seconds = 0.0
        return True
