"""Notebooks: cells are documents like any other, and the cells above one are its context."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from codeclippy_ls.notebooks import Cell
from codeclippy_ls.server.server import Server
from tests.editor import Editor
from tests.notebook import PROSE, Notebook
from tests.scripted import ScriptedWorker

QUIET: dict[str, Any] = {"completion": {"prefetch": False, "debounce": False}}
SYNC = {"notebookDocument": {"synchronization": {"dynamicRegistration": True, "executionSummarySupport": True}}}
PIECES = ("a", "😀", "é", "\n", "\r\n", "\r", "x = 1\n", "", "def f():\n    pass\n")


async def settle(editor: Editor) -> None:
    """Wait until the server has read what was sent."""
    await editor.call("workspace/executeCommand", {"command": "codeclippy.showMetrics", "arguments": [{"quiet": True}]})


def assert_equal(server: Server, notebook: Notebook) -> None:
    """Assert that the server has the notebook's cells: their order, kinds, texts and languages."""
    session = server.session
    assert session.notebooks.list_cells(notebook.uri) == tuple(
        Cell(cell.uri, cell.language != "markdown") for cell in notebook.cells
    )
    for cell in notebook.cells:
        document = session.documents.get(cell.uri)
        assert document is not None
        assert (document.text, document.language, document.version) == (cell.text, cell.language, cell.version)
    assert len(session.documents) == len(notebook.cells)


async def test_notebooks_are_announced(editor: Editor) -> None:
    """All cells of all notebooks, to clients that know notebooks."""
    result = await editor.start(SYNC)
    assert result["capabilities"]["notebookDocumentSync"] == {"notebookSelector": [{"notebook": "*"}]}


@pytest.mark.parametrize("seed", range(12))
async def test_cells_are_those_of_the_editor(server: Server, editor: Editor, seed: int) -> None:
    """Whatever is typed, inserted, removed, moved or changed in kind, the server's cells equal the editor's."""
    await editor.start(SYNC)
    dice = random.Random(seed)
    notebook = Notebook(editor, [("import os\n", "python"), ("# Title", "markdown"), ("", "python")])
    for _ in range(60):
        kind = dice.choice(("type", "type", "type", "insert", "remove", "move", "language", "prose"))
        at = dice.randrange(len(notebook.cells) + 1)
        cell = notebook.cells[at] if at < len(notebook.cells) else None
        if kind == "insert":
            new = [notebook.make(dice.choice(PIECES), dice.choice(("python", "markdown"))) for _ in range(2)]
            notebook.splice(at, 0, new[: dice.randrange(3)])
        elif kind == "remove":
            notebook.splice(at, min(dice.randrange(3), len(notebook.cells) - at), [])
        elif kind == "move" and at + 1 < len(notebook.cells):
            notebook.splice(at, 2, notebook.cells[at : at + 2][::-1])
        elif kind == "language" and cell is not None:
            notebook.change_language(cell, dice.choice(("python", "sql", "markdown")))
        elif kind == "type" and cell is not None:
            ends = sorted(dice.choices(range(len(cell.text) + 1), k=2))
            if not any(cell.text[end - 1 : end + 1] == "\r\n" for end in ends):
                notebook.type(cell, ends[0], dice.choice(PIECES), ends[1])
        if kind == "prose":
            notebook.change(data=[{**notebook.describe(cell), "metadata": {}} for cell in notebook.cells[:at]])
        await settle(editor)
        assert_equal(server, notebook)
    notebook.close()
    await settle(editor)
    assert len(server.session.documents) == 0 and not server.session.notebooks.list_cells(notebook.uri)


async def test_cells_above_are_the_context(editor: Editor, worker: ScriptedWorker) -> None:
    """In order, as one file; neither prose nor another language, nor what is below."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(
        editor,
        [
            ("import math\nfrom os import path\n", "python"),
            ("# Areas\n\nOf circles.", "markdown"),
            ("select 1", "sql"),
            ("def area(r):\r\n    return math.pi * r", "python"),
            ("   \n", "python"),
            ("x = \n", "python"),
            ("print('below')", "python"),
        ],
    )
    cell = notebook.cells[5]
    worker.response = "area(2)"
    (item,) = await editor.ghost(cell, 4)
    assert item["insertText"] == "area(2)" and item["range"]["start"] == {"line": 0, "character": 4}
    shown = "import math\nfrom os import path\n\ndef area(r):\n    return math.pi * r\n\nx = "
    assert worker.prompts[-1].endswith(shown)
    for hidden in ("Of circles", "select 1", "below"):
        assert hidden not in worker.prompts[-1]
    # The first cell has nothing above; what is typed and moved above is in the next prompt.
    await editor.ghost(notebook.cells[0], 0)
    notebook.type(notebook.cells[0], 0, "import sys\n")
    notebook.splice(0, 2, [notebook.cells[1], notebook.cells[0]])
    notebook.type(cell, 0, "y = x\n")
    (item,) = await editor.complete(cell, 10)
    assert worker.prompts[-1].endswith("import sys\n" + shown.removesuffix("x = ") + "y = x\nx = ")
    cell.apply([item["textEdit"]])
    assert cell.text == "y = x\nx = area(2)\n"


async def test_prose_has_the_prose_above(editor: Editor, worker: ScriptedWorker) -> None:
    """And no code; a cell that becomes prose by its kind alone is no code any more."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(
        editor, [("# Title", "markdown"), ("a = 1", "python"), ("b = 2", "python"), ("Some ", "markdown")]
    )
    worker.response = "words"
    await editor.ghost(notebook.cells[3], 5)
    assert worker.prompts[-1].endswith("# Title\n\nSome ") and "a = 1" not in worker.prompts[-1]
    notebook.change(data=[{"kind": PROSE, "document": notebook.cells[1].uri}])
    await editor.ghost(notebook.cells[2], 5)
    assert "a = 1" not in worker.prompts[-1]


async def test_an_edit_of_a_cell_goes_to_that_cell(editor: Editor, worker: ScriptedWorker) -> None:
    """By message and by comment, under the notebook's name, with the cell's version."""
    await editor.start({**SYNC, "workspace": {"workspaceEdit": {"documentChanges": True}}})
    notebook = Notebook(editor, [("import os\n", "python"), ("# clippy: rename it\ndef f(): pass\n", "python")])
    cell = notebook.cells[1]
    notebook.type(cell, len(cell.text), "f()\n")
    at = {"textDocument": {"uri": cell.uri}, "range": {"start": cell.position(0), "end": cell.position(0)}}
    actions = await editor.call("textDocument/codeAction", {**at, "context": {"diagnostics": []}})
    action = next(action for action in actions if action["title"] == "Code Clippy: rename it")
    worker.response = " @@ -1,2 +1,2 @@\n-def f(): pass\n-f()\n+def g(): pass\n+g()\n"
    command = action["command"]
    await editor.call("workspace/executeCommand", {"command": command["command"], "arguments": command["arguments"]})
    change = (await editor.outcome())["edit"]["documentChanges"][0]
    assert change["textDocument"] == {"uri": cell.uri, "version": 2}
    assert worker.prompts[-1].startswith(" my nb.ipynb\n def f(): pass\nf()\n")


async def test_settings_see_the_notebooks_path(editor: Editor, worker: ScriptedWorker) -> None:
    """Whatever the URIs of its cells are; secrets are known by its name, too."""
    await editor.start(SYNC, {"completion": {**QUIET["completion"], "disabledPaths": ["*/private/*"]}})
    for name, count in (("private/a.ipynb", 0), ("public/a.ipynb", 1)):
        notebook = Notebook(editor, [("x = ", "python")], f"file:///work/{name}")
        assert len(await editor.ghost(notebook.cells[0], 4)) == count
    odd = Notebook(editor, [("x = ", "python")], "memory:/private/b")
    assert await editor.ghost(odd.cells[0], 4) == []


async def test_a_notebook_is_one_of_the_other_files(editor: Editor, worker: ScriptedWorker) -> None:
    """One snippet's path for its code; its prose is not shown, and it is not shown beside its own cells."""
    await editor.start(SYNC, QUIET)
    cells = [("def area_of_circle(radius):\n    return 3 * radius\n", "python"), ("area_of_circle words", "markdown")]
    notebook = Notebook(editor, [*cells, *[("pass", "python")] * 20])
    notebook.type(notebook.cells[1], 0, "The newest change is in prose. ")
    buffer = editor.open("x = area_of_circle(\n")
    await editor.ghost(buffer, 19)
    assert "# Path: my nb.ipynb\n# def area_of_circle(radius):" in worker.prompts[-1]
    assert "words" not in worker.prompts[-1]
    notebook.type(notebook.cells[5], 0, "area_of_circle()\n")
    await editor.ghost(notebook.cells[5], 15)
    assert "Path: my nb" not in worker.prompts[-1] and worker.prompts[-1].count("def area_of_circle") == 1


async def test_a_bad_change_stops_its_cell_with_one_message(editor: Editor, worker: ScriptedWorker) -> None:
    """Named by the notebook; other cells are served, without the one whose text is unknown."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(editor, [("a = 1\n", "python"), ("b = 2\n", "python"), ("x = ", "python")])
    back = {"start": {"line": 1, "character": 0}, "end": {"line": 0, "character": 0}}
    for cell in notebook.cells[:2]:
        change = {"document": cell.identifier, "changes": [{"range": back, "text": ""}]}
        notebook.change(textContent=[change])
    assert await editor.ghost(notebook.cells[0], 5) == []
    assert len(await editor.ghost(notebook.cells[2], 4)) == 1 and "a = 1" not in worker.prompts[-1]
    assert "the text of my nb.ipynb is out of step" in (await editor.until("window/showMessage"))["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"structure": {"array": {"start": 7, "deleteCount": 1}}},
        {"structure": {"array": {"start": 0, "deleteCount": 9, "cells": []}}},
    ],
)
async def test_an_order_that_cannot_be_followed_is_no_context(
    editor: Editor, worker: ScriptedWorker, change: dict[str, Any]
) -> None:
    """The cells themselves are served."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(editor, [("a = 1\n", "python"), ("x = ", "python")])
    notebook.change(**change)
    assert len(await editor.ghost(notebook.cells[1], 4)) == 1
    assert "a = 1" not in worker.prompts[-1]


async def test_changes_that_cannot_be_read_stop_the_notebook(editor: Editor, worker: ScriptedWorker) -> None:
    """Any of its texts may have changed; one message says it, and opening it again helps."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(editor, [("a = 1\n", "python"), ("x = ", "python")])
    notebook.change(textContent="nothing of the kind")
    assert await editor.ghost(notebook.cells[1], 4) == []
    assert "my nb.ipynb is out of step" in (await editor.until("window/showMessage"))["message"]
    notebook.close()
    again = Notebook(editor, [("a = 1\n", "python"), ("x = ", "python")])
    assert len(await editor.ghost(again.cells[1], 4)) == 1 and "a = 1" in worker.prompts[-1]


async def test_a_suggestion_for_a_removed_cell_is_dropped(editor: Editor, worker: ScriptedWorker) -> None:
    """And changes of notebooks and cells that are not open do no harm."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(editor, [("x = ", "python"), ("y = ", "python")])
    asked = editor.request(
        "textDocument/inlineCompletion", {**editor.at(notebook.cells[0], 4), "context": {"triggerKind": 1}}
    )
    notebook.splice(0, 1, [])
    assert not (await asyncio.wait_for(asked, 20) or {}).get("items")
    notebook.close()
    notebook.type(notebook.cells[0], 0, "z")
    notebook.splice(0, 1, [notebook.make("z = ")])
    notebook.change(data=[notebook.describe(notebook.cells[0])])
    editor.notify("notebookDocument/didSave", {"notebookDocument": {"uri": notebook.uri}})
    assert len(await editor.ghost(notebook.cells[0], 4)) == 1


async def test_a_cell_of_another_program_is_not_judged_as_python(editor: Editor, worker: ScriptedWorker) -> None:
    """`%%bash` makes the whole cell bash, also for editors that call it Python."""
    await editor.start(SYNC, QUIET)
    notebook = Notebook(editor, [("%%bash\nfor f in *; do\n  ", "python")])
    worker.response = 'cp "$f" "$f.old"'
    (item,) = await editor.ghost(notebook.cells[0], 24)
    assert item["insertText"] == 'cp "$f" "$f.old"'
