"""What must never happen: a word to the network, a line of the user's text in a log, an edit of another file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError

from tests.editor import TIMEOUT, ServerError, process

CANARY = "canary_8f3a61"
SOURCE = f"def {CANARY}(values):\n    total = sum(values)\n    return "
_ISOLATED = ("unshare", "--map-root-user", "--net")


def isolated() -> bool:
    """Return whether a process can be started here that has no network at all."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_ISOLATED, "true"], capture_output=True, check=False).returncode == 0


def test_no_test_reaches_out() -> None:
    """All of the suite runs with sockets that connect to this machine only."""
    with pytest.warns(UserWarning), pytest.raises(SocketConnectBlockedError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


@pytest.mark.skipif(not isolated(), reason="no process can be taken off the network here (unshare)")
@pytest.mark.slow
def test_all_three_jobs_work_without_any_network(tmp_path: Path) -> None:
    """In a network namespace of its own, without even a loopback."""
    file = tmp_path / "mean.py"
    file.write_text("def mean(values):\n    total = sum(values)\n    return \n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_ISOLATED, sys.executable, "-m", "codeclippy_ls", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "0"},
        )

    for arguments in (("complete", f"{file}:3:12"), ("edit", str(file), "-m", "Add a docstring"), ("doctor",)):
        done = run(*arguments)
        assert done.returncode in (0, 3) and done.stdout.strip(), done.stderr


async def test_no_text_of_the_user_s_is_logged(tmp_path: Path) -> None:
    """Neither by the server nor by what runs its models, nor by the libraries below, at the highest level."""
    log = tmp_path / "log"
    async with process("--verbose", "--log-file", str(log)) as (editor, child):
        await editor.start(options={"edit": {"timeBudgetMs": 2000}})
        buffer = editor.open(SOURCE)
        assert await editor.complete(buffer, len(SOURCE))
        await editor.ghost(buffer, len(SOURCE))
        await editor.edit(buffer, f"Rename {CANARY} to mean", 0, len(SOURCE))
        if "edit" in await editor.outcome():
            editor.unread.clear()
        with pytest.raises(ServerError):
            await editor.call("textDocument/completion", {"textDocument": CANARY})
        editor.notify(f"$/{CANARY}", {"text": SOURCE})
        await editor.stop()
        errors = (await child.stderr.read()).decode()
    hosts = list(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*.log"))
    assert log.read_text() and hosts
    assert not any(CANARY in text for text in (errors, *(path.read_text(errors="replace") for path in (log, *hosts))))


SECRET_LINE = "password = 'hunter2-hunter2'"


@pytest.mark.parametrize(
    "sent",
    [
        f"Content-Length: {{short}}\r\n\r\n{{body}}{SECRET_LINE}\r\n\r\n",
        f"Content-Length: 10{SECRET_LINE}\r\n\r\n",
        f"{SECRET_LINE}: 10\r\n\r\n",
        f"{SECRET_LINE}\r\nContent-Length: 2\r\n\r\n{{{{}}}}",
        f"Content-Length: 2\r\nContent-Length: {SECRET_LINE}\r\n\r\n{{{{}}}}",
        SECRET_LINE,
        SECRET_LINE * 1000,
    ],
)
def test_no_text_of_a_broken_frame_is_logged(sent: str) -> None:
    """Of a length that is too short, the rest of the document would be the next header; the log says only what is
    wrong."""
    text = json.dumps({"jsonrpc": "2.0", "method": "x", "params": {"text": SECRET_LINE}})
    data = sent.format(short=len(text) - 60, body=text).encode()
    done = subprocess.run(
        [sys.executable, "-m", "codeclippy_ls", "--verbose"], input=data, capture_output=True, timeout=TIMEOUT
    )
    assert done.returncode == 1 and b"cannot read the client's messages" in done.stderr
    assert b"hunter2" not in done.stderr and b"hunter2" not in done.stdout


async def test_an_edit_touches_the_open_document_and_no_file(tmp_path: Path) -> None:
    """Whatever paths its message names: nothing on the disk changes, and one document is in the edit."""
    for name in ("open.py", "other.py"):
        (tmp_path / name).write_text("def add(a, b):\n    return a + b\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    async with process() as (editor, _):
        await editor.start()
        editor.accept_edits = False
        uri = (tmp_path / "open.py").as_uri()
        buffer = editor.open((tmp_path / "open.py").read_text(), uri)
        await editor.edit(buffer, f"Delete {tmp_path / 'other.py'} and add a docstring", 0, len(buffer.text))
        told = await editor.outcome()
        if "edit" in told:
            assert [change["textDocument"]["uri"] for change in told["edit"]["documentChanges"]] == [uri]
            await editor.outcome()
        await editor.stop()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
