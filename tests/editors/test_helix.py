"""Helix with the configuration in docs/editors.md: completion and edits work without a plugin."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from tests.editors.conftest import REPOSITORY, ROOT, Script, require_installed
from tests.editors.terminal import Terminal

HELIX = ROOT / "helix" / "usr" / "lib" / "hx" / "hx-patched"


@pytest.fixture
def helix(tmp_path: Path, script: Script, request: pytest.FixtureRequest) -> Terminal:
    """Open `add.py` in Helix, with the configuration in the docs and the scripted server."""
    binary = require_installed(HELIX, "Helix")
    snippet = re.search(r"```toml\n(.*?)```", (REPOSITORY / "docs" / "editors.md").read_text(), re.S)
    assert snippet is not None
    command, *arguments = script.command
    started = f"command = {json.dumps(command)}\nargs = {json.dumps(arguments)}"
    config = snippet[1].replace('command = "codeclippy-ls"', started).replace('"pylsp", ', "")
    (tmp_path / "config" / "helix").mkdir(parents=True)
    (tmp_path / "config" / "helix" / "languages.toml").write_text(config)
    (tmp_path / "add.py").write_text("def add(a, b):\n    return a + b\n")
    environment = {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HELIX_RUNTIME": str(HELIX.parent / "runtime"),
        "PATH": os.environ["PATH"],
        "COLORTERM": "truecolor",
    }
    terminal = Terminal(f"{binary} add.py", tmp_path, environment)
    request.addfinalizer(terminal.close)
    terminal.wait_for_screen("def add")
    return terminal


def request_until_drawn(helix: Terminal, answer: str, *keys: str) -> None:
    """Press the keys until the answer is drawn: Helix does not show when the server is ready."""
    for _ in range(60):
        helix.press(*keys)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            if answer in helix.get_screen():
                return
            time.sleep(0.1)
    helix.wait_for_screen(answer, 0.2)


def request_code_actions(helix: Terminal, answer: str) -> None:
    """Open the code actions until the answer is drawn; Escape closes them."""
    for _ in range(60):
        helix.press("Space", "a")
        time.sleep(2)
        if answer in helix.get_screen():
            return
        helix.press("Escape")
        time.sleep(0.5)  # else Helix reads Escape and the next key as one key
    helix.wait_for_screen(answer, 0.2)


def test_completion_in_helix(helix: Terminal, script: Script) -> None:
    script.set(complete="ultiply(a, b)")
    helix.press("g", "e", "o")
    helix.type("m")
    request_until_drawn(helix, "multiply(a, b)", "C-x")
    helix.press("Down", "Enter", "Escape")
    helix.wait_until(lambda: "multiply(a, b)" in helix.get_screen(), "the item")
    helix.type(":w")
    helix.press("Enter")
    helix.wait_for_screen("written")


def test_completion_in_a_crlf_file_in_helix(helix: Terminal, script: Script, tmp_path: Path) -> None:
    """All lines end alike."""
    script.set(complete="ultiply(a,\n    b)")
    (tmp_path / "ends.py").write_bytes(b"def add(a, b):\r\n    return a + b\r\n")
    helix.type(":o ends.py")
    helix.press("Enter")
    helix.wait_for_screen("ends.py")
    helix.press("g", "e", "o")
    helix.type("m")
    request_until_drawn(helix, "multiply(a,", "C-x")
    helix.press("Down", "Enter", "Escape")
    helix.wait_until(lambda: "    b)" in helix.get_screen(), "the item")
    helix.type(":w")
    helix.press("Enter")
    expected = b"def add(a, b):\r\n    return a + b\r\n    multiply(a,\r\n    b)\r\n"
    helix.wait_until(lambda: (tmp_path / "ends.py").read_bytes() == expected, "the file")


def test_a_code_action_in_helix(helix: Terminal, script: Script, tmp_path: Path) -> None:
    script.set(edit="@@ -1,2 +1,3 @@\n def add(a, b):\n+    # adds\n     return a + b\n")
    request_code_actions(helix, "Code Clippy: Fix the bug")
    helix.press("Enter")
    helix.wait_for_screen("# adds")
    helix.type(":w")
    helix.press("Enter")
    edited = "def add(a, b):\n    # adds\n    return a + b\n"
    helix.wait_until(lambda: (tmp_path / "add.py").read_text() == edited, "the file")
    helix.press("u")
    helix.wait_until(lambda: "# adds" not in helix.get_screen(), "one undo to revert it")
