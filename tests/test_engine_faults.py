"""Faults of an engine, seen by a client of the real server process, over each transport.

Whatever happens, each request gets one response and the session can be ended (``tests.editor`` checks that), the user
is told of a fault once, documents stay in sync, and later requests succeed or fail with the reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT, Buffer, Editor
from tests.scripted_server import checksum_name
from tests.transports import (
    TOKEN,
    TRANSPORT_PARAMS,
    TRANSPORTS,
    ServerConnection,
    find_processes,
    run_server,
    wait_until_gone,
)

PROGRAM = ("-m", "tests.scripted_server")
TEXT = "def add(a, b):\n    return a + b\n\n\n# ü😀\nx = "
HUNKS = "@@ -1,2 +1,3 @@\n def add(a, b):\n+    # sums\n     return a + b\n"
# Prefetching would make requests that the script does not expect.
OPTIONS = {
    "completion": {"prefetch": False, "candidates": 1, "timeBudgetMs": 60000},
    "model": {"engine": "in-process"},
    "token": TOKEN,
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
transports = pytest.mark.parametrize("transport", TRANSPORT_PARAMS)


class Session:
    """A session with one document and a scripted engine.

    Args:
        script: the engine's script, read again for every job (see ``tests.scripted_server``).
        defaults: keys that every version of the script has.
    """

    def __init__(self, server: ServerConnection, script: Path, **defaults: Any) -> None:
        self.server, self.script, self.defaults = server, script, defaults
        self.editor = Editor(server.reader, server.writer.write)
        self.typed_lines = 0
        self.buffer: Buffer

    async def start(self) -> None:
        """Start the session like an editor, wait until the engine is ready, and open the document."""
        capabilities = {"workspace": {"applyEdit": True}, "window": {"workDoneProgress": True}}
        await self.editor.start(capabilities, OPTIONS, ready=False)
        await self.wait_until_ready()
        self.drop_progress_requests()
        self.buffer = self.editor.open(TEXT)

    def write_script(self, **keys: Any) -> None:
        """Replace the script."""
        new = self.script.with_suffix(".new")
        new.write_text(json.dumps({**self.defaults, **keys}))
        new.replace(self.script)

    async def wait_until_ready(self) -> None:
        """Wait for a status that says that the engine is ready, since the last call."""
        await self.editor.until("codeclippy/status", lambda m: m["params"]["state"] == "ready")
        self.editor.seen.clear()

    def type(self) -> int:
        """Type a new line at the end; return the cursor's offset."""
        self.typed_lines += 1
        return self.editor.type(self.buffer, len(self.buffer.text), f"v{self.typed_lines} +\nx = ")

    def request_suggestion(self) -> asyncio.Future[Any]:
        """Type a new line, and request a suggestion there."""
        place = self.editor.at(self.buffer, self.type())
        return self.editor.request("textDocument/inlineCompletion", {**place, "context": {"triggerKind": 1}})

    async def get_suggestions(self) -> Any:
        """Request suggestions; return their texts."""
        result = await asyncio.wait_for(self.request_suggestion(), TIMEOUT)
        return [item["insertText"] for item in result["items"]]

    async def get_edit(self) -> dict[str, Any]:
        """Request an edit; return its outcome."""
        await self.editor.edit(self.buffer, "Add a comment", 0, 15)
        outcome = await self.editor.outcome()
        self.drop_progress_requests()
        return outcome

    async def trigger_fault(self, fault: str, edit: bool) -> str:
        """Trigger a fault during requests for two documents, and perhaps an edit; return the message to the user."""
        self.write_script(fault=fault)
        other = self.editor.open(TEXT, "file:///other.py")
        if edit:
            await self.editor.edit(self.buffer, "Add a comment", 0, 15)
        place = self.editor.at(other, len(other.text))
        for answer in (self.request_suggestion(), self.editor.request("textDocument/completion", place)):
            assert (await asyncio.wait_for(answer, TIMEOUT))["items"] == []
        message: str = (await self.editor.until("window/showMessage"))["message"]
        assert ("no edit" in message) == edit
        self.drop_progress_requests()
        return message

    def drop_progress_requests(self) -> None:
        """Drop the requests to create a progress from the unread messages."""
        self.editor.unread[:] = [m for m in self.editor.unread if m["method"] != "window/workDoneProgress/create"]

    def pop_messages(self) -> list[str]:
        """Return the messages to the user, and drop them from the unread ones."""
        self.drop_progress_requests()
        found = [m["params"]["message"] for m in self.editor.unread if m["method"] == "window/showMessage"]
        self.editor.unread[:] = [m for m in self.editor.unread if m["method"] != "window/showMessage"]
        return found

    async def check_works(self) -> None:
        """Check that later requests succeed with the current text, without a message to the user."""
        self.write_script(seen=len(self.buffer.text) + len(f"v{self.typed_lines + 1} +\nx = "), edit=HUNKS)
        found = await self.get_suggestions()
        assert found == [checksum_name(self.buffer.text, len(self.buffer.text))], "the suggestion is for another text"
        before = self.buffer.text
        outcome = await self.get_edit()
        assert outcome.get("edit"), outcome
        assert self.buffer.text == before.replace("    return", "    # sums\n    return", 1)
        self.restore(before)
        assert self.pop_messages() == []

    def restore(self, text: str) -> None:
        """Undo an edit."""
        self.editor.type(self.buffer, 0, text, end=len(self.buffer.text))

    async def stop(self) -> None:
        """End the session; check that the process exits successfully."""
        await self.editor.stop()
        if self.server.is_shared:
            assert self.server.child.returncode is None
        else:
            assert await self.server.wait_for_exit() == 0


@asynccontextmanager
async def start_session(transport: str, folder: Path, *arguments: str, **defaults: Any) -> AsyncIterator[Session]:
    """Start a session over one transport."""
    script = folder / f"{folder.name}.json"
    script.write_text(json.dumps(defaults))
    async with run_server(transport, (*PROGRAM, *arguments, str(script)), folder) as found:
        session = Session(found, script, **defaults)
        await session.start()
        yield session


@transports
async def test_failing_and_noisy_requests_affect_no_others(transport: str, tmp_path: Path) -> None:
    """One fault after the other in one session."""
    async with start_session(transport, tmp_path) as session:
        for fault in ("sleep", "stray", "ask", "flood"):
            session.write_script(fault=fault, complete="value", edit=HUNKS)
            assert await session.get_suggestions() == ["value"], fault
            before = session.buffer.text
            assert (await session.get_edit()).get("edit"), fault
            session.restore(before)
            assert session.pop_messages() == [], fault
            await session.check_works()
        for fault, reason in (("error", "RuntimeError"), ("memory", "out of memory"), ("nan", "NaN")):
            session.write_script(fault=fault)
            for _ in range(3):
                assert await session.get_suggestions() == []
            (message,) = session.pop_messages()
            assert reason in message, message
            outcome = await session.get_edit()
            assert "no edit" in outcome["message"] and reason in outcome["message"]
            await session.check_works()
        session.write_script(fault="endless")
        assert all(len(text) < 1000 for text in await session.get_suggestions())
        before = session.buffer.text
        await session.get_edit()
        session.restore(before)
        await session.check_works()
        assert (tmp_path / "stdout").read_bytes() == b""
        said = session.server.stderr.read_bytes()
        assert said.count(b"stray print") == 40 and said.count(b"stray child") == 2 and said.count(b"may I? ") == 2
        await session.stop()


async def test_client_that_does_not_read_stderr_blocks_nothing(tmp_path: Path) -> None:
    """The pipe is full after some hundred messages; later ones are dropped, and the session continues normally."""
    script, pipe = tmp_path / "script.json", tmp_path / "log"
    script.write_text("{}")
    os.mkfifo(pipe)
    unread = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with run_server("stdio", (*PROGRAM, str(script)), tmp_path, pipe) as found:
            session = Session(found, script)
            await session.start()
            for _ in range(2):
                session.write_script(fault="flood", complete="value")
                assert await session.get_suggestions() == ["value"]
            await session.check_works()
            await session.stop()
        assert len(os.read(unread, 1 << 20)) > 60_000, "the pipe was never full, so the test proves nothing"
    finally:
        os.close(unread)


@pytest.mark.parametrize(
    ("transport", "fault"),
    [
        pytest.param(transport, fault, marks=[] if transport == "stdio" else pytest.mark.slow)
        for transport in TRANSPORTS
        for fault in ("hang", "leave", "device")
    ],
)
async def test_lost_engine_is_reported_once(transport: str, fault: str, tmp_path: Path) -> None:
    """By the edit if one is running. Later requests fail with the reason; documents and session remain."""
    step_timeout = {} if fault == "device" else {"step_timeout": 1.0}  # importing torch takes longer than that
    reason = {"hang": "the engine hangs", "leave": "SystemExit", "device": "CUDA error: device-side assert"}[fault]
    async with start_session(transport, tmp_path, **step_timeout) as session:
        await session.check_works()
        message = await session.trigger_fault(fault, edit=fault == "hang")
        before = session.buffer.text
        assert reason in message and message.endswith("restart the server")
        await session.editor.until("codeclippy/status", lambda m: m["params"]["state"] == "failed")
        session.write_script(complete="value")
        assert await session.get_suggestions() == [] and session.pop_messages() == []
        outcome = await session.get_edit()
        assert reason in outcome["message"] and session.pop_messages() == []
        assert session.buffer.text.startswith(before)
        if transport == "tcp":  # each client has its own engine
            second = Session(await session.server.connect_again(), session.script, **session.defaults)
            await second.start()
            await second.check_works()
            await second.editor.stop()
        await session.stop()


@linux
@pytest.mark.parametrize(
    ("transport", "fault"),
    [
        *(
            pytest.param(transport, "die", marks=[] if transport == "tcp" else pytest.mark.slow)
            for transport in TRANSPORTS
        ),
        ("stdio", "hang"),
    ],
)
async def test_lost_host_is_reported_once_and_restarted(transport: str, fault: str, tmp_path: Path) -> None:
    """By the edit if one is running. The session continues with another host; no process is left at the end."""
    async with start_session(transport, tmp_path, "--hosted") as session:
        await session.check_works()
        (first,) = find_processes(f"{session.script}") - {session.server.child.pid}
        message = await session.trigger_fault(fault, edit=fault == "hang")
        assert "is started again" in message
        session.write_script()
        await session.wait_until_ready()
        await session.check_works()
        assert first not in find_processes(f"{session.script}")
        await session.stop()
    await wait_until_gone(f"{session.script}")


@linux
@transports
async def test_dying_server_leaves_no_process(transport: str, tmp_path: Path) -> None:
    """Also in the middle of a request; the client's stream ends."""
    async with start_session(transport, tmp_path) as session:
        session.write_script(fault="die")
        with pytest.raises(ConnectionError):
            await session.request_suggestion()
        assert await session.server.wait_for_exit() == 9
        assert session.pop_messages() == []
    assert not find_processes(f"{session.script}")
