"""A server whose event loop hangs ends, and says where it hung; one that was only suspended goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from codeclippy_ls.server.loop_watch import EXIT_CODE
from tests.editor import Editor
from tests.scripted_server import LOOP_FAULTS
from tests.test_engine_faults import PROGRAM
from tests.test_kills import wait_for_file
from tests.transports import ServerConnection, run_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
SECRET = "s3cret_name"
FUNCTIONS = {"python": "hang_in_python", "pattern": "hang_in_pattern", "sleep": "hang_in_sleep", "open": "hang_in_open"}


@asynccontextmanager
async def start(
    folder: Path, process: int | None = None, **script: object
) -> AsyncIterator[tuple[ServerConnection, Editor]]:
    """Start a scripted server whose watch ticks ten times a second."""
    file = folder / "script.json"
    file.write_text(json.dumps({"tick": 0.1, **script}))
    async with run_server("stdio", (*PROGRAM, str(file)), folder) as server:
        editor = Editor(server.reader, server.writer.write)
        params: dict[str, object] = {"processId": process, "rootUri": None, "capabilities": {}}
        await editor.call("initialize", params)
        editor.notify("initialized", {})
        yield server, editor


def read_log(folder: Path) -> str:
    """Return what the server logged of the hang; nothing of the text."""
    log = (folder / "stderr").read_text()
    assert SECRET not in log
    return log


@pytest.mark.parametrize("fault", LOOP_FAULTS)
async def test_server_whose_loop_hangs_ends_and_says_where(fault: str, tmp_path: Path) -> None:
    async with start(tmp_path, loop_fault=fault) as (server, editor):
        editor.open(f"{SECRET} = 1\n")
        assert await server.wait_for_exit() == EXIT_CODE
    log = read_log(tmp_path)
    assert "the event loop has not turned" in log and FUNCTIONS[fault] in log


@pytest.mark.parametrize("fault", LOOP_FAULTS)
async def test_end_of_input_is_noticed_while_the_loop_hangs(fault: str, tmp_path: Path) -> None:
    async with start(tmp_path, loop_fault=fault, hang_ticks=10**6) as (server, editor):
        editor.open(f"{SECRET} = 1\n")
        await wait_for_file(tmp_path, "script.hung")
        server.writer.close()
        assert await server.wait_for_exit() == EXIT_CODE
        assert "the client is gone" in read_log(tmp_path)


@pytest.mark.parametrize("fault", LOOP_FAULTS)
async def test_end_of_the_editor_is_noticed_while_the_loop_hangs(fault: str, tmp_path: Path) -> None:
    editor_process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    async with start(tmp_path, editor_process.pid, loop_fault=fault, hang_ticks=10**6) as (server, editor):
        editor.open(f"{SECRET} = 1\n")
        await wait_for_file(tmp_path, "script.hung")
        editor_process.kill()
        await editor_process.wait()
        assert await server.wait_for_exit() == EXIT_CODE
        assert "the client is gone" in read_log(tmp_path)


async def test_suspended_server_goes_on(tmp_path: Path) -> None:
    """However long it was suspended: that is one second without a turn."""
    async with start(tmp_path) as (server, editor):
        os.kill(server.child.pid, signal.SIGSTOP)
        await asyncio.sleep(2.5)  # 25 ticks; it would end after 10
        os.kill(server.child.pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        await editor.stop()
        assert await server.wait_for_exit() == 0
    assert "has not turned" not in read_log(tmp_path)
