"""A fake editor: holds its own text, does its own position arithmetic, and speaks raw JSON-RPC frames.

It shares no code with the server. It checks what every test relies on: each request is answered exactly once, and at
the end no message of the server is left unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

TIMEOUT = 180.0  # seconds; only guards against hanging, on the slowest machine
# Notifications that editors may ignore; everything else must be read by the test.
_QUIET = {"$/progress", "window/logMessage", "codeclippy/status", "codeclippy/suggestionReady"}


class Buffer:
    """A document as an editor has it, in units of one encoding, without the server's text code."""

    def __init__(self, uri: str, text: str, encoding: str = "utf-16", language: str = "python") -> None:
        self.uri, self.text, self.encoding, self.language, self.version = uri, text, encoding, language, 1

    def _width(self, text: str) -> int:
        if self.encoding == "utf-8":
            return len(text.encode())
        return len(text) if self.encoding == "utf-32" else sum(2 if ord(c) > 0xFFFF else 1 for c in text)

    def position(self, offset: int) -> dict[str, int]:
        """Return the position of an offset."""
        head = self.text[:offset].replace("\r\n", "\n").replace("\r", "\n")
        return {"line": head.count("\n"), "character": self._width(head.rpartition("\n")[2])}

    def offset(self, position: dict[str, int]) -> int:
        """Return the offset of a position from the server, which must exist."""
        line, start = 0, 0
        while line < position["line"]:
            ends = [i for i in (self.text.find("\n", start), self.text.find("\r", start)) if i >= 0]
            end = min(ends)
            start = end + (2 if self.text[end : end + 2] == "\r\n" else 1)
            line += 1
        offset, width = start, 0
        while width < position["character"]:
            width += self._width(self.text[offset])
            offset += 1
        assert width == position["character"], "a position inside a character"
        return offset

    def apply(self, edits: list[dict[str, Any]]) -> None:
        """Apply text edits that all refer to the text as it is."""
        spans = sorted(
            ((self.offset(e["range"]["start"]), self.offset(e["range"]["end"]), e["newText"]) for e in edits),
            reverse=True,
        )
        for index, (start, end, text) in enumerate(spans):
            assert index == 0 or end <= spans[index - 1][0], "overlapping edits"
            self.text = self.text[:start] + text + self.text[end:]
        self.version += 1

    @property
    def identifier(self) -> dict[str, Any]:
        """The document's versioned identifier."""
        return {"uri": self.uri, "version": self.version}


class ServerError(Exception):
    """An error answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]


class Editor:
    """One client session over a pair of streams."""

    def __init__(self, reader: asyncio.StreamReader, write: Callable[[bytes], None]) -> None:
        self._reader, self._write = reader, write
        self._id = 0
        self.open_requests: dict[Any, asyncio.Future[Any]] = {}
        self.surplus: list[dict[str, Any]] = []
        self.unread: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.strays: list[str] = []
        self.accept_edits = True
        self.choices: list[str | None] = []
        self.buffers: dict[str, Buffer] = {}
        self._news = asyncio.Condition()
        self._task = asyncio.get_running_loop().create_task(self._read())

    # The wire.

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        body = json.dumps(message).encode()
        self.send_raw(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._write(data)

    def request(self, method: str, params: Any = None) -> asyncio.Future[Any]:
        """Send a request; the future has its result or raises ServerError. Its ``id`` attribute is the id."""
        self._id += 1
        future: Any = asyncio.get_running_loop().create_future()
        self.open_requests[self._id] = future
        future.request_id = self._id
        extra = {} if params is None else {"params": params}
        self.send({"jsonrpc": "2.0", "id": self._id, "method": method, **extra})
        return future

    async def call(self, method: str, params: Any = None) -> Any:
        """Send a request and await its result."""
        return await asyncio.wait_for(self.request(method, params), TIMEOUT)

    def notify(self, method: str, params: Any = None) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})})

    async def _read(self) -> None:
        while True:
            try:
                header = await self._reader.readline()
            except ConnectionError:  # a server that was killed ends a socket like this
                break
            if not header:
                break
            if not header.lower().startswith(b"content-length:"):
                self.strays.append(repr(header))
                continue
            length = int(header.split(b":")[1])
            while (await self._reader.readline()).strip():
                pass
            await self._take(json.loads(await self._reader.readexactly(length)))
        async with self._news:
            self._news.notify_all()
        for future in self.open_requests.values():
            if not future.done():
                future.set_exception(ConnectionError("the server ended the session"))

    async def _take(self, message: dict[str, Any]) -> None:
        self.seen.append(message)
        if "method" in message:
            if "id" in message:
                self._answer(message)
            if message["method"] not in _QUIET:
                self.unread.append(message)
        elif message["id"] is None:
            self.unread.append(message)
        else:
            future = self.open_requests.pop(message["id"], None)
            if future is None:
                self.surplus.append(message)
            elif not future.done():
                if "error" in message:
                    future.set_exception(ServerError(message["error"]))
                else:
                    assert "result" in message, "an answer without result or error"
                    future.set_result(message["result"])
        async with self._news:
            self._news.notify_all()

    def _answer(self, message: dict[str, Any]) -> None:
        result: Any = None
        if message["method"] == "workspace/applyEdit":
            result = self._apply(message["params"]["edit"])
        elif message["method"] == "window/showMessageRequest":
            choice = self.choices.pop(0)
            result = next((action for action in message["params"]["actions"] if action["title"] == choice), None)
        elif message["method"] == "window/showDocument":
            result = {"success": True}
        elif message["method"] == "workspace/configuration":
            result = [self.configuration for _ in message["params"]["items"]]
        self.send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    configuration: Any = None

    def _apply(self, edit: dict[str, Any]) -> dict[str, Any]:
        """Apply a workspace edit as an editor does: check the versions, apply all of it or nothing."""
        if not self.accept_edits:
            return {"applied": False, "failureReason": "the user said no"}
        for change in edit["documentChanges"]:
            buffer = self.buffers[change["textDocument"]["uri"]]
            if change["textDocument"]["version"] != buffer.version:
                return {"applied": False, "failureReason": "stale"}
            buffer.apply(change["edits"])
            self.notify(
                "textDocument/didChange", {"textDocument": buffer.identifier, "contentChanges": [{"text": buffer.text}]}
            )
        return {"applied": True}

    async def until(self, method: str, accept: Callable[[dict[str, Any]], bool] = lambda message: True) -> Any:
        """Await a message from the server and mark it as read; return its params, or an error without id whole."""

        def find() -> dict[str, Any] | None:
            pool = self.seen if method in _QUIET else self.unread
            return next((m for m in pool if m.get("method", "error") == method and accept(m)), None)

        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: find() is not None or self._task.done()), TIMEOUT)
        message = find()
        assert message is not None, f"the session ended without {method}"
        if message in self.unread:
            self.unread.remove(message)
        return message.get("params", message)

    # What a user does.

    async def start(self, capabilities: dict[str, Any] | None = None, options: Any = None, ready: bool = True) -> Any:
        """Initialize, and await the model if ``ready``."""
        result = await self.call(
            "initialize",
            {
                "processId": None,
                "rootUri": None,
                "capabilities": capabilities or {},
                "initializationOptions": {"statusNotification": True, **(options or {})},
            },
        )
        self.notify("initialized", {})
        if ready:
            await self.until("codeclippy/status", lambda m: m["params"]["state"] in ("ready", "failed"))
        return result

    def open(
        self, text: str, uri: str = "file:///work/sample.py", encoding: str = "utf-16", language: str = "python"
    ) -> Buffer:
        """Open a document."""
        buffer = self.buffers[uri] = Buffer(uri, text, encoding, language)
        self.notify(
            "textDocument/didOpen",
            {"textDocument": {"uri": uri, "languageId": buffer.language, "version": buffer.version, "text": text}},
        )
        return buffer

    def type(self, buffer: Buffer, offset: int, text: str, end: int | None = None) -> int:
        """Replace ``[offset, end)`` by an incremental change; return the offset after the text."""
        start, stop = buffer.position(offset), buffer.position(offset if end is None else end)
        buffer.text = buffer.text[:offset] + text + buffer.text[offset if end is None else end :]
        buffer.version += 1
        self.notify(
            "textDocument/didChange",
            {
                "textDocument": buffer.identifier,
                "contentChanges": [{"range": {"start": start, "end": stop}, "text": text}],
            },
        )
        return offset + len(text)

    def at(self, buffer: Buffer, offset: int) -> dict[str, Any]:
        """Return the params that name a document and a position."""
        return {"textDocument": {"uri": buffer.uri}, "position": buffer.position(offset)}

    async def complete(self, buffer: Buffer, offset: int) -> list[dict[str, Any]]:
        """Return the items of the completion list."""
        result = await self.call("textDocument/completion", {**self.at(buffer, offset), "context": {"triggerKind": 1}})
        items: list[dict[str, Any]] = result["items"]
        return items

    async def ghost(self, buffer: Buffer, offset: int, kind: int = 1) -> list[dict[str, Any]]:
        """Return the items of an inline completion."""
        result = await self.call(
            "textDocument/inlineCompletion", {**self.at(buffer, offset), "context": {"triggerKind": kind}}
        )
        items: list[dict[str, Any]] = result["items"] if result else []
        return items

    async def edit(self, buffer: Buffer, message: str, start: int = 0, end: int | None = None) -> None:
        """Run the edit command over a range; it returns at once, `outcome` waits for the edit."""
        range = {"start": buffer.position(start), "end": buffer.position(len(buffer.text) if end is None else end)}
        await self.call(
            "workspace/executeCommand",
            {"command": "codeclippy.edit", "arguments": [{"uri": buffer.uri, "range": range, "message": message}]},
        )

    async def outcome(self) -> dict[str, Any]:
        """Await the params of ``workspace/applyEdit``, or of the message that says why there is no edit."""
        outcomes = ("workspace/applyEdit", "window/showMessage")
        async with self._news:
            await asyncio.wait_for(
                self._news.wait_for(lambda: any(m.get("method") in outcomes for m in self.unread)), TIMEOUT
            )
        message = next(m for m in self.unread if m.get("method") in outcomes)
        self.unread.remove(message)
        params: dict[str, Any] = message["params"]
        return params

    async def stop(self) -> None:
        """Shut down, and check that every request was answered once and that nothing was left unread."""
        await self.call("shutdown")
        self.notify("exit")
        await asyncio.wait_for(self._task, TIMEOUT)
        self.check()

    async def ended(self) -> None:
        """Check a session that the server ended: the laws hold, except for unanswered requests."""
        await asyncio.wait_for(self._task, TIMEOUT)
        self.open_requests.clear()
        self.check()

    def check(self) -> None:
        """Check the laws of every session."""
        assert not self.open_requests, f"never answered: {list(self.open_requests)}"
        assert not self.surplus, f"answers to no request, or second ones: {self.surplus}"
        assert not self.strays, f"bytes that are not frames: {self.strays}"
        assert not self.unread, f"messages that no test read: {self.unread}"


class _Pipe:
    """The server's writer in a session without a process: it feeds the editor's reader."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def write(self, data: bytes) -> None:
        self._reader.feed_data(data)

    def close(self) -> None:
        self._reader.feed_eof()


@contextlib.asynccontextmanager
async def in_process(server: Any) -> AsyncIterator[Editor]:
    """Run a session with a server object on this loop."""
    to_server, to_editor = asyncio.StreamReader(limit=4096), asyncio.StreamReader()
    editor = Editor(to_editor, to_server.feed_data)

    async def run() -> int:
        try:
            code: int = await server.serve(to_server, _Pipe(to_editor))
            return code
        finally:
            to_editor.feed_eof()

    task = asyncio.get_running_loop().create_task(run())
    editor.exit_code = task  # type: ignore[attr-defined]
    try:
        yield editor
        if not task.done():
            await editor.stop()
        else:
            await editor.ended()
    finally:
        to_server.feed_eof()
        await asyncio.wait_for(task, TIMEOUT)
        assert await asyncio.to_thread(server.join, TIMEOUT), "the engine did not end"


@contextlib.asynccontextmanager
async def process(*arguments: str, python: tuple[str, ...] = (), cwd: Path | None = None) -> AsyncIterator[Any]:
    """Run a session with the real server process over stdio; yields the editor and the process."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *python,
        "-m",
        "codeclippy_ls",
        *arguments,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    editor = Editor(child.stdout, child.stdin.write)
    try:
        yield editor, child
        if child.returncode is None:
            await asyncio.wait_for(child.wait(), TIMEOUT)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
