"""What goes into an engine and what comes out: requests, tickets, generations, a model's status.

All but tickets are plain values, the same whether the engine is a thread, another process or a service. Knows no model
and no text.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


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

    def text_prompt(self, served: Any) -> Any:
        """The prompt for a model that another program serves, as text; `done` and `answer` take it as they take others.

        Raises:
            ValueError: it cannot be asked, or not outside of this machine; the message is for the user.
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
        client: who asks, where several share an engine.
    """

    ask: Ask
    sampling: Mapping[str, Any] = field(default_factory=dict)
    model: str = "default"
    key: Hashable | None = None
    client: Hashable | None = None


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
    """A place in the queue. Made, awaited and settled on the loop; only ``stopping`` crosses threads.

    Args:
        on_cancel: called on the loop when it is cancelled.
    """

    def __init__(
        self,
        request: Request,
        lane: Lane,
        loop: asyncio.AbstractEventLoop,
        on_cancel: Callable[[Ticket], None] | None = None,
    ) -> None:
        self.request = request
        self.lane = lane
        self.stopping: Reason | None = None
        self.submitted = time.monotonic()
        self._loop = loop
        self._on_cancel = on_cancel
        self._outcome: asyncio.Future[Any] = loop.create_future()
        # Read even where nobody awaits the ticket any more, so that no failure is reported as never retrieved.
        self._outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def cancel(self, reason: Reason = Reason.CANCELLED) -> None:
        """Answer now and let the engine drop the job at its next step. May be called from any thread, repeatedly."""
        if self.stopping is None:
            self.stopping = reason
            self.settle(Generation(reason))
            if self._on_cancel is not None:
                self._call(self._on_cancel, self)

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


class EngineFace(Protocol):
    """What every engine does, wherever its models run; used on the loop's thread."""

    @property
    def failure(self) -> str | None:
        """Why nothing will ever work in this engine again; ``None`` while it does, or may once it is prepared."""

    def status(self, model: str = "default") -> Status:
        """A model's status now."""

    def submit(self, request: Request, lane: Lane = Lane.KEYSTROKE) -> Ticket:
        """Queue a request; whatever happens, its ticket is answered once."""

    def prepare(self, model: str = "default") -> Ticket:
        """Load a model, also again after a failure. The ticket's generation is empty."""

    def cancel(self, key: Hashable, lane: Lane) -> None:
        """Cancel what waits or runs under a key in a lane."""

    def use(self, model: str, spec: Any) -> None:
        """Let requests for ``model`` run on another spec."""

    def close(self) -> None:
        """Stop taking requests and answer the waiting ones."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait for what runs in this process to end; false where it still does after ``timeout`` seconds."""
