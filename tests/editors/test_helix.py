"""Helix with nothing but the snippet of docs/editors.md: completion and edits work without a plugin."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from tests.editors.conftest import REPOSITORY, ROOT, Script, installed
from tests.editors.terminal import Terminal

HELIX = ROOT / "helix" / "usr" / "lib" / "hx" / "hx-patched"


@pytest.fixture
def helix(tmp_path: Path, script: Script, request: pytest.FixtureRequest) -> Terminal:
    """Helix on `add.py`, with the configuration of the docs, the scripted server in place of the real one."""
    binary = installed(HELIX, "Helix")
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
    terminal.until_drawn("def add")
    return terminal


def asked(helix: Terminal, answer: str, *keys: str) -> None:
    """Ask until the answer is drawn: nothing tells a user of Helix when the server is ready."""
    for _ in range(15):
        helix.keys(*keys)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            if answer in helix.screen():
                return
            time.sleep(0.1)
    helix.until_drawn(answer, 0.2)


def asked_for_actions(helix: Terminal, answer: str) -> None:
    """The same for code actions, whose keys begin anew after Escape."""
    for _ in range(15):
        helix.keys("Space", "a")
        time.sleep(2)
        if answer in helix.screen():
            return
        helix.keys("Escape")
        time.sleep(0.5)  # else Helix takes Escape and the next key for one
    helix.until_drawn(answer, 0.2)


def test_completion_in_helix(helix: Terminal, script: Script) -> None:
    script.says(complete="ultiply(a, b)")
    helix.keys("g", "e", "o")
    helix.type("m")
    asked(helix, "multiply(a, b)", "C-x")
    helix.keys("Down", "Enter", "Escape")
    helix.until(lambda: "multiply(a, b)" in helix.screen(), "the item")
    helix.type(":w")
    helix.keys("Enter")
    helix.until_drawn("written")


def test_a_code_action_in_helix(helix: Terminal, script: Script, tmp_path: Path) -> None:
    script.says(edit="@@ -1,2 +1,3 @@\n def add(a, b):\n+    # adds\n     return a + b\n")
    asked_for_actions(helix, "Code Clippy: Fix the bug")
    helix.keys("Enter")
    helix.until_drawn("# adds")
    helix.type(":w")
    helix.keys("Enter")
    edited = "def add(a, b):\n    # adds\n    return a + b\n"
    helix.until(lambda: (tmp_path / "add.py").read_text() == edited, "the file")
    helix.keys("u")
    helix.until(lambda: "# adds" not in helix.screen(), "one undo to take it back")
