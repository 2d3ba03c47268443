"""Someone who types into a real server, as editors do: a change, the last request cancelled, a new request.

Every request is sorted into exactly one outcome. Times are taken outside, from the key to the answer's arrival. Shares
no code with the server; `tests.editor` is its client.
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
    """What became of a request."""

    FRESH = "suggestion of the engine's"
    THROUGH = "typed through"  # the rest of what is shown: the engine is not asked
    EMPTY = "nothing to suggest"
    STALE = "answered null: superseded"
    CANCELLED = "answered as cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's outcome, so many seconds after its key."""

    outcome: Outcome
    seconds: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """A server with something switched off, or nothing: its settings, code that it runs first, how it is asked."""

    options: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    kind: int = AUTOMATIC


# Asked by key for several candidates, of which a temperature of 0 makes one, the server does not look at what it knows.
UNSHOWN: dict[str, Any] = {"completion": {"candidates": 2, "temperature": 0, "prefetch": False}}
_NO_GATE = "from codeclippy_ls.assist import gates; gates.finished = gates.inside_word = lambda *all: False; "
_NO_MEMORY = "from codeclippy_ls.assist import memory; memory.Memory.find = lambda *all: None; "
_NO_HEALING = "from codeclippy_ls.prompts import token_prompts; token_prompts.find_partial_word = lambda prefix: ''; "
_NO_DRAFTS = "from codeclippy_ls.engine.generation import drafting; drafting.optimal_draft_length = lambda *all: 0; "
SWITCHES = {
    "all on": Variant(),
    "memory off": Variant(code=_NO_MEMORY),
    "prefetch off": Variant({"completion": {"prefetch": False}}),
    "debounce off": Variant({"completion": {"debounce": False}}),
    "gates off": Variant(code=_NO_GATE),
    "confidence off": Variant({"completion": {"minConfidence": 0}}),
    "healing off": Variant(code=_NO_HEALING),
    "prefix cache off": Variant({"model": {"cacheMegabytes": 0}}),
    "drafts off": Variant(code=_NO_DRAFTS),
}


@dataclass
class Typist:
    """One session's typing. ``sent`` requests have ``answers``, each one, in the order of their arrival."""

    editor: Editor
    kind: int = AUTOMATIC
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    _waiting: dict[Any, Any] = field(default_factory=dict)
    _shown: tuple[str, str, str] = ("", "", "")

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._waiting)

    async def type(self, typing: Typing, pace: float, uri: str) -> None:
        """Type it at so many seconds a key; the last request is awaited."""
        buffer = self.editor.open(typing.before + typing.after, uri)
        cursor, due = len(typing.before), time.perf_counter()
        for key in typing.keys:
            due = max(due + key.wait * pace, time.perf_counter())  # who is late does not hurry afterwards
            await asyncio.sleep(due - time.perf_counter())
            struck = time.perf_counter()
            cursor = self.editor.type(buffer, cursor - key.removed, key.text, cursor)
            self.cancel()
            self.ask(buffer, cursor, struck)
        await self.settled()
        self.editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def cancel(self) -> None:
        """Cancel what was asked and is not answered yet."""
        for request in self._waiting:
            self.editor.notify("$/cancelRequest", {"id": request})

    def ask(self, buffer: Buffer, cursor: int, struck: float) -> asyncio.Future[Any]:
        """Ask for ghost text at the cursor."""
        params = {**self.editor.at(buffer, cursor), "context": {"triggerKind": self.kind}}
        future = self.editor.request("textDocument/inlineCompletion", params)
        self.sent += 1
        self._waiting[future.request_id] = future  # type: ignore[attr-defined]
        text = buffer.text
        future.add_done_callback(lambda done: self._take(done, struck, text[:cursor], text[cursor:]))
        return future

    async def settled(self) -> None:
        """Until everything is answered."""
        while self._waiting:
            await answered(*self._waiting.values())

    def _take(self, done: Any, struck: float, before: str, after: str) -> None:
        seconds = time.perf_counter() - struck
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
        """Whether this is the rest of what is shown, after its head was typed."""
        start, end, shown = self._shown
        return bool(shown) and after == end and before.startswith(start) and before + text == start + shown


async def answered(*requests: asyncio.Future[Any]) -> None:
    """Until all of them are answered, and what is done with their answers is done.

    Raises:
        ConnectionError: the server does not answer.
    """
    _, missing = await asyncio.wait(requests, timeout=TIMEOUT)
    if missing:
        raise ConnectionError("the server does not answer")
    await asyncio.sleep(0)


@dataclass
class Pings:
    """Round trips of a request that costs nothing, which the server's loop alone answers."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self, editor: Editor, typist: Typist | None = None, period: float = 0.01) -> AsyncIterator[None]:
        """Ping while the block runs; without a typist the engine is taken to be busy all the time."""
        task = asyncio.create_task(self._run(editor, typist, period))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, editor: Editor, typist: Typist | None, period: float) -> None:
        while True:
            into = self.busy if typist is None or typist.busy else self.idle
            into.append(await asyncio.shield(asyncio.ensure_future(ping(editor))))
            await asyncio.sleep(period)


async def ping(editor: Editor) -> float:
    """Seconds until an unknown method is refused."""
    started = time.perf_counter()
    with contextlib.suppress(ServerError):
        await editor.request("codeclippy/ping")
    return time.perf_counter() - started


@contextlib.asynccontextmanager
async def serving(variant: Variant, tokens: int, threads: int = 1) -> AsyncIterator[tuple[Editor, int]]:
    """The real server over stdio, its model ready, and its process's id; its suggestions have ``tokens`` at most.

    Its engine is in that process, unless the variant's settings say otherwise.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        variant.code + _START,
        "--stdio",
        f"--threads={threads}",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    editor = Editor(child.stdout, child.stdin.write)
    try:
        completion = {"maxTokens": tokens, **variant.options.get("completion", {})}
        model = {"engine": "in-process", **variant.options.get("model", {})}
        await editor.start(options={**variant.options, "model": model, "completion": completion})
        yield editor, child.pid
        await asyncio.sleep(0.05)  # a ping under way when its task was cancelled
        await editor.stop()
        await asyncio.wait_for(child.wait(), 10)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def cpu_seconds(process: int) -> tuple[float, float] | None:
    """CPU time of a process's first thread, which is the event loop's, and of all others; ``None`` off Linux."""
    if not Path(f"/proc/{process}/task/{process}/schedstat").exists():
        return None
    loop, others = 0.0, 0.0
    for thread, seconds in _threads(process):
        loop, others = (seconds, others) if thread == process else (loop, others + seconds)
    return loop, others


def _threads(process: int) -> Iterator[tuple[int, float]]:
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # one that has just ended
            yield int(thread.name), int((thread / "schedstat").read_text().split()[0]) / 1e9
