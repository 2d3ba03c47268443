"""The same edit by every road: the real server process with the capabilities of each real editor, and the command line
with GNU patch, all with the shipped model. What an editor has afterwards is what patch makes of the printed diff."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.editor import process
from tests.shared import capabilities

pytestmark = pytest.mark.slow
EDITS = [
    ("area.py", "def area(width, height):\n    return width * height\n", "Add a docstring"),
    (
        "least.py",
        "def least(values):\n    best = values[0]\n    for value in values:\n        if value < best:\n"
        "            best = value\n    return best\n",
        "Rename best to smallest",
    ),
    (
        "read.py",
        "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\n"
        "def count(path):\n    return len(read(path))\n",
        "Add type hints",
    ),
]
EDITORS = ("vscode", "neovim", "neovim-0.11", "emacs", "emacs-30")
ENGINE = ("--threads", "1", "--dtype", "float32")


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The texts after GNU patch has taken what the command line prints; the text itself where it refuses."""
    folder = tmp_path_factory.mktemp("patched")
    texts = []
    for name, text, message in EDITS:
        (folder / name).write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "codeclippy_ls", "edit", name, "--message", message, *ENGINE],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 3), done.stderr
        if done.returncode == 0:
            subprocess.run(["patch", "-p1", "-F0", "-s"], input=done.stdout, text=True, cwd=folder, check=True)
        texts.append((folder / name).read_text(encoding="utf-8"))
    assert sum(text != before for text, (_, before, _) in zip(texts, EDITS, strict=True)) > 1, "hardly an edit was made"
    return texts


@pytest.mark.parametrize("editor_name", EDITORS)
async def test_every_editor_gets_the_edit_that_patch_makes(
    editor_name: str, patched: list[str], tmp_path: Path
) -> None:
    """With the params that the editor really sends when it starts a server."""
    params: dict[str, Any] = json.loads(capabilities(editor_name).read_text(encoding="utf-8"))
    params = params.get("params", params)
    async with process("--stdio", *ENGINE, cwd=tmp_path) as (editor, _):
        await editor.start(params["capabilities"])
        for (name, text, message), expected in zip(EDITS, patched, strict=True):
            buffer = editor.open(text, f"file:///work/{name}")
            await editor.edit(buffer, message)
            said = (await editor.outcome()).get("message", "")
            assert said.startswith("Code Clippy: no edit") == (expected == text), said
            assert buffer.text == expected, f"{name}: {message}"
        editor.unread = [one for one in editor.unread if one["method"] != "window/workDoneProgress/create"]
        await editor.stop()
