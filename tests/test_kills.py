"""Processes that are killed: nothing of ours is left soon after, and nothing obstructs the next start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import checkpoints
from tests.editor import TIMEOUT, Editor
from tests.test_engine_faults import PROGRAM, Session, start_session
from tests.transports import TRANSPORT_PARAMS, ServerConnection, find_processes, run_server, wait_until_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")
transports = pytest.mark.parametrize("transport", TRANSPORT_PARAMS)


async def wait_for_file(folder: Path, pattern: str) -> Path:
    """Wait for the first file of a pattern and return it."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        for path in folder.glob(pattern):
            return path
        assert time.monotonic() < deadline, f"no {pattern}"
        await asyncio.sleep(0.001)


async def wait_for_processes(count: int, marker: str) -> None:
    """Wait until this many processes have the text in their command line."""
    deadline = time.monotonic() + TIMEOUT
    while len(find_processes(marker)) < count:
        assert time.monotonic() < deadline, f"fewer than {count} processes"
        await asyncio.sleep(0.001)


async def wait_for_exit(child: asyncio.subprocess.Process) -> None:
    """Wait until a process has exited; its streams may be full."""
    deadline = time.monotonic() + TIMEOUT
    while child.returncode is None:
        assert time.monotonic() < deadline, "the process still runs"
        await asyncio.sleep(0.01)


# The server.


async def kill_server(transport: str, activity: str, folder: Path) -> None:
    """Kill a server during a request or while a model loads."""
    folder.mkdir()
    slow = {"load_delay": 600} if activity == "load" else {"delay": 600, "complete": "value"}
    script = folder / f"{transport}-{activity}.json"
    script.write_text(json.dumps({} if activity != "load" else slow))
    async with run_server(transport, (*PROGRAM, "--hosted", str(script)), folder) as server:
        session = Session(server, script)
        if activity == "load":
            await session.editor.start(ready=False)
            await session.editor.until("codeclippy/status", lambda m: m["params"]["state"] == "loading")
        else:
            await session.start()
            session.write_script(**slow)
        if activity == "edit":
            await session.editor.edit(session.buffer, "Add a comment")
        elif activity == "complete":
            session.request_suggestion().add_done_callback(lambda answer: answer.exception())
        await wait_for_processes(2, str(script))  # the host runs, or is about to start
        server.child.kill()
        await server.child.wait()
        await wait_until_gone(str(script))


@transports
async def test_killed_server_leaves_nothing(transport: str, tmp_path: Path) -> None:
    """During a suggestion, an edit or a load: its host notices, and exits when its idle time is over."""
    await asyncio.gather(
        *(kill_server(transport, activity, tmp_path / activity) for activity in ("complete", "edit", "load"))
    )


async def test_server_starts_after_server_and_host_were_killed(tmp_path: Path) -> None:
    """Their lock and socket remain, and have no effect."""
    for _ in range(2):
        async with start_session("stdio", tmp_path, "--hosted") as session:
            await session.check_works()
            for process in find_processes(str(session.script)):
                os.kill(process, signal.SIGKILL)
            await wait_until_gone(str(session.script))


# The client.


@transports
async def test_server_exits_if_its_client_is_killed(transport: str, tmp_path: Path) -> None:
    """Even if its work hangs; a server with other clients goes on and serves them."""
    async with start_session(transport, tmp_path) as session:
        session.write_script(fault="hang")
        pending = session.request_suggestion()
        pending.add_done_callback(lambda answer: answer.exception())
        await asyncio.sleep(0.2)
        session.server.writer.transport.abort()
        if session.server.is_shared:
            second = Session(await session.server.connect_again(), session.script)
            session.write_script()
            await second.start()
            await second.check_works()
            await second.editor.stop()
        else:
            await wait_for_exit(session.server.child)


# Conversions.


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """Save a checkpoint whose conversion takes long enough to kill it in the middle."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    checkpoints.save_checkpoint(folder)
    weights = {**load_file(folder / "model.safetensors"), "nobodys.weight": torch.zeros(24 << 20)}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make a folder for hosts that no other test uses."""
    with tempfile.TemporaryDirectory(prefix="cc-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["in-process", "shared"])
async def test_killed_conversion_leaves_no_partial_model(
    engine: str, pickled: Path, own_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converting process is killed; the next one converts everything, and removes what was left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = {"completion": str(pickled), "engine": engine, "device": "cpu", "dtype": "float32", "idleMinutes": 0}
    options = {"model": model, "completion": {"timeBudgetMs": 60000}}
    converted = tmp_path / "cache" / "codeclippy-ls" / "converted"

    async def start_editor(server: ServerConnection) -> Editor:
        editor = Editor(server.reader, server.writer.write)
        await editor.start(options=options, ready=False)
        return editor

    async def finish(editor: Editor) -> None:
        await editor.until("codeclippy/status", lambda m: m["params"]["state"] == "ready")
        (kept,) = converted.glob("*/*")
        assert not kept.name.startswith("tmp") and (kept / "model.safetensors.index.json").exists()
        buffer = editor.open("x = ")
        await editor.complete(buffer, 4)
        await editor.stop()

    def kill(process: int) -> None:
        os.kill(process, signal.SIGKILL)
        assert [path.name[:3] for path in converted.glob("*/*")] == ["tmp"], "the conversion is not under way"

    async with run_server("stdio", ("-m", "codeclippy_ls"), tmp_path) as server:
        editor = await start_editor(server)
        await wait_for_processes(int(engine == "shared"), own_folder)
        converter = next(iter(find_processes(own_folder)), server.child.pid)
        partial = await wait_for_file(converted, "*/tmp*/model-*.safetensors")
        kill(converter)
        if engine == "shared":
            await finish(editor)  # by another host; no request was lost, so there is no message
            await wait_until_gone(own_folder)
        else:
            await wait_for_exit(server.child)
            assert partial.exists()
    if engine == "in-process":
        async with run_server("stdio", ("-m", "codeclippy_ls"), tmp_path) as server:
            await finish(await start_editor(server))


# Clients that do not read.


@transports
async def test_server_disconnects_client_that_stops_reading(transport: str, tmp_path: Path) -> None:
    """If 64 MB are unread; other clients do not notice."""
    script = tmp_path / "script.json"
    async with run_server(transport, (*PROGRAM, str(script)), tmp_path) as server:
        other = Session(await server.connect_again(), script) if server.is_shared else None
        if other is not None:
            await other.start()

        def send(**message: Any) -> None:
            body = json.dumps({"jsonrpc": "2.0", **message}).encode()
            server.writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

        send(id=0, method="initialize", params={"capabilities": {}, "processId": None})
        for number in range(1, 90):
            send(id=number, method="x" * (1 << 20))  # the error repeats the method's name
            try:
                await server.writer.drain()
            except ConnectionError:
                break
        if other is not None:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(server.reader.readexactly(90 << 20), TIMEOUT)
            await other.check_works()
            await other.editor.stop()
        else:
            await wait_for_exit(server.child)
            with contextlib.suppress(ConnectionError):
                await server.reader.read()
        assert b"xxxx" not in server.stderr.read_bytes()
