"""The real server process over stdio, with the shipped model and the capabilities that real editors send."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT, process
from tests.shared import capabilities

BASKET = (Path(__file__).parent.parent / "codeclippy_ls" / "samples" / "basket.py").read_text(encoding="utf-8")
MISSING = "result += price * count"
OPTIONS = {"completion": {"timeBudgetMs": 20000}}


@pytest.mark.parametrize(
    ("client", "encoding"),
    [("vscode", "utf-16"), ("neovim", "utf-8"), ("neovim-0.11", "utf-8"), ("emacs", "utf-16"), ("emacs-30", "utf-32")],
)
async def test_completion_infilling_and_edit_with_real_editors_capabilities(client: str, encoding: str) -> None:
    """From initialize to exit, with the shipped model."""
    announced = json.loads(capabilities(client).read_text(encoding="utf-8"))["capabilities"]
    async with process() as (editor, child):
        result = await editor.start(announced, OPTIONS)
        assert (result["capabilities"].get("positionEncoding") or "utf-16") == encoding
        buffer = editor.open(BASKET + '\n\n# ü😀\nif __name__ == "__main__":\n    basket = ', encoding=encoding)
        items = await editor.complete(buffer, len(buffer.text))
        assert 1 <= len(items) <= 3 and items[0]["textEdit"]["newText"].strip()
        buffer.apply([items[0]["textEdit"]])
        editor.notify(
            "textDocument/didChange", {"textDocument": buffer.identifier, "contentChanges": [{"text": buffer.text}]}
        )
        start = buffer.text.index(MISSING)
        cursor = editor.type(buffer, start, "", end=start + len(MISSING))
        ghosts = await editor.ghost(buffer, cursor)
        assert 1 <= len(ghosts) <= 3 and ghosts[0]["insertText"].strip()
        before = buffer.text
        offset = before.index("def cheapest")
        await editor.edit(buffer, "Rename cheapest to lowest", offset, offset)
        outcome = await editor.outcome()
        if "edit" in outcome:
            assert buffer.text != before and buffer.version > 3
        else:
            assert buffer.text == before and "no edit" in outcome["message"]
        while creates := [m for m in editor.unread if m["method"] == "window/workDoneProgress/create"]:
            editor.unread.remove(creates[0])
        await editor.stop()
        assert await asyncio.wait_for(child.wait(), TIMEOUT) == 0


async def test_stray_output_and_unbuffered_streams_break_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ``python -u``, with a library that prints on stdout, also at the C level, and reads stdin."""
    noisy = tmp_path / "sitecustomize.py"
    noisy.write_text(
        "import threading, time, os\n"
        "def noise():\n"
        "    for _ in range(200):\n"
        "        print('stray'); os.write(1, b'stray'); time.sleep(0.005)\n"
        "        try: input()\n"
        "        except (EOFError, OSError): pass\n"
        "import codeclippy_ls.server.transport as transport\n"
        "guard = transport.guard_stdio\n"
        "def guarded():\n"
        "    found = guard(); threading.Thread(target=noise, daemon=True).start(); return found\n"
        "transport.guard_stdio = guarded\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with process(python=("-u",)) as (editor, child):
        await editor.start()
        buffer = editor.open("def f(x):\n    return ")
        for _ in range(20):
            await editor.complete(buffer, len(buffer.text))
        await editor.stop()
        assert await asyncio.wait_for(child.wait(), TIMEOUT) == 0
        assert (await child.stderr.read()).count(b"stray") > 20


async def test_server_exits_at_the_end_of_stdin() -> None:
    """Even while a model loads; with exit code 1."""
    async with process() as (editor, child):
        await editor.start(ready=False)
        child.stdin.close()
        assert await asyncio.wait_for(child.wait(), TIMEOUT) == 1


async def test_server_exits_if_the_editor_s_process_is_gone() -> None:
    """Even if its stdin stays open."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    async with process() as (editor, child):
        await editor.call("initialize", {"processId": parent.pid, "capabilities": {}})
        editor.notify("initialized", {})
        assert parent.stdin is not None
        parent.stdin.close()
        await parent.wait()
        assert await asyncio.wait_for(child.wait(), TIMEOUT) == 1


async def test_each_tcp_client_has_its_own_session() -> None:
    """A client that disconnects ends neither the server nor another session; HTTP is refused."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "codeclippy_ls", "--tcp", "127.0.0.1:0", stderr=asyncio.subprocess.PIPE
    )
    assert child.stderr is not None
    port = int((await child.stderr.readline()).decode().rpartition(":")[2])

    async def connect() -> Any:
        from tests.editor import Editor

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return Editor(reader, writer.write)

    try:
        one, two = await connect(), await connect()
        await one.start(ready=False)
        await two.start(ready=False)
        one.open("secret = 1\n", "file:///a.py")
        answer = await two.call(
            "textDocument/completion",
            {"textDocument": {"uri": "file:///a.py"}, "position": {"line": 0, "character": 9}},
        )
        assert answer["items"] == []
        _, probe = await asyncio.open_connection("127.0.0.1", port)
        probe.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert await asyncio.wait_for(reader.read(), TIMEOUT) == b""
        await one.stop()
        await two.until("codeclippy/status", lambda m: m["params"]["state"] == "ready")
        await two.stop()
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()


async def test_pipe_and_socket_options(tmp_path: Path) -> None:
    """With both, the client listens and the server connects."""
    from tests.editor import Editor

    for kind in ("pipe", "socket"):
        connections: asyncio.Queue[Any] = asyncio.Queue()

        async def connected(reader: Any, writer: Any, connections: asyncio.Queue[Any] = connections) -> None:
            connections.put_nowait((reader, writer))

        if kind == "pipe":
            listener = await asyncio.start_unix_server(connected, tmp_path / "s")
            argument = f"--pipe={tmp_path / 's'}"
        else:
            listener = await asyncio.start_server(connected, "127.0.0.1", 0)
            argument = f"--socket={listener.sockets[0].getsockname()[1]}"
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "codeclippy_ls", argument)
        reader, writer = await asyncio.wait_for(connections.get(), TIMEOUT)
        editor = Editor(reader, writer.write)
        await editor.start(ready=False)
        await editor.stop()
        assert await asyncio.wait_for(child.wait(), TIMEOUT) == 0
        listener.close()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            (),
            [
                "codeclippy-ls 0.1.0",
                "complete model loading: the shipped model",
                "complete model ready: the shipped model on cpu",
                "complete by the shipped model on cpu",
            ],
        ),
        (("--model", "/nowhere"), ["codeclippy-ls 0.1.0", "complete model loading: nowhere", "ERROR", "/nowhere"]),
    ],
)
async def test_the_log_says_what_was_loaded_and_what_failed(
    model: tuple[str, ...], expected: list[str], tmp_path: Path
) -> None:
    """Without --verbose: version, each load with device and speed, each failure with its reason."""
    log = tmp_path / "log"
    options = {"model": {"engine": "in-process"}}
    async with process("--log-file", str(log), "--device", "cpu", *model) as (editor, _):
        await editor.start(options=options)
        if model:
            await editor.until("window/showMessage")
        await editor.stop()
    text = log.read_text(encoding="utf-8")
    positions = [text.find(part) for part in expected]
    assert -1 not in positions and positions == sorted(positions), text
    assert bool(model) != (" ms a token" in text)


async def test_the_log_of_the_engine_host_says_what_was_loaded() -> None:
    """It is where to look if a model that several editors share is slow or fails."""
    async with process() as (editor, _):
        await editor.start(options={"model": {"engine": "shared", "device": "cpu", "threads": 1}})
        await editor.stop()
    texts = [log.read_text(encoding="utf-8") for log in Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*.log")]
    assert any(
        "engine host of codeclippy-ls 0.1.0" in text and "model ready: the shipped model on cpu, " in text
        for text in texts
    ), texts
