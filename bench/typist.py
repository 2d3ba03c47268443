"""A client that types into a real server as editors do: change, cancel the last request, send a new one.

Every request has exactly one outcome. Times are measured in the client, from the key to the arrival of the answer.
Shares no code with the server; `tests.editor` is its client.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.workload import Typing
from tests.editor import TIMEOUT, Buffer, Editor, ServerError

ROOT = Path(__file__).parent.parent
CANCELLED, UNKNOWN = -32800, -32601
INVOKED, AUTOMATIC = 1, 2
_START = "from codeclippy_ls.cli import main; raise SystemExit(main())"


class Outcome(enum.Enum):
    """Outcome of a request."""

    FRESH = "suggestion from the engine"
    THROUGH = "typed through"  # the rest of the shown suggestion, without the engine
    EMPTY = "nothing to suggest"
    STALE = "answered null: superseded"
    CANCELLED = "answered as cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's outcome, and the seconds since its key."""

    outcome: Outcome
    seconds: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """A server with one feature off, or none: its settings, code that it runs first, the trigger kind of requests."""

    options: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    kind: int = AUTOMATIC


# A request by key for several candidates skips the suggestion cache; at temperature 0 only one is generated.
UNCACHED: dict[str, Any] = {"completion": {"candidates": 2, "temperature": 0, "prefetch": False}}
_NO_TRIGGERS = "from codeclippy_ls.assist import triggers; triggers.should_request = lambda *all: True; "
_NO_CACHE = (
    "from codeclippy_ls.assist import suggestion_cache; suggestion_cache.SuggestionCache.find = lambda *all: None; "
)
_NO_HEALING = "from codeclippy_ls.prompts import token_prompts; token_prompts.find_partial_word = lambda prefix: ''; "
_NO_DRAFTS = "from codeclippy_ls.engine.generation import drafting; drafting.optimal_draft_length = lambda *all: 0; "
SWITCHES = {
    "all on": Variant(),
    "suggestion cache off": Variant(code=_NO_CACHE),
    "prefetch off": Variant({"completion": {"prefetch": False}}),
    "debounce off": Variant({"completion": {"debounce": False}}),
    "triggers off": Variant(code=_NO_TRIGGERS),
    "confidence off": Variant({"completion": {"minConfidence": 0}}),
    "healing off": Variant(code=_NO_HEALING),
    "prefix cache off": Variant({"model": {"cacheMegabytes": 0}}),
    "drafts off": Variant(code=_NO_DRAFTS),
}


@dataclass
class Typist:
    """One session's typing. Each of the ``sent`` requests has one of ``answers``, in the order of their arrival."""

    editor: Editor
    kind: int = AUTOMATIC
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    _waiting: dict[Any, Any] = field(default_factory=dict)
    _shown: tuple[str, str, str] = ("", "", "")

    @property
    def is_busy(self) -> bool:
        """True while a request is unanswered."""
        return bool(self._waiting)

    async def type(self, typing: Typing, seconds_per_key: float, uri: str) -> None:
        """Type with ``seconds_per_key`` on average, and wait for the last answer."""
        buffer = self.editor.open(typing.before + typing.after, uri)
        cursor, due = len(typing.before), time.perf_counter()
        for key in typing.keys:
            # A late key does not speed up the next ones.
            due = max(due + key.wait * seconds_per_key, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())
            pressed_at = time.perf_counter()
            cursor = self.editor.type(buffer, cursor - key.removed, key.text, cursor)
            self.cancel()
            self.request_completion(buffer, cursor, pressed_at)
        await self.wait_until_idle()
        self.editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def cancel(self) -> None:
        """Cancel the unanswered requests."""
        for request in self._waiting:
            self.editor.notify("$/cancelRequest", {"id": request})

    def request_completion(self, buffer: Buffer, cursor: int, pressed_at: float) -> asyncio.Future[Any]:
        """Request ghost text at the cursor."""
        params = {**self.editor.at(buffer, cursor), "context": {"triggerKind": self.kind}}
        future = self.editor.request("textDocument/inlineCompletion", params)
        self.sent += 1
        self._waiting[future.request_id] = future  # type: ignore[attr-defined]
        text = buffer.text
        future.add_done_callback(lambda done: self._record(done, pressed_at, text[:cursor], text[cursor:]))
        return future

    async def wait_until_idle(self) -> None:
        """Wait until every request is answered."""
        while self._waiting:
            await wait_for_answers(*self._waiting.values())

    def _record(self, done: Any, pressed_at: float, before: str, after: str) -> None:
        seconds = time.perf_counter() - pressed_at
        del self._waiting[done.request_id]
        if (error := done.exception()) is not None:
            cancelled = isinstance(error, ServerError) and error.code == CANCELLED
            self.answers.append(Answer(Outcome.CANCELLED if cancelled else Outcome.FAILED, seconds))
        elif done.result() is None:
            self.answers.append(Answer(Outcome.STALE, seconds))
        elif not done.result()["items"]:
            self.answers.append(Answer(Outcome.EMPTY, seconds))
        else:
            text = done.result()["items"][0]["insertText"]
            again = self._is_shown(before, after, text)
            self.answers.append(Answer(Outcome.THROUGH if again else Outcome.FRESH, seconds, text))
            if not again:
                self._shown = (before, after, text)

    def _is_shown(self, before: str, after: str, text: str) -> bool:
        """Return whether this is the rest of the shown suggestion, after its beginning was typed."""
        start, end, shown = self._shown
        return bool(shown) and after == end and before.startswith(start) and before + text == start + shown


async def wait_for_answers(*requests: asyncio.Future[Any]) -> None:
    """Wait until all requests are answered and their callbacks have run.

    Raises:
        ConnectionError: the server does not answer.
    """
    _, missing = await asyncio.wait(requests, timeout=TIMEOUT)
    if missing:
        raise ConnectionError("the server does not answer")
    await asyncio.sleep(0)


@dataclass
class Pings:
    """Round-trip times of a request without work, which only the server's event loop answers."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def measure(self, editor: Editor, typist: Typist | None = None, period: float = 0.01) -> AsyncIterator[None]:
        """Ping while the block runs; without a typist the engine counts as busy all the time."""
        task = asyncio.create_task(self._run(editor, typist, period))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, editor: Editor, typist: Typist | None, period: float) -> None:
        while True:
            times = self.busy if typist is None or typist.is_busy else self.idle
            times.append(await asyncio.shield(asyncio.ensure_future(ping(editor))))
            await asyncio.sleep(period)


async def ping(editor: Editor) -> float:
    """Return the seconds until an unknown method is refused."""
    started = time.perf_counter()
    with contextlib.suppress(ServerError):
        await editor.request("codeclippy/ping")
    return time.perf_counter() - started


@contextlib.asynccontextmanager
async def run_server(
    variant: Variant, tokens: int, threads: int = 1, log: Path | None = None
) -> AsyncIterator[tuple[Editor, int]]:
    """Run the real server over stdio; yields its client, with the model loaded, and its process id.

    Suggestions have at most ``tokens`` tokens. The engine is in that process, unless the variant's settings differ.
    What it writes to stderr is appended to ``log``.
    """
    stderr = log.open("a") if log is not None else None
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        variant.code + _START,
        "--stdio",
        f"--threads={threads}",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    if stderr is not None:
        stderr.close()
    assert child.stdin is not None and child.stdout is not None
    editor = Editor(child.stdout, child.stdin.write)
    try:
        completion = {"maxTokens": tokens, **variant.options.get("completion", {})}
        model = {"engine": "in-process", **variant.options.get("model", {})}
        await editor.start(options={**variant.options, "model": model, "completion": completion})
        yield editor, child.pid
        await asyncio.sleep(0.05)  # for a ping whose task was cancelled
        await editor.stop()
        await asyncio.wait_for(child.wait(), 10)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def read_cpu_seconds(process: int) -> tuple[float, float] | None:
    """Return the CPU seconds of a process's first thread, the event loop's, and of all others; ``None`` off Linux."""
    if not Path(f"/proc/{process}/task/{process}/schedstat").exists():
        return None
    loop, others = 0.0, 0.0
    for thread, seconds in _iter_threads(process):
        loop, others = (seconds, others) if thread == process else (loop, others + seconds)
    return loop, others


def _iter_threads(process: int) -> Iterator[tuple[int, float]]:
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # one that has just ended
            yield int(thread.name), int((thread / "schedstat").read_text().split()[0]) / 1e9
