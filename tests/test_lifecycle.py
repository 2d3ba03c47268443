"""Any order of messages: each request has exactly one answer with the code that the protocol says, and texts stay true.

The model of the server is four lines long: what is allowed before initialize, while it runs, after shutdown.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeclippy_ls.server.server import Server
from tests.editor import TIMEOUT, Editor, ServerError, in_process
from tests.scripted import ScriptedWorker

NOT_INITIALIZED, INVALID, UNKNOWN, CANCELLED = -32002, -32600, -32601, -32800
URIS = ("file:///a.py", "file:///b.py")

uri = st.sampled_from(URIS)
texts = st.text(st.sampled_from("ab \n\r\tü😀\x0c\u2028"), max_size=12)
moves = st.one_of(
    st.just(("initialize",)),
    st.just(("initialize",)),
    st.just(("initialized",)),
    st.just(("shutdown",)),
    st.just(("unknown",)),
    st.just(("cancel",)),
    st.just(("garbage",)),
    st.tuples(st.just("open"), uri, texts),
    st.tuples(st.just("open"), uri, texts),
    st.tuples(st.just("close"), uri),
    st.tuples(st.just("change"), uri, st.integers(0, 12), st.integers(0, 6), texts),
    st.tuples(st.just("change"), uri, st.integers(0, 12), st.integers(0, 6), texts),
    st.tuples(st.just("whole"), uri, texts),
    st.tuples(st.just("complete"), uri, st.integers(0, 12)),
    st.tuples(st.just("ghost"), uri, st.integers(0, 12)),
)


class Session:
    """Plays moves, and knows what must come of them."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.state = "new"
        self.asked: list[tuple[asyncio.Future[Any], int | None]] = []
        self.texts: dict[str, str] = {}

    def ask(self, method: str, params: Any, fine: int | None = None) -> None:
        """Send a request; ``fine`` is the code where the server runs, ``None`` a result."""
        code = {"new": NOT_INITIALIZED, "running": fine, "down": INVALID}[self.state]
        if method == "initialize" and self.state == "new":
            code = None
        self.asked.append((self.editor.request(method, params), code))

    def play(self, move: tuple[Any, ...]) -> None:
        """One move."""
        name, *given = move
        if name == "initialize":
            self.ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}}, INVALID)
            self.state = "running" if self.state == "new" else self.state
        elif name == "initialized":
            self.editor.notify("initialized", {})
        elif name == "shutdown":
            self.ask("shutdown", None)
            self.state = "down" if self.state == "running" else self.state
        elif name == "unknown":
            self.ask("textDocument/hover", {}, UNKNOWN)
        elif name == "cancel":
            self.editor.notify("$/cancelRequest", {"id": 100_000})
        elif name == "garbage":
            self.editor.send({"jsonrpc": "2.0", "id": "never", "result": 1})
        else:
            self.document(name, *given)

    def document(self, name: str, uri: str, *given: Any) -> None:
        """What is about a document; the client's own arithmetic is the editor's buffer."""
        buffer = self.editor.buffers.get(uri)
        if name in ("complete", "ghost"):
            offset = min(given[0], len(buffer.text)) if buffer else 0
            place = (
                self.editor.at(buffer, offset)
                if buffer
                else {"textDocument": {"uri": uri}, "position": {"line": 0, "character": 0}}
            )
            method = "textDocument/completion" if name == "complete" else "textDocument/inlineCompletion"
            self.ask(method, {**place, "context": {"triggerKind": 2 if name == "ghost" else 1}})
        elif self.state != "running":
            return  # a client sends nothing about documents then
        elif name == "open":
            self.editor.open(given[0], uri)
        elif buffer is None:
            return
        elif name == "close":
            self.editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
            del self.editor.buffers[uri]
        elif name == "whole":
            buffer.text = given[0]
            buffer.version += 1
            self.editor.notify(
                "textDocument/didChange", {"textDocument": buffer.identifier, "contentChanges": [{"text": buffer.text}]}
            )
        else:
            start = min(given[0], len(buffer.text))
            self.editor.type(buffer, start, given[2], end=min(start + given[1], len(buffer.text)))


async def outcome(future: asyncio.Future[Any]) -> int | None:
    """The code of an error, ``None`` of a result."""
    try:
        await asyncio.wait_for(future, TIMEOUT)
    except ServerError as error:
        return error.code
    return None


async def lived(some: list[tuple[Any, ...]]) -> None:
    """A whole session."""
    worker = ScriptedWorker()
    server = Server(engine=worker.open)
    async with in_process(server) as editor:
        session = Session(editor)
        for move in some:
            session.play(move)
        for future, code in session.asked:
            found = await outcome(future)
            assert found == code or (found == CANCELLED and session.state == "down")  # shutdown cancels what waits
        await outcome(editor.request("$/barrier"))  # all before it has been read
        if session.state == "running":
            for name in URIS:
                buffer, held = editor.buffers.get(name), server.documents.get(name)
                assert (buffer.text if buffer else None) == (held.text if held else None)
        editor.notify("exit")
        assert await asyncio.wait_for(editor.exit_code, TIMEOUT) == (0 if session.state == "down" else 1)  # type: ignore[attr-defined]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(moves, max_size=30))
def test_any_order_of_messages(some: list[tuple[Any, ...]]) -> None:
    """From nothing to exit."""
    asyncio.run(lived(some))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(moves, max_size=40))
def test_any_order_of_messages_once_it_runs(some: list[tuple[Any, ...]]) -> None:
    """As most sessions go."""
    asyncio.run(
        lived(
            [
                ("initialize",),
                ("initialized",),
                ("open", URIS[0], "a = \n"),
                *(move for move in some if move[0] not in ("initialize", "shutdown")),
            ]
        )
    )
