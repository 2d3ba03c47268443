"""The engine's face: submit a request, await its ticket.

One background thread owns models, tokenizers, KV caches and the device. Jobs wait in lanes, KEYSTROKE before EDIT
before BACKGROUND; a job of a higher lane pre-empts a lower one between two steps, and the lower one resumes with its
KV cache. Of the jobs with one key in one lane the newest wins, the others are answered at once. Knows nothing of
text, documents, LSP or diffs, and imports torch only on its own thread.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from codeclippy_ls.engine.errors import EngineError

if TYPE_CHECKING:
    from codeclippy_ls.engine.worker import Host

log = logging.getLogger(__name__)


class Lane(enum.IntEnum):
    """Priority of a job, smaller first."""

    KEYSTROKE = 0
    EDIT = 1
    BACKGROUND = 2


class Reason(enum.Enum):
    """Why a generation stopped."""

    END = "end"  # the model ended its text
    STOP = "stop"  # a stop string or the caller's own test
    LENGTH = "length"  # the token budget or the window
    TIME = "time"  # the time budget
    CANCELLED = "cancelled"  # by the caller
    SUPERSEDED = "superseded"  # by a newer request with its key


class Ask:
    """What is asked of a model, called on the engine's thread. One that may leave the process is plain data."""

    __slots__ = ()

    def prompt(self, model: Any, window: int) -> Any:
        """The prompt for a model, within a window: ``tokens``, ``ends``, ``constraint`` and ``stop``.

        Made when the job starts, so that one that was superseded before costs nothing.

        Raises:
            ValueError: it cannot be asked; the message is for the user.
        """
        raise NotImplementedError

    def done(self, text: str, prompt: Any) -> bool:
        """Whether the text so far is all that is wanted."""
        return False

    def answer(self, candidate: Candidate, prompt: Any) -> Any:
        """A finished candidate in the asker's terms, as plain data."""
        return candidate.text


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate.

    Attributes:
        sampling: arguments of ``decode.Sampling``, by name.
        model: which of the engine's models.
        key: of requests with one key in one lane the newest wins; ``None`` never is superseded.
    """

    ask: Ask
    sampling: Mapping[str, Any] = field(default_factory=dict)
    model: str = "default"
    key: Hashable | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One continuation: its text and tokens, its mean log-probability per chosen token, why it stopped.

    ``answer`` is what the ask makes of it.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float
    reason: Reason
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The outcome of a request; ``reused`` of the ``prompt_tokens`` came from the prefix cache."""

    reason: Reason
    candidates: tuple[Candidate, ...] = ()
    prompt_tokens: int = 0
    reused: int = 0
    first_token: float = 0.0  # seconds from the job's start
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The first candidate's text."""
        return self.candidates[0].text if self.candidates else ""


class Ticket:
    """A place in the queue. Made, awaited and settled on the loop; only ``cancelled`` crosses threads."""

    def __init__(self, request: Request, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.lane = lane
        self.stopping: Reason | None = None
        self.submitted = time.monotonic()
        self._loop = loop
        self._outcome: asyncio.Future[Any] = loop.create_future()
        # Read even where nobody awaits the ticket any more, so that no failure is reported as never retrieved.
        self._outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def cancel(self, reason: Reason = Reason.CANCELLED) -> None:
        """Answer now and let the engine drop the job at its next step. May be called from any thread, repeatedly."""
        if self.stopping is None:
            self.stopping = reason
            self.settle(Generation(reason))

    async def result(self) -> Generation:
        """The generation, also one that was cancelled or superseded (see its ``reason``).

        Raises:
            EngineError: it failed; the message is for the user.
        """
        try:
            generation: Generation = await asyncio.shield(self._outcome)
            return generation
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[str]:
        """The text as it comes, piece by piece, whole characters only; ends with the generation."""
        while (piece := await self._pieces.get()) is not None:
            yield piece

    def settle(self, outcome: Any) -> None:
        """Answer the ticket, from any thread; the first answer counts."""
        self._call(self._settle, outcome)

    def emit(self, piece: str) -> None:
        """Hand on a piece of text, from any thread."""
        self._call(self._pieces.put_nowait, piece)

    def _settle(self, outcome: Any) -> None:
        if self._outcome.done():
            return
        if isinstance(outcome, BaseException):
            self._outcome.set_exception(outcome)
        else:
            self._outcome.set_result(outcome)
        self._pieces.put_nowait(None)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has closed: nobody waits for the answer
            pass


class State(enum.Enum):
    """Of one of the engine's models."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """A model's state; ``reason`` is a sentence for the user where it failed, ``model`` what is known of it where it is
    ready."""

    state: State
    reason: str = ""
    model: Any = None


class Engine:
    """One thread that runs models. ``submit`` and ``prepare`` are called on a running loop.

    Args:
        host: makes, on the engine thread, what loads models and runs jobs (``worker.Host``).
        specs: the models by the name that requests use; what a spec is, is the host's affair.
        watch: called from the engine thread when a model's status changes.
    """

    def __init__(
        self,
        host: Callable[[], Host],
        specs: Mapping[str, Any],
        watch: Callable[[str, Status], None] | None = None,
    ) -> None:
        self._make_host = host
        self._specs = dict(specs)
        self._watch = watch
        self._status = {name: Status(State.ABSENT) for name in self._specs}
        self._lanes: dict[Lane, deque[Any]] = {lane: deque() for lane in Lane}
        self._loads: deque[tuple[str, Ticket]] = deque()
        self._current: Ticket | None = None
        self._condition = threading.Condition()
        self._closed = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="codeclippy-engine", daemon=True)

    def status(self, model: str = "default") -> Status:
        """A model's status now."""
        return self._status[model]

    def submit(self, request: Request, lane: Lane = Lane.KEYSTROKE) -> Ticket:
        """Queue a request. Fails the ticket at once where the engine is closed or has died."""
        ticket = Ticket(request, lane, asyncio.get_running_loop())
        with self._condition:
            if (error := self._refusal()) is not None:
                ticket.settle(error)
                return ticket
            self._supersede(request.key, lane)
            self._lanes[lane].append(Job(ticket))
            self._wake()
        return ticket

    def prepare(self, model: str = "default") -> Ticket:
        """Load a model, also again after a failure. The ticket's generation is empty."""
        ticket = Ticket(Request(Ask(), model=model), Lane.KEYSTROKE, asyncio.get_running_loop())
        with self._condition:
            if (error := self._refusal()) is not None:
                ticket.settle(error)
                return ticket
            self._loads.append((model, ticket))
            if self._status[model].state is not State.READY:
                self._set_status(model, Status(State.LOADING))
            self._wake()
        return ticket

    def cancel(self, key: Hashable, lane: Lane) -> None:
        """Cancel what waits or runs under a key in a lane."""
        with self._condition:
            self._supersede(key, lane, Reason.CANCELLED)

    def use(self, model: str, spec: Any) -> None:
        """Let requests for ``model`` run on another spec, loaded when the first of them starts."""
        with self._condition:
            self._specs[model] = spec
            self._set_status(model, Status(State.ABSENT))

    def close(self) -> None:
        """Stop taking jobs, answer the waiting ones and end the thread at its next step."""
        with self._condition:
            self._closed = True
            self._drop_all(lambda ticket: ticket.cancel())
            self._condition.notify()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; false where it still runs after ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _wake(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._condition.notify()

    def _refusal(self) -> EngineError | None:
        if self._failure is not None:
            return EngineError(self._failure)
        return EngineError("the engine is closed") if self._closed else None

    def _supersede(self, key: Hashable | None, lane: Lane, reason: Reason = Reason.SUPERSEDED) -> None:
        if key is None:
            return
        for job in list(self._lanes[lane]):
            if job.ticket.request.key == key:
                job.ticket.cancel(reason)
                if not job.started:
                    self._lanes[lane].remove(job)
        running = self._current
        if running is not None and running.lane == lane and running.request.key == key:
            running.cancel(reason)

    def _drop_all(self, answer: Callable[[Ticket], None]) -> None:
        for lane in self._lanes.values():
            for job in lane:
                answer(job.ticket)
            lane.clear()
        for _, ticket in self._loads:
            answer(ticket)
        self._loads.clear()
        if self._current is not None:
            answer(self._current)

    def _set_status(self, model: str, status: Status) -> None:
        changed = self._status[model] != status
        self._status[model] = status
        if changed and self._watch is not None:
            self._watch(model, status)

    # From here on: the engine thread.

    def _run(self) -> None:
        try:
            host = self._make_host()
            while (work := self._next()) is not None:
                if isinstance(work, Job):
                    self._advance(host, work)
                else:
                    self._load(host, *work)
        except BaseException as error:
            log.exception("the engine thread ended")
            self._fail(f"the engine stopped: {type(error).__name__}; restart the server")

    def _fail(self, reason: str) -> None:
        with self._condition:
            self._failure = reason
            self._drop_all(lambda ticket: ticket.settle(EngineError(reason)))
            for name in self._specs:
                self._set_status(name, Status(State.FAILED, reason))

    def _next(self) -> Job | tuple[str, Ticket] | None:
        with self._condition:
            self._current = None
            while not self._closed:
                if self._loads:
                    return self._loads.popleft()
                for lane in Lane:
                    if self._lanes[lane]:
                        job: Job = self._lanes[lane].popleft()
                        self._current = job.ticket
                        return job
                self._condition.wait()
            return None

    def _load(self, host: Host, name: str, ticket: Ticket) -> None:
        try:
            if self._status[name].state is not State.READY:
                self._try_load(host, name)
        except BaseException as error:  # the thread ends with it, and the ticket is in no lane
            ticket.settle(EngineError(f"the engine stopped: {type(error).__name__}; restart the server"))
            raise
        status = self._status[name]
        ticket.settle(Generation(Reason.END) if status.state is State.READY else EngineError(status.reason))

    def _try_load(self, host: Host, name: str) -> Status:
        spec = self._specs[name]
        self._set_status(name, Status(State.LOADING))
        try:
            status = Status(State.READY, model=host.load(name, spec))
        except EngineError as error:
            status = Status(State.FAILED, str(error))
        except Exception as error:
            log.exception("loading %s failed", name)
            status = Status(State.FAILED, f"the model could not be loaded: {type(error).__name__}: {error}")
        with self._condition:
            if self._specs[name] is spec:
                self._set_status(name, status)
                return status
        return self._try_load(host, name)  # another spec was set meanwhile

    def _advance(self, host: Host, job: Job) -> None:
        """Run a job's steps until it ends, is cancelled, or a job of a higher lane waits."""
        ticket = job.ticket
        try:
            if job.steps is None:
                status = self._status[ticket.request.model]
                if status.state is State.ABSENT:
                    status = self._try_load(host, ticket.request.model)
                if status.state is not State.READY:
                    raise EngineError(status.reason)
                job.steps = host.start(ticket)
            for generation in job.steps:
                if generation is not None:
                    ticket.settle(generation)
                    return
                if self._preempted(ticket.lane):
                    with self._condition:
                        self._lanes[ticket.lane].appendleft(job)
                    return
            ticket.cancel()
        except EngineError as error:
            ticket.settle(error)
        except Exception as error:
            log.exception("a request failed")
            ticket.settle(EngineError(f"generation failed ({type(error).__name__}); see the server's log"))

    def _preempted(self, lane: Lane) -> bool:
        return any(self._lanes[higher] for higher in Lane if higher < lane)


@dataclass(slots=True)
class Job:
    """A ticket with its steps, which exist once it has started: ``None`` between steps, at last a generation."""

    ticket: Ticket
    steps: Any = None

    @property
    def started(self) -> bool:
        """Whether a part of it has run, so that its prefix must be put back by its own steps."""
        return self.steps is not None
