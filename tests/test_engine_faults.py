"""What goes wrong in an engine, seen by a client of the real server process, in four ways to reach it.

However it ends, each request has one answer and the session its end (``tests.editor`` keeps that), the user is told
once where there is something to tell, the texts stay true, and what comes next is done or refused with the reason.
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
from tests.transports import TRANSPORT_PARAMS, TRANSPORTS, ServerConnection, find_processes, run_server, wait_until_gone

PROGRAM = ("-m", "tests.scripted_server")
TEXT = "def add(a, b):\n    return a + b\n\n\n# ü😀\nx = "
HUNKS = "@@ -1,2 +1,3 @@\n def add(a, b):\n+    # sums\n     return a + b\n"
# What makes one look ahead or remember would make requests that the script has not foreseen.
OPTIONS = {"completion": {"prefetch": False, "candidates": 1, "timeBudgetMs": 60000}, "model": {"engine": "in-process"}}
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")
transports = pytest.mark.parametrize("transport", TRANSPORT_PARAMS)


class Play:
    """A session with one document, and the script that the engine follows."""

    def __init__(self, server: ServerConnection, script: Path, **always: Any) -> None:
        self.server, self.script, self.always = server, script, always
        self.editor = Editor(server.reader, server.writer.write)
        self.texts = 0
        self.buffer: Buffer

    async def start(self) -> None:
        """As an editor does."""
        can = {"workspace": {"applyEdit": True}, "window": {"workDoneProgress": True}}
        await self.editor.start(can, OPTIONS, ready=False)
        await self.ready()
        self.quiet()
        self.buffer = self.editor.open(TEXT)

    def says(self, **keys: Any) -> None:
        """Replace the script."""
        new = self.script.with_suffix(".new")
        new.write_text(json.dumps({**self.always, **keys}))
        new.replace(self.script)

    async def ready(self) -> None:
        """Wait until the engine says that it is ready, which it has not since it was asked here."""
        await self.editor.until("codeclippy/status", lambda m: m["params"]["state"] == "ready")
        self.editor.seen.clear()

    def type(self) -> int:
        """Type something that was not there before, at the end; the offset of the cursor."""
        self.texts += 1
        return self.editor.type(self.buffer, len(self.buffer.text), f"v{self.texts} +\nx = ")

    def ask(self) -> asyncio.Future[Any]:
        """Ask for a suggestion at the end, after some typing."""
        place = self.editor.at(self.buffer, self.type())
        return self.editor.request("textDocument/inlineCompletion", {**place, "context": {"triggerKind": 1}})

    async def asked(self) -> Any:
        """The suggestions' texts."""
        result = await asyncio.wait_for(self.ask(), TIMEOUT)
        return [item["insertText"] for item in result["items"]]

    async def edited(self) -> dict[str, Any]:
        """Ask for an edit; its outcome."""
        await self.editor.edit(self.buffer, "Add a comment", 0, 15)
        outcome = await self.editor.outcome()
        self.quiet()
        return outcome

    async def lost(self, fault: str, edit: bool) -> str:
        """Have a fault while requests for two documents are under way, an edit too or not; what the user is told."""
        self.says(fault=fault)
        other = self.editor.open(TEXT, "file:///other.py")
        if edit:
            await self.editor.edit(self.buffer, "Add a comment", 0, 15)
        place = self.editor.at(other, len(other.text))
        for answer in (self.ask(), self.editor.request("textDocument/completion", place)):
            assert (await asyncio.wait_for(answer, TIMEOUT))["items"] == []
        message: str = (await self.editor.until("window/showMessage"))["message"]
        assert ("no edit" in message) == edit
        self.quiet()
        return message

    def quiet(self) -> None:
        """Take the requests for progress as read."""
        self.editor.unread[:] = [m for m in self.editor.unread if m["method"] != "window/workDoneProgress/create"]

    def told(self) -> list[str]:
        """What the user was told, and take it as read."""
        self.quiet()
        found = [m["params"]["message"] for m in self.editor.unread if m["method"] == "window/showMessage"]
        self.editor.unread[:] = [m for m in self.editor.unread if m["method"] != "window/showMessage"]
        return found

    async def works(self) -> None:
        """What comes next is answered, for the text as it is now; nobody is told anything."""
        self.says(seen=len(self.buffer.text) + len(f"v{self.texts + 1} +\nx = "), edit=HUNKS)
        found = await self.asked()
        assert found == [checksum_name(self.buffer.text, len(self.buffer.text))], "not for the text as it is"
        before = self.buffer.text
        outcome = await self.edited()
        assert outcome.get("edit"), outcome
        assert self.buffer.text == before.replace("    return", "    # sums\n    return", 1)
        self.restore(before)
        assert self.told() == []

    def restore(self, text: str) -> None:
        """Undo an edit."""
        self.editor.type(self.buffer, 0, text, end=len(self.buffer.text))

    async def stop(self) -> None:
        """The end of the session: everything was answered, and the process ends well."""
        await self.editor.stop()
        if self.server.is_shared:
            assert self.server.child.returncode is None
        else:
            assert await self.server.wait_for_exit() == 0


@asynccontextmanager
async def play(transport: str, folder: Path, *arguments: str, **always: Any) -> AsyncIterator[Play]:
    """A session in one transport, with what the script always says."""
    script = folder / f"{folder.name}.json"
    script.write_text(json.dumps(always))
    async with run_server(transport, (*PROGRAM, *arguments, str(script)), folder) as found:
        made = Play(found, script, **always)
        await made.start()
        yield made


@transports
async def test_requests_that_fail_or_make_noise_cost_nothing_else(transport: str, tmp_path: Path) -> None:
    """One after the other in one session."""
    async with play(transport, tmp_path) as played:
        for fault in ("sleep", "stray", "ask", "flood"):  # which end well
            played.says(fault=fault, complete="value", edit=HUNKS)
            assert await played.asked() == ["value"], fault
            before = played.buffer.text
            assert (await played.edited()).get("edit"), fault
            played.restore(before)
            assert played.told() == [], fault
            await played.works()
        for fault, reason in (("error", "RuntimeError"), ("memory", "out of memory"), ("nan", "NaN")):
            played.says(fault=fault)
            for _ in range(3):
                assert await played.asked() == []
            (message,) = played.told()
            assert reason in message, message
            outcome = await played.edited()
            assert "no edit" in outcome["message"] and reason in outcome["message"]
            await played.works()
        played.says(fault="endless")
        assert all(len(text) < 1000 for text in await played.asked())
        before = played.buffer.text
        await played.edited()
        played.restore(before)
        await played.works()
        assert (tmp_path / "stdout").read_bytes() == b""
        said = played.server.stderr.read_bytes()
        assert said.count(b"stray print") == 40 and said.count(b"stray child") == 2 and said.count(b"may I? ") == 2
        await played.stop()


async def test_a_client_that_does_not_read_what_is_logged_waits_for_nothing(tmp_path: Path) -> None:
    """The pipe is full after some hundred messages; the rest is lost, and the session is as it was, to its end."""
    script, pipe = tmp_path / "script.json", tmp_path / "log"
    script.write_text("{}")
    os.mkfifo(pipe)
    unread = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with run_server("stdio", (*PROGRAM, str(script)), tmp_path, pipe) as found:
            played = Play(found, script)
            await played.start()
            for _ in range(2):
                played.says(fault="flood", complete="value")
                assert await played.asked() == ["value"]
            await played.works()
            await played.stop()
        assert len(os.read(unread, 1 << 20)) > 60_000, "the pipe was not full, so nothing was shown"
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
async def test_an_engine_that_is_lost_is_said_once(transport: str, fault: str, tmp_path: Path) -> None:
    """By the edit, where one is under way; what comes later is refused, the documents stay, and so does the session."""
    step_timeout = {} if fault == "device" else {"step_timeout": 1.0}  # importing torch takes longer than that
    reason = {"hang": "the engine hangs", "leave": "SystemExit", "device": "CUDA error: device-side assert"}[fault]
    async with play(transport, tmp_path, **step_timeout) as played:
        await played.works()
        message = await played.lost(fault, edit=fault == "hang")
        before = played.buffer.text
        assert reason in message and message.endswith("restart the server")
        await played.editor.until("codeclippy/status", lambda m: m["params"]["state"] == "failed")
        played.says(complete="value")
        assert await played.asked() == [] and played.told() == []
        outcome = await played.edited()
        assert reason in outcome["message"] and played.told() == []
        assert played.buffer.text.startswith(before)
        if transport == "tcp":  # another client's engine is another one
            second = Play(await played.server.connect_again(), played.script, **played.always)
            await second.start()
            await second.works()
            await second.editor.stop()
        await played.stop()


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
async def test_a_host_that_is_lost_is_said_once_and_another_comes(transport: str, fault: str, tmp_path: Path) -> None:
    """By the edit, where one is under way; the session goes on over another host, and leaves none behind."""
    async with play(transport, tmp_path, "--hosted") as played:
        await played.works()
        (first,) = find_processes(f"{played.script}") - {played.server.child.pid}
        message = await played.lost(fault, edit=fault == "hang")
        assert "is started again" in message
        played.says()
        await played.ready()
        await played.works()
        assert first not in find_processes(f"{played.script}")
        await played.stop()
    await wait_until_gone(f"{played.script}")


@linux
@transports
async def test_a_server_that_dies_leaves_nothing(transport: str, tmp_path: Path) -> None:
    """With its engine, in the middle of a request: the client's stream ends."""
    async with play(transport, tmp_path) as played:
        played.says(fault="die")
        with pytest.raises(ConnectionError):
            await played.ask()
        assert await played.server.wait_for_exit() == 9
        assert played.told() == []
    assert not find_processes(f"{played.script}")
