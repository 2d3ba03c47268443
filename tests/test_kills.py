"""Who is killed, and when: nothing of ours is left a moment later, and nothing is in the way of the next start."""

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
from tests.test_engine_faults import PROGRAM, Play, play
from tests.ways import SOME_WAYS, Way, alive, gone, reached

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")
ways = pytest.mark.parametrize("way", SOME_WAYS)


async def appears(folder: Path, pattern: str) -> Path:
    """The first file of a pattern, as soon as it is there."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        for path in folder.glob(pattern):
            return path
        assert time.monotonic() < deadline, f"no {pattern}"
        await asyncio.sleep(0.001)


async def some(count: int, marker: str) -> None:
    """Wait until there are so many processes."""
    deadline = time.monotonic() + TIMEOUT
    while len(alive(marker)) < count:
        assert time.monotonic() < deadline, "there are too few"
        await asyncio.sleep(0.001)


async def ended(child: asyncio.subprocess.Process) -> None:
    """Wait until a process is no more; its streams may be full."""
    deadline = time.monotonic() + TIMEOUT
    while child.returncode is None:
        assert time.monotonic() < deadline, "it is still there"
        await asyncio.sleep(0.01)


# The server.


async def killed(way: str, moment: str, folder: Path) -> None:
    """Kill a server at some moment."""
    folder.mkdir()
    slow = {"load_delay": 600} if moment == "load" else {"delay": 600, "complete": "value"}
    script = folder / f"{way}-{moment}.json"
    script.write_text(json.dumps({} if moment != "load" else slow))
    async with reached(way, (*PROGRAM, "--hosted", str(script)), folder) as found:
        played = Play(found, script)
        if moment == "load":
            await played.editor.start(ready=False)
            await played.editor.until("codeclippy/status", lambda m: m["params"]["state"] == "loading")
        else:
            await played.start()
            played.says(**slow)
        if moment == "edit":
            await played.editor.edit(played.buffer, "Add a comment")
        elif moment == "complete":
            played.ask().add_done_callback(lambda answer: answer.exception())
        await some(2, str(script))  # the host is there, and perhaps about to start
        found.child.kill()
        await found.child.wait()
        await gone(str(script))


@ways
async def test_a_killed_server_leaves_nothing(way: str, tmp_path: Path) -> None:
    """While a suggestion is made, an edit, or a model loads: its host notices, and goes when its time is over."""
    await asyncio.gather(*(killed(way, moment, tmp_path / moment) for moment in ("complete", "edit", "load")))


async def test_a_killed_server_and_its_killed_host_are_in_nobody_s_way(tmp_path: Path) -> None:
    """Lock and socket are left, and mean nothing."""
    for _ in range(2):
        async with play("stdio", tmp_path, "--hosted") as played:
            await played.works()
            for process in alive(str(played.script)):
                os.kill(process, signal.SIGKILL)
            await gone(str(played.script))


# The client.


@ways
async def test_a_server_whose_client_is_killed_goes(way: str, tmp_path: Path) -> None:
    """With work under way that hangs; where it has other clients, they are served."""
    async with play(way, tmp_path) as played:
        played.says(fault="hang")
        pending = played.ask()
        pending.add_done_callback(lambda answer: answer.exception())
        await asyncio.sleep(0.2)
        played.way.writer.transport.abort()
        if played.way.shared:
            second = Play(await played.way.another(), played.script)
            played.says()
            await second.start()
            await second.works()
            await second.editor.stop()
        else:
            await ended(played.way.child)


# Conversions.


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A checkpoint whose conversion takes long enough to be killed in."""
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
    """A place for hosts where no other test's are."""
    with tempfile.TemporaryDirectory(prefix="cc-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["in-process", "shared"])
async def test_a_conversion_that_is_killed_leaves_no_half_a_model(
    engine: str, pickled: Path, own_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is killed is who converts; the next one does it whole, and takes what was left away."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = {"completion": str(pickled), "engine": engine, "device": "cpu", "dtype": "float32", "idleMinutes": 0}
    options = {"model": model, "completion": {"timeBudgetMs": 60000}}
    converted = tmp_path / "cache" / "codeclippy-ls" / "converted"

    async def started(found: Way) -> Editor:
        editor = Editor(found.reader, found.writer.write)
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
        assert [path.name[:3] for path in converted.glob("*/*")] == ["tmp"], "not in the middle of it"

    async with reached("stdio", ("-m", "codeclippy_ls"), tmp_path) as found:
        editor = await started(found)
        await some(int(engine == "shared"), own_folder)
        converter = next(iter(alive(own_folder)), found.child.pid)
        half = await appears(converted, "*/tmp*/model-*.safetensors")
        kill(converter)
        if engine == "shared":
            await finish(editor)  # by another host; nobody has lost anything that there would be something to say of
            await gone(own_folder)
        else:
            await ended(found.child)
            assert half.exists()
    if engine == "in-process":
        async with reached("stdio", ("-m", "codeclippy_ls"), tmp_path) as found:
            await finish(await started(found))


# Who does not read.


@ways
async def test_a_client_that_stops_reading_is_given_up(way: str, tmp_path: Path) -> None:
    """Where 64 MB are unread; other clients do not notice."""
    script = tmp_path / "script.json"
    async with reached(way, (*PROGRAM, str(script)), tmp_path) as found:
        other = Play(await found.another(), script) if found.shared else None
        if other is not None:
            await other.start()

        def send(**message: Any) -> None:
            body = json.dumps({"jsonrpc": "2.0", **message}).encode()
            found.writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

        send(id=0, method="initialize", params={"capabilities": {}, "processId": None})
        for number in range(1, 90):
            send(id=number, method="x" * (1 << 20))  # the answer says which method there is not
            try:
                await found.writer.drain()
            except ConnectionError:
                break
        if other is not None:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(found.reader.readexactly(90 << 20), TIMEOUT)
            await other.works()
            await other.editor.stop()
        else:
            await ended(found.child)
            with contextlib.suppress(ConnectionError):
                await found.reader.read()
        assert b"xxxx" not in found.said.read_bytes()
