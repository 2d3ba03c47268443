"""The scripted server that editors are tested with is the real server in all but the model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from tests.editor import TIMEOUT, Editor


async def test_it_says_what_the_file_says_at_the_moment(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.scripted_server",
        str(script),
        cwd=Path(__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    editor = Editor(child.stdout, child.stdin.write)
    await editor.start({})
    buffer = editor.open("def add(a, b):\n    return ")
    script.write_text(json.dumps({"complete": "a + b"}))
    assert [item["insertText"] for item in await editor.ghost(buffer, len(buffer.text))] == ["a + b"]
    script.write_text(json.dumps({"edit": "@@ -1,2 +1,3 @@\n def add(a, b):\n+    # sums\n     return \n"}))
    await editor.edit(buffer, "Add a comment")
    await editor.outcome()
    assert buffer.text == "def add(a, b):\n    # sums\n    return "
    script.write_text(json.dumps({"crash": True}))
    with contextlib.suppress(ConnectionError):
        await editor.edit(buffer, "Fix the bug")
    assert await asyncio.wait_for(child.wait(), TIMEOUT) == 9
