"""Clients of a port: only a token lets one choose what is loaded and contacted; too many connections fill no log."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from codeclippy_ls import listening
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import Settings, WorkspaceRule, list_settings
from tests.editor import TIMEOUT, Editor, in_process
from tests.scripted import ScriptedWorker
from tests.services import DONE, RecordedRequest, event, response_head, run_stub

TOKEN = "four-score-and-seven-years"
OTHER = {bool: True, int: 7, str: "other", tuple: ["other"]}  # values that are no defaults


def name_everything() -> dict[str, Any]:
    """Return options with another value for each setting of what is loaded and contacted."""
    settings = [setting for setting in list_settings() if setting.workspace is WorkspaceRule.START]
    assert len(settings) >= 13
    return {
        "model": {
            setting.path.split(".")[1]: (setting.choices or (OTHER[type(setting.default)],))[-1] for setting in settings
        }
    }


@pytest.mark.parametrize(
    ("token", "options", "is_trusted"),
    [
        (None, {}, True),  # stdio, or a pipe that the server connects to
        (TOKEN, {"token": TOKEN}, True),
        (TOKEN, {}, False),
        (TOKEN, {"token": ""}, False),
        (TOKEN, {"token": TOKEN[:-1]}, False),
        (TOKEN, {"token": TOKEN.upper()}, False),
        (TOKEN, {"token": f"{TOKEN} "}, False),
        (TOKEN, {"token": [TOKEN]}, False),
        (TOKEN, {"token": True}, False),
        (TOKEN, {"token": "\ud800"}, False),
        (TOKEN, {"separateSettings": True}, False),
        ("", {"token": ""}, False),  # the server was started without one
        ("", {"token": TOKEN}, False),
        ("", {}, False),
    ],
)
async def test_only_a_token_lets_a_client_of_a_port_choose_what_is_loaded(
    token: str | None, options: dict[str, Any], is_trusted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Every setting of that kind; the others are its own to set. Later changes do not lift it either."""
    everything, worker = name_everything(), ScriptedWorker()
    server = Server(engine=worker.open, token=token)
    async with in_process(server) as editor:
        await editor.start(options={**options, **everything, "completion": {"maxTokens": 99}}, ready=False)
        model = server.session.settings.model
        assert (model == Settings().model) is not is_trusted
        assert server.session.settings.completion.max_tokens == 99
        if is_trusted:
            assert model.endpoint == model.completion == "other" and model.endpoint_key_variable == "other"
            assert "unknown family 'other'" in (await editor.until("window/showMessage"))["message"]
            return
        message = (await editor.until("window/showMessage"))["message"]
        assert "is only for whoever started the server" in message
        assert all(f'"model.{name}" is only for whoever' in caplog.text for name in everything["model"])
        editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": everything}})
        await editor.complete(editor.open("x = \n"), 4)
        editor.unread.clear()
        assert server.session.settings.model == Settings().model


@asynccontextmanager
async def run_listener(
    *arguments: str, limit: int = 0, variables: dict[str, str] | None = None
) -> AsyncIterator[tuple[int, Any]]:
    """Run a server that listens, perhaps with few descriptors; yields its port and its process."""
    command = [sys.executable, "-m", "codeclippy_ls", "--tcp", "127.0.0.1:0", *arguments]
    if limit:
        command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command]
    child = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **(variables or {})}, stderr=asyncio.subprocess.PIPE
    )
    assert child.stderr is not None
    try:
        yield int((await asyncio.wait_for(child.stderr.readline(), TIMEOUT)).decode().rpartition(":")[2]), child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def connect(port: int) -> Editor:
    """Connect as an editor."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return Editor(reader, writer.write)


@pytest.mark.parametrize("way", ["argument", "variable"])
async def test_service_is_called_only_for_a_client_with_the_token(way: str) -> None:
    """By the real server, with the token on its command line or in its environment."""
    pytest.importorskip("httpx2", reason="needs Python 3.11 or newer")

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(response_head() + event("value") + event("", finish="stop") + DONE)

    arguments = ("--token", TOKEN) if way == "argument" else ()
    variables = {"CODECLIPPY_TOKEN": TOKEN} if way == "variable" else {}
    async with run_stub(answer) as service, run_listener(*arguments, variables=variables) as (port, _):
        options = {"model": {"endpoint": service.url}, "completion": {"enabled": False}}
        stranger = await connect(port)
        await stranger.start(options=options, ready=False)
        assert "is only for whoever started the server" in (await stranger.until("window/showMessage"))["message"]
        assert not service.requests
        friend = await connect(port)
        await friend.start(options={**options, "token": TOKEN})
        assert [request.line for request in service.requests] == ["GET /v1/models HTTP/1.1"]
        await friend.stop()
        await stranger.stop()


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(("--token", "short"), {}), (("--token", ""), {}), ((), {"CODECLIPPY_TOKEN": "short"})],
)
async def test_token_that_can_be_guessed_is_refused(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    """When the server starts, with a sentence that does not repeat it."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "codeclippy_ls", "--tcp", "127.0.0.1:0", *arguments),
        env={**os.environ, **variables},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(child.communicate(), TIMEOUT)
    assert child.returncode == 2 and b"16 characters" in said and b"short" not in said


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell to limit descriptors")
async def test_flood_of_connections_is_one_line_in_the_log() -> None:
    """Without a traceback; once there is room, the server answers as before."""
    async with run_listener(limit=128) as (port, child):
        with contextlib.ExitStack() as flood:
            for _ in range(100):
                flood.enter_context(socket.create_connection(("127.0.0.1", port)))
            line = await asyncio.wait_for(child.stderr.readline(), TIMEOUT)
            assert b"a connection is refused, because 32 are open" in line
        for _ in range(100):  # until the server has noticed that they are gone
            with contextlib.suppress(ConnectionError):
                editor = await connect(port)
                await editor.start(options={"completion": {"enabled": False}}, ready=False)
                break
        await editor.stop()
        child.kill()
        rest = await asyncio.wait_for(child.stderr.read(), TIMEOUT)
        assert b"Traceback" not in rest and b"refused" not in rest and b"accepted" not in rest


async def test_exhausted_descriptors_are_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Other errors of the loop are logged each time, as before."""
    clock = iter((1000.0, 1001.0, 1059.0, 1060.0, 1061.0, 1200.0))
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    loop = asyncio.get_running_loop()
    listening.ConnectionLimit(logging.getLogger("test")).watch(loop)
    try:
        context = {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files"), "socket": object()}
        counts = []
        for _ in range(6):
            loop.call_exception_handler(context)
            counts.append(len(caplog.records))
        assert counts == [1, 1, 1, 2, 2, 3]
        assert all(record.exc_info is None for record in caplog.records)
        for _ in range(2):
            loop.call_exception_handler({"message": "other", "exception": OSError(errno.EIO, "broken")})
        assert len(caplog.records) == 5
    finally:
        loop.set_exception_handler(None)
