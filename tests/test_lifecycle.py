"""Any order of messages: each request has exactly one response with the specified code, and texts stay in sync.

The model of the server is four lines long: what is allowed before initialize, while it runs, and after shutdown.
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
    """Plays moves, and knows the responses to expect."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.state = "new"
        self.responses: list[tuple[asyncio.Future[Any], int | None]] = []
        self.texts: dict[str, str] = {}

    def send_request(self, method: str, params: Any, code_if_running: int | None = None) -> None:
        """Send a request and note the expected error code; ``None`` is a result."""
        code = {"new": NOT_INITIALIZED, "running": code_if_running, "down": INVALID}[self.state]
        if method == "initialize" and self.state == "new":
            code = None
        self.responses.append((self.editor.request(method, params), code))

    def play(self, move: tuple[Any, ...]) -> None:
        """Play one move."""
        name, *arguments = move
        if name == "initialize":
            self.send_request("initialize", {"processId": None, "rootUri": None, "capabilities": {}}, INVALID)
            self.state = "running" if self.state == "new" else self.state
        elif name == "initialized":
            self.editor.notify("initialized", {})
        elif name == "shutdown":
            self.send_request("shutdown", None)
            self.state = "down" if self.state == "running" else self.state
        elif name == "unknown":
            self.send_request("textDocument/hover", {}, UNKNOWN)
        elif name == "cancel":
            self.editor.notify("$/cancelRequest", {"id": 100_000})
        elif name == "garbage":
            self.editor.send({"jsonrpc": "2.0", "id": "never", "result": 1})
        else:
            self.play_document(name, *arguments)

    def play_document(self, name: str, uri: str, *arguments: Any) -> None:
        """Play a move about a document; the client's own arithmetic is the editor's buffer."""
        buffer = self.editor.buffers.get(uri)
        if name in ("complete", "ghost"):
            offset = min(arguments[0], len(buffer.text)) if buffer else 0
            position = (
                self.editor.at(buffer, offset)
                if buffer
                else {"textDocument": {"uri": uri}, "position": {"line": 0, "character": 0}}
            )
            method = "textDocument/completion" if name == "complete" else "textDocument/inlineCompletion"
            self.send_request(method, {**position, "context": {"triggerKind": 2 if name == "ghost" else 1}})
        elif self.state != "running":
            return  # clients then send nothing about documents
        elif name == "open":
            self.editor.open(arguments[0], uri)
        elif buffer is None:
            return
        elif name == "close":
            self.editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
            del self.editor.buffers[uri]
        elif name == "whole":
            buffer.text = arguments[0]
            buffer.version += 1
            self.editor.notify(
                "textDocument/didChange", {"textDocument": buffer.identifier, "contentChanges": [{"text": buffer.text}]}
            )
        else:
            start = min(arguments[0], len(buffer.text))
            self.editor.type(buffer, start, arguments[2], end=min(start + arguments[1], len(buffer.text)))


async def wait_for_code(future: asyncio.Future[Any]) -> int | None:
    """Return the code of an error, ``None`` for a result."""
    try:
        await asyncio.wait_for(future, TIMEOUT)
    except ServerError as error:
        return error.code
    return None


async def play_session(session_moves: list[tuple[Any, ...]]) -> None:
    """Play a whole session."""
    worker = ScriptedWorker()
    server = Server(engine=worker.open)
    async with in_process(server) as editor:
        session = Session(editor)
        for move in session_moves:
            session.play(move)
        for future, code in session.responses:
            found = await wait_for_code(future)
            is_cancelled = found == CANCELLED and session.state == "down"  # by shutdown
            assert found == code or is_cancelled
        await wait_for_code(editor.request("$/barrier"))  # everything before it has been read
        if session.state == "running":
            for name in URIS:
                buffer, document = editor.buffers.get(name), server.session.documents.get(name)
                assert (buffer.text if buffer else None) == (document.text if document else None)
        editor.notify("exit")
        assert await asyncio.wait_for(editor.exit_code, TIMEOUT) == (0 if session.state == "down" else 1)  # type: ignore[attr-defined]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(moves, max_size=30))
def test_any_order_of_messages(session_moves: list[tuple[Any, ...]]) -> None:
    """From a new server to exit."""
    asyncio.run(play_session(session_moves))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(moves, max_size=40))
def test_any_order_of_messages_after_initialize(session_moves: list[tuple[Any, ...]]) -> None:
    """Most sessions look like this."""
    asyncio.run(
        play_session(
            [
                ("initialize",),
                ("initialized",),
                ("open", URIS[0], "a = \n"),
                *(move for move in session_moves if move[0] not in ("initialize", "shutdown")),
            ]
        )
    )
