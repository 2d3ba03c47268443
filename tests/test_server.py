"""The server through a fake editor: the three jobs, stale answers, settings, the life cycle, faults of the wire."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from codeclippy_ls.server.server import Server
from tests.editor import TIMEOUT, Editor, ServerError, in_process
from tests.scripted import ScriptedWorker

SAMPLE = "def add(a, b):\n    return a + b\n\n\ndef twice(x):\n    return 2 * x\n"
RENAMED = " @@ -1,2 +1,2 @@\n-def add(a, b):\n+def plus(a, b):\n     return a + b\n"
ANNOTATING = {
    "workspace": {"applyEdit": True, "workspaceEdit": {"documentChanges": True, "changeAnnotationSupport": {}}},
    "window": {"workDoneProgress": True},
    "textDocument": {"codeAction": {"dataSupport": True, "resolveSupport": {"properties": ["edit", "command"]}}},
}


async def test_ghost_text_and_completion_items(editor: Editor, worker: ScriptedWorker) -> None:
    """The same suggestion for both; the item replaces the word at the cursor and filters by it."""
    result = await editor.start()
    assert result["capabilities"]["inlineCompletionProvider"] is not None
    assert result["capabilities"]["textDocumentSync"]["change"] == 2
    buffer = editor.open("result = comp\n")
    worker.response = "ute(result)"
    items = await editor.ghost(buffer, 13)
    assert [item["insertText"] for item in items] == ["ute(result)"]
    assert items[0]["range"] == {"start": buffer.position(13), "end": buffer.position(13)}
    (item,) = await editor.complete(buffer, 13)
    assert item["filterText"].startswith("comp") and len(item["label"]) <= 60 and "\n" not in item["label"]
    buffer.apply([item["textEdit"]])
    assert buffer.text == "result = compute(result)\n"


async def test_a_completion_item_shows_the_whole_text_as_code(editor: Editor, worker: ScriptedWorker) -> None:
    """In a fence that is longer than any in the text, if the client shows Markdown."""
    await editor.start({"textDocument": {"completion": {"completionItem": {"documentationFormat": ["markdown"]}}}})
    buffer = editor.open("text = val\n")
    worker.response = "ue + '```'"
    (item,) = await editor.complete(buffer, 10)
    assert item["documentation"] == {"kind": "markdown", "value": "````python\nvalue + '```'\n````"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
async def test_positions_in_every_encoding(editor: Editor, worker: ScriptedWorker, encoding: str) -> None:
    """Emoji before the cursor, form feeds and CRLF in the text: the edit lands where the cursor is."""
    result = await editor.start({"general": {"positionEncodings": [encoding]}})
    assert result["capabilities"]["positionEncoding"] == encoding
    buffer = editor.open("x = '😀é'\x0c\r\nname = '日本😀' + va\r\n", encoding=encoding)
    worker.response = "lue"
    cursor = buffer.text.index("va") + 2
    (item,) = await editor.complete(buffer, cursor)
    buffer.apply([item["textEdit"]])
    assert buffer.text == "x = '😀é'\x0c\r\nname = '日本😀' + value\r\n"
    assert worker.prompts[-1].startswith("\nx = '😀é'\x0c\nname = '日本😀' + va")


async def test_incremental_changes_reach_the_prompt(editor: Editor, worker: ScriptedWorker) -> None:
    """What was typed is what is asked, at the moment of the request, also when a change follows in the same write."""
    await editor.start()
    buffer = editor.open("a😀b\n")
    cursor = editor.type(buffer, 2, "XY", end=3)
    worker.response = "Z"
    first = editor.request("textDocument/completion", editor.at(buffer, cursor))
    editor.type(buffer, 0, "# later\n")
    assert (await first)["items"] == [], "an answer for a text that is gone"
    assert worker.prompts == [] or worker.prompts[0].startswith("\naXY") or "later" not in worker.prompts[0]


async def test_the_newest_request_of_a_document_wins(editor: Editor, worker: ScriptedWorker) -> None:
    """For clients that never cancel: the older one is answered at once, with nothing."""
    await editor.start()
    buffer = editor.open("x = \n")
    worker.gate = threading.Event()
    older = editor.request("textDocument/inlineCompletion", {**editor.at(buffer, 4), "context": {"triggerKind": 2}})
    await asyncio.to_thread(worker.started.wait, 10)
    newer = editor.request("textDocument/inlineCompletion", {**editor.at(buffer, 4), "context": {"triggerKind": 2}})
    assert (await older)["items"] == []
    worker.response = "1"
    worker.gate.set()
    assert [item["insertText"] for item in (await newer)["items"]] == ["1"]


async def test_cancelling_is_answered_and_stops_the_engine(editor: Editor, worker: ScriptedWorker) -> None:
    """-32800, and the next request is served."""
    await editor.start()
    buffer = editor.open("x = \n")
    worker.gate = threading.Event()
    pending = editor.request("textDocument/completion", editor.at(buffer, 4))
    await asyncio.to_thread(worker.started.wait, 10)
    editor.notify("$/cancelRequest", {"id": pending.request_id})  # type: ignore[attr-defined]
    with pytest.raises(ServerError) as caught:
        await pending
    assert caught.value.code == -32800
    worker.gate = None
    worker.response = "2"
    assert len(await editor.complete(buffer, 4)) == 1
    assert [reason.value for reason in worker.cancel_reasons] == ["cancelled"]


async def test_typing_stops_what_is_made_for_the_old_text(editor: Editor, worker: ScriptedWorker) -> None:
    """A change cancels the document's suggestion, also for clients that never cancel."""
    await editor.start()
    buffer = editor.open("x = \n")
    worker.gate = threading.Event()
    pending = editor.request("textDocument/completion", editor.at(buffer, 4))
    await asyncio.to_thread(worker.started.wait, 10)
    editor.type(buffer, 4, "y")
    assert (await pending)["items"] == []
    worker.gate = None
    await editor.complete(buffer, 5)
    assert [reason.value for reason in worker.cancel_reasons] == ["cancelled"]


async def test_typing_through_a_suggestion_needs_no_engine(editor: Editor, worker: ScriptedWorker) -> None:
    """What is shown and still matches is shown again."""
    await editor.start(options={"completion": {"prefetch": False}})
    buffer = editor.open("x = \n")
    worker.response = "value + 1"
    assert (await editor.ghost(buffer, 4, kind=2))[0]["insertText"] == "value + 1"
    cursor = editor.type(buffer, 4, "val")
    assert (await editor.ghost(buffer, cursor, kind=2))[0]["insertText"] == "ue + 1"
    assert len(worker.prompts) == 1
    cursor = editor.type(buffer, cursor, "id")
    worker.response = "ity"
    assert (await editor.ghost(buffer, cursor, kind=2))[0]["insertText"] == "ity"


async def test_a_selected_list_item_is_continued(editor: Editor, worker: ScriptedWorker) -> None:
    """Ghost text over the list repeats the item's text over its range, or the client would not draw it."""
    await editor.start()
    buffer = editor.open("os.pa\n")
    worker.response = ".join(a)"
    selected = {"range": {"start": buffer.position(3), "end": buffer.position(5)}, "text": "path"}
    result = await editor.call(
        "textDocument/inlineCompletion",
        {**editor.at(buffer, 5), "context": {"triggerKind": 2, "selectedCompletionInfo": selected}},
    )
    (item,) = result["items"]
    assert item["insertText"] == "path.join(a)" and item["range"] == selected["range"]
    assert "os.path" in worker.prompts[0]


async def test_our_own_item_in_the_list_is_not_continued(editor: Editor, worker: ScriptedWorker) -> None:
    """What the list's selected item inserts is the whole suggestion already."""
    await editor.start(options={"completion": {"prefetch": False, "candidates": 1}})
    buffer = editor.open("x = va")
    worker.response = "lue"
    (listed,) = await editor.complete(buffer, 6)
    selected = {"range": listed["textEdit"]["range"], "text": listed["textEdit"]["newText"]}
    asked = await editor.call(
        "textDocument/inlineCompletion",
        {**editor.at(buffer, 6), "context": {"triggerKind": 2, "selectedCompletionInfo": selected}},
    )
    assert asked["items"] == [] and len(worker.prompts) == 1


async def test_lists_open_by_themselves_only_where_there_is_no_ghost_text(editor: Editor) -> None:
    """A list at every space would stand where the ghost text should be."""
    result = await editor.start({"textDocument": {"inlineCompletion": {}}})
    assert "triggerCharacters" not in result["capabilities"]["completionProvider"]


async def test_automatic_requests_inside_a_word_get_nothing(editor: Editor, worker: ScriptedWorker) -> None:
    """An invoked one does."""
    await editor.start()
    buffer = editor.open("x = value\n")
    assert await editor.ghost(buffer, 6, kind=2) == [] and not worker.prompts
    await editor.ghost(buffer, 6, kind=1)
    assert worker.prompts


async def test_edit_command_applies_a_versioned_annotated_edit(editor: Editor, worker: ScriptedWorker) -> None:
    """The command answers at once; the edit follows, with the version, one annotation per hunk, and progress."""
    await editor.start(ANNOTATING)
    await editor.until("window/workDoneProgress/create")
    buffer = editor.open(SAMPLE)
    worker.response = RENAMED
    await editor.edit(buffer, "Rename add to plus", 0, 15)
    await editor.until("window/workDoneProgress/create")
    params = await editor.outcome()
    (change,) = params["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": buffer.uri, "version": 1}
    assert [edit["newText"] for edit in change["edits"]] == ["plus"], "not minimal"
    (annotation,) = params["edit"]["changeAnnotations"].values()
    assert annotation["needsConfirmation"] is True and "line 1" in annotation["label"]
    assert buffer.text == SAMPLE.replace("def add", "def plus")
    kinds = [m["params"]["value"]["kind"] for m in editor.seen if m.get("method") == "$/progress"]
    assert kinds.count("begin") == kinds.count("end") == 2


async def test_plain_clients_get_plain_edits(editor: Editor, worker: ScriptedWorker) -> None:
    """No annotations where the client would ignore them; CRLF stays CRLF."""
    await editor.start({"workspace": {"applyEdit": True}})
    buffer = editor.open(SAMPLE.replace("\n", "\r\n"))
    worker.response = " @@ -1,2 +1,3 @@\n def add(a, b):\n+    # sums\n     return a + b\n"
    await editor.edit(buffer, "Comment", 0, 15)
    params = await editor.outcome()
    assert "changeAnnotations" not in params["edit"] and "annotationId" not in str(params)
    assert buffer.text == SAMPLE.replace("b):\n", "b):\n    # sums\n", 1).replace("\n", "\r\n")


@pytest.mark.parametrize(
    "changes",
    [
        [("import os", "import os\nimport re")],
        [("the end", "the end of it")],
        [("import os", "import os\nimport re"), ("the end", "the end of it")],
    ],
)
async def test_an_edit_is_carried_over_to_a_text_that_changed_elsewhere(
    editor: Editor, worker: ScriptedWorker, changes: list[tuple[str, str]]
) -> None:
    """Above it, below it, or on both sides: with the version of the new text."""
    await editor.start()
    text = f"import os\n\n\n\n{SAMPLE}\n\n\n\n# the end\n"
    buffer = editor.open(text)
    worker.response = RENAMED.replace("-1,2 +1,2", "-5,2 +5,2")
    worker.gate = threading.Event()
    await editor.edit(buffer, "Rename")
    await asyncio.to_thread(worker.started.wait, 10)
    for old, new in changes:
        start = buffer.text.index(old)
        editor.type(buffer, start, new, end=start + len(old))
    expected, version = buffer.text.replace("def add", "def plus"), buffer.version
    worker.gate.set()
    (change,) = (await editor.outcome())["edit"]["documentChanges"]
    assert change["textDocument"]["version"] == version and buffer.text == expected


@pytest.mark.parametrize(("old", "new"), [("def add", "def sum"), ("return a + b", "return b + a"), (SAMPLE, "")])
async def test_a_document_that_changed_where_the_edit_is_about_is_left_alone(
    editor: Editor, worker: ScriptedWorker, old: str, new: str
) -> None:
    """The edit is refused and the user told; nothing is applied."""
    await editor.start()
    buffer = editor.open(SAMPLE)
    worker.response, worker.gate = RENAMED, threading.Event()
    await editor.edit(buffer, "Rename")
    await asyncio.to_thread(worker.started.wait, 10)
    start = buffer.text.index(old)
    editor.type(buffer, start, new, end=start + len(old))
    expected = buffer.text
    worker.gate.set()
    assert "changed at the place of the edit" in (await editor.outcome())["message"]
    assert buffer.text == expected


TWO_WAYS = [RENAMED, RENAMED.replace("plus", "total")]


async def test_the_last_edit_can_be_replaced_by_the_next_best(editor: Editor, worker: ScriptedWorker) -> None:
    """By an action that is offered while the edit stands as it was made; after the last one comes the first again."""
    await editor.start()
    buffer = editor.open(SAMPLE)
    worker.response = TWO_WAYS
    await editor.edit(buffer, "Rename", 0, 15)
    await editor.outcome()
    here = {"start": buffer.position(0), "end": buffer.position(0)}
    params = {"textDocument": {"uri": buffer.uri}, "range": here, "context": {"diagnostics": []}}
    seen = [buffer.text]
    for _ in range(2):
        (action,) = [a for a in await editor.call("textDocument/codeAction", params) if "another version" in a["title"]]
        await editor.call("workspace/executeCommand", {key: action["command"][key] for key in ("command", "arguments")})
        await editor.outcome()
        seen.append(buffer.text)
    assert set(seen) == {SAMPLE.replace("def add", "def plus"), SAMPLE.replace("def add", "def total")}
    assert seen[0] == seen[2] != seen[1]
    editor.type(buffer, 0, "# mine\n")
    assert not [a for a in await editor.call("textDocument/codeAction", params) if "another version" in a["title"]]
    arguments = [{"uri": buffer.uri}]
    await editor.call("workspace/executeCommand", {"command": "codeclippy.replaceLastEdit", "arguments": arguments})
    assert "no other edit" in (await editor.outcome())["message"]


@pytest.mark.parametrize("content", [True, False])
async def test_a_diff_is_shown_and_the_user_chooses(editor: Editor, worker: ScriptedWorker, content: bool) -> None:
    """As a document of ours where the client asks for such, as a file elsewhere; nothing happens before the choice."""
    workspace = {"applyEdit": True, **({"textDocumentContent": {}} if content else {})}
    result = await editor.start(
        {"workspace": workspace, "window": {"showDocument": {"support": True}}}, options={"edit": {"showDiff": True}}
    )
    offered = result["capabilities"].get("workspace", {}).get("textDocumentContent")
    assert (offered == {"schemes": ["codeclippy-diff"]}) == content
    buffer = editor.open(SAMPLE)
    worker.response, editor.choices = TWO_WAYS, ["Next", "Apply"]
    await editor.edit(buffer, "Rename", 0, 15)
    texts = []
    for number in (1, 2):
        uri = (await editor.until("window/showDocument"))["uri"]
        if content:
            texts.append((await editor.call("workspace/textDocumentContent", {"uri": uri}))["text"])
        else:
            texts.append(Path(url2pathname(urlparse(uri).path)).read_text(encoding="utf-8"))
        assert f"({number} of 2)" in (await editor.until("window/showMessageRequest"))["message"]
    await editor.outcome()
    assert buffer.text in {SAMPLE.replace("def add", "def plus"), SAMPLE.replace("def add", "def total")}
    name = "plus" if "plus" in buffer.text else "total"
    assert f"+def {name}(a, b):" in texts[1] and f"+def {name}(a, b):" not in texts[0]
    before, editor.choices = buffer.text, ["Discard"]
    worker.response = " @@ -1,2 +1,2 @@\n" + f"-def {name}(a, b):\n+def other(a, b):\n     return a + b\n"
    await editor.edit(buffer, "Rename", 0, 15)
    await editor.until("window/showDocument")
    await editor.until("window/showMessageRequest")
    await editor.complete(buffer, 0)
    assert buffer.text == before


async def test_a_new_file_is_written_only_into_an_empty_document(editor: Editor, worker: ScriptedWorker) -> None:
    """By a comment that says what it should be; nothing else is offered there."""
    await editor.start()
    buffer = editor.open("# clippy: a greeting\n\n")
    here = {"start": buffer.position(0), "end": buffer.position(0)}
    params = {"textDocument": {"uri": buffer.uri}, "range": here, "context": {"diagnostics": []}}
    (action,) = await editor.call("textDocument/codeAction", params)
    worker.response = " @@ -0,0 +1,1 @@\n+print('hello')\n"
    await editor.call("workspace/executeCommand", {key: action["command"][key] for key in ("command", "arguments")})
    await editor.outcome()
    assert "ADDFILE" in worker.prompts[-1] and "print('hello')\n" in buffer.text and "clippy" not in buffer.text
    blank = editor.open("x = 1\n\n\n\n", uri="file:///blank.py")
    worker.response = " @@ -1,2 +1,3 @@\n \n+y = 2\n \n"
    await editor.edit(blank, "Add y", 6, 8)
    await editor.outcome()
    assert "ADDFILE" not in worker.prompts[-1] and "y = 2" in blank.text


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (RuntimeError("a fault"), "RuntimeError"),
        (" @@ -1,1 +1,1 @@\n-def add(a, b):\n+def add(a, b):\n", "proposed no change; select fewer"),
    ],
)
async def test_an_edit_that_fails_says_why(editor: Editor, worker: ScriptedWorker, says: Any, reason: str) -> None:
    """One message, nothing applied; if the model is to blame, with what to try."""
    await editor.start()
    buffer = editor.open(SAMPLE)
    worker.response = says
    await editor.edit(buffer, "Fix the bug")
    message = (await editor.outcome())["message"]
    assert message.startswith("Code Clippy: no edit:") and reason in message
    assert buffer.text == SAMPLE


async def test_a_refused_edit_is_reported(editor: Editor, worker: ScriptedWorker) -> None:
    """The client's ``applied: false`` with its reason."""
    await editor.start()
    editor.accept_edits = False
    buffer = editor.open(SAMPLE)
    worker.response = RENAMED
    await editor.edit(buffer, "Rename", 0, 15)
    await editor.until("workspace/applyEdit")
    assert "the user said no" in (await editor.outcome())["message"]


async def test_presets_and_comment_markers_are_code_actions(editor: Editor, worker: ScriptedWorker) -> None:
    """With a command for every client; the marker's line goes with the edit it asked for."""
    await editor.start()
    text = SAMPLE.replace("    return 2 * x\n", "    # clippy: rename twice to double\n    return 2 * x\n")
    buffer = editor.open(text)
    place = buffer.position(text.index("# clippy"))
    context: dict[str, Any] = {"diagnostics": []}
    params = {"textDocument": {"uri": buffer.uri}, "range": {"start": place, "end": place}, "context": context}
    actions = await editor.call("textDocument/codeAction", params)
    titles = [action["title"] for action in actions]
    assert titles[0] == "Code Clippy: rename twice to double" and "Code Clippy: Add a docstring" in titles
    context["only"] = ["source.organizeImports"]
    assert await editor.call("textDocument/codeAction", params) == []
    worker.response = " @@ -1,2 +1,2 @@\n-def twice(x):\n+def double(x):\n     return 2 * x\n"
    command = actions[0]["command"]
    await editor.call("workspace/executeCommand", {"command": command["command"], "arguments": command["arguments"]})
    await editor.outcome()
    assert buffer.text == SAMPLE.replace("twice", "double")
    assert "clippy:" not in worker.prompts[-1] and "rename twice to double" in worker.prompts[-1]


async def test_resolve_is_offered_to_clients_that_announce_it(editor: Editor) -> None:
    """It brings the command, never an edit, which clients would apply without looking at the version."""
    result = await editor.start(ANNOTATING)
    assert result["capabilities"]["codeActionProvider"]["resolveProvider"] is True
    await editor.until("window/workDoneProgress/create")
    buffer = editor.open(SAMPLE)
    here = {"start": buffer.position(0), "end": buffer.position(0)}
    actions = await editor.call(
        "textDocument/codeAction", {"textDocument": {"uri": buffer.uri}, "range": here, "context": {"diagnostics": []}}
    )
    assert all("command" not in action for action in actions)
    resolved = await editor.call("codeAction/resolve", actions[0])
    assert resolved["command"]["command"] == "codeclippy.edit" and "edit" not in resolved


async def test_progress_can_be_cancelled(editor: Editor, worker: ScriptedWorker) -> None:
    """Nothing is applied and nothing said: the user knows."""
    await editor.start(ANNOTATING)
    await editor.until("window/workDoneProgress/create")
    buffer = editor.open(SAMPLE)
    worker.response, worker.gate = RENAMED, threading.Event()
    await editor.edit(buffer, "Rename")
    token = (await editor.until("window/workDoneProgress/create"))["token"]
    await asyncio.to_thread(worker.started.wait, 10)
    editor.notify("window/workDoneProgress/cancel", {"token": token})
    ended = await editor.until(
        "$/progress", lambda m: m["params"]["token"] == token and m["params"]["value"]["kind"] == "end"
    )
    assert ended and buffer.text == SAMPLE
    worker.gate.set()
    await editor.complete(buffer, 0)


async def test_while_the_model_loads_answers_are_empty_and_incomplete(editor: Editor, worker: ScriptedWorker) -> None:
    """And a failed load is one message with the fix, after which the command tries again."""
    worker.load_error = "the folder /nowhere holds no weights"
    await editor.start(ready=False)
    buffer = editor.open("x = \n")
    result = await editor.call("textDocument/completion", editor.at(buffer, 4))
    assert result == {"isIncomplete": True, "items": []}
    message = await editor.until("window/showMessage")
    assert "holds no weights" in message["message"] and "codeclippy.reloadModel" in message["message"]
    assert await editor.complete(buffer, 4) == []
    worker.load_error = ""
    await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel", "arguments": []})
    await editor.until("codeclippy/status", lambda m: m["params"]["state"] == "ready")
    assert len(await editor.complete(buffer, 4)) == 1


async def test_settings_by_initialization_by_push_and_by_pull(editor: Editor, worker: ScriptedWorker) -> None:
    """Bad values are named once; a workspace cannot choose what is loaded."""
    await editor.start({"workspace": {"configuration": True}}, {"completion": {"maxTokens": "many"}})
    assert '"completion.maxTokens"' in (await editor.until("window/showMessage"))["message"]
    buffer = editor.open("x = \n")
    editor.notify("workspace/didChangeConfiguration", {"settings": {"python": {"path": "x"}}})
    editor.notify(
        "workspace/didChangeConfiguration",
        {"settings": {"codeclippy": {"completion": {"enabled": False}, "model": {"completion": "/evil"}}}},
    )
    assert "cannot be changed like this by a workspace" in (await editor.until("window/showMessage"))["message"]
    assert await editor.complete(buffer, 4) == []
    editor.configuration = {"completion": {"enabled": True}}
    editor.notify("workspace/didChangeConfiguration", {"settings": None})
    await editor.until("workspace/configuration")
    await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel"})
    assert len(await editor.complete(buffer, 4)) == 1


async def test_client_that_separates_settings_can_loosen_its_own(editor: Editor, worker: ScriptedWorker) -> None:
    """The user's settings change both ways while the server runs, a workspace's only tighten them."""
    tree = {"completion": {"enabled": False}}
    await editor.start(options={"separateSettings": True, **tree, "workspace": {"completion": {"enabled": True}}})
    assert '"completion.enabled" cannot be changed' in (await editor.until("window/showMessage"))["message"]
    buffer = editor.open("x = \n")
    for options, is_shown in (
        ({**tree, "workspace": {}}, False),
        ({"completion": {"enabled": True}, "workspace": {}}, True),
        ({"completion": {"enabled": True}, "workspace": tree}, False),
        ({"completion": {"enabled": True}}, True),
        ({"completion": {"enabled": False}, "workspace": {"completion": {"enabled": True}}}, False),
    ):
        editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": options}})
        assert bool(await editor.complete(buffer, 4)) is is_shown, options
    assert '"completion.enabled" cannot be changed' in (await editor.until("window/showMessage"))["message"]


async def test_client_that_merges_settings_can_only_tighten(editor: Editor, worker: ScriptedWorker) -> None:
    """Its changes may be a workspace's, also if they say of themselves that they are not."""
    await editor.start(options={"completion": {"enabled": False}})
    buffer = editor.open("x = \n")
    for options in (
        {"completion": {"enabled": True}},
        {"separateSettings": True, "completion": {"enabled": True}},
        {"workspace": {"completion": {"enabled": True}}, "completion": {"enabled": True}},
    ):
        editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": options}})
        assert await editor.complete(buffer, 4) == []
    said = [(await editor.until("window/showMessage"))["message"] for _ in range(2)]
    assert "only by your own settings" in said[0] and "unknown setting" in said[1]


EXCLUDED = [
    ({"disabledPaths": ["*.ENV", "*/private/*"]}, "file:///work/Prod.env"),
    ({"disabledPaths": ["*/private/*"]}, "file:///work/private/a.py"),
    ({"disabledPaths": ["a b.py"]}, "vscode-notebook-cell:///work/a%20b.py#W1"),
    ({"disabledLanguages": ["python"]}, "file:///work/a.py"),
]


@pytest.mark.parametrize(("completion", "uri"), EXCLUDED)
async def test_excluded_file_is_shown_nowhere(
    editor: Editor, worker: ScriptedWorker, completion: dict[str, Any], uri: str
) -> None:
    """Not for a suggestion, not beside another file and not in an edit, whatever the workspace says."""
    await editor.start(options={"completion": {**completion, "debounce": False, "prefetch": False}})
    lifted: dict[str, list[str]] = {name: [] for name in completion}
    editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": {"completion": lifted}}})
    text = "def area_of_circle(radius):\n    return 'hunter2' * radius\n"
    excluded = editor.open(text, uri)
    assert await editor.complete(excluded, len(text)) == [] and await editor.ghost(excluded, len(text)) == []
    actions = await editor.call(
        "textDocument/codeAction",
        {
            "textDocument": {"uri": uri},
            "range": {"start": excluded.position(0), "end": excluded.position(len(text))},
            "context": {"diagnostics": []},
        },
    )
    assert actions == []
    await editor.edit(excluded, "add a docstring")
    assert "is excluded by the setting" in (await editor.outcome())["message"]
    other = editor.open("from shapes import area_of_circle\n\ntotal = \n", "file:///work/main.rb", language="ruby")
    await editor.ghost(other, 42)
    assert "total" in worker.prompts[-1] and all("hunter2" not in prompt for prompt in worker.prompts)


# Faults of documents and of the wire.


async def test_second_initialized_notification_opens_no_second_engine(editor: Editor, server: Server) -> None:
    """The first one's thread would run on, and nobody would close it."""
    await editor.start()
    first = server.session.assistant
    editor.notify("initialized", {})
    await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel"})
    assert server.session.assistant is first


async def test_documents_that_are_not_open_are_never_read(editor: Editor, worker: ScriptedWorker) -> None:
    """Whatever their scheme: empty answers, no disk, no engine."""
    await editor.start()
    for uri in ("file:///etc/passwd", "git:/x.py", "untitled:1", "http://localhost/x"):
        position = {"textDocument": {"uri": uri}, "position": {"line": 0, "character": 0}}
        assert (await editor.call("textDocument/completion", position))["items"] == []
        result = await editor.call("textDocument/inlineCompletion", {**position, "context": {"triggerKind": 1}})
        assert result["items"] == []
    assert not worker.prompts


async def test_a_bad_change_loses_the_document_until_it_is_opened_again(editor: Editor, worker: ScriptedWorker) -> None:
    """One notice, empty answers, and a reopen heals it."""
    await editor.start()
    buffer = editor.open("x = \n")
    for bad in (
        {"range": {"start": {"line": 1, "character": 0}, "end": {"line": 0, "character": 0}}, "text": "y"},
        {"range": "nonsense", "text": "y"},
    ):
        editor.notify(
            "textDocument/didChange", {"textDocument": {"uri": buffer.uri, "version": 2}, "contentChanges": [bad]}
        )
    assert "out of step" in (await editor.until("window/showMessage"))["message"]
    assert await editor.complete(buffer, 4) == []
    editor.open("x = \n", buffer.uri)
    assert len(await editor.complete(buffer, 4)) == 1


async def test_every_bad_message_has_its_answer(editor: Editor) -> None:
    """An error with the right code, by id if there is one, and the next request is served."""

    async def error(message: Any) -> int:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        editor.send_raw(b"content-length: %d\r\nContent-Type: x\r\n\r\n%s" % (len(body), body))
        code: int = (await editor.until("error"))["error"]["code"]
        return code

    async def refused(method: str, params: Any = None) -> int:
        with pytest.raises(ServerError) as caught:
            await editor.call(method, params)
        return caught.value.code

    assert await refused("textDocument/completion", {}) == -32002
    assert await refused("initialize", {"capabilities": {"general": 7}, "processId": None}) == -32602
    await editor.start()
    assert await refused("initialize", {"capabilities": {}, "processId": None}) == -32600
    assert await error(b"{nonsense") == -32700
    assert await error(b"\xff\xfe") == -32700
    assert await error(b"[" * 100_000) == -32700
    assert await error([{"jsonrpc": "2.0", "id": 1, "method": "x"}]) == -32600
    assert await error(7) == -32600
    assert await error({"jsonrpc": "2.0", "id": [1], "method": "shutdown"}) == -32600
    assert await refused("textDocument/completion", {"textDocument": 5}) == -32602
    assert await refused("textDocument/hover", {}) == -32601
    assert await refused("$/unknown") == -32601
    assert await refused("workspace/executeCommand", {"command": "codeclippy.nothing"}) == -32602
    assert await refused("workspace/executeCommand", {"command": "codeclippy.edit", "arguments": ["x"]}) == -32602
    buffer = editor.open("x = \n")
    editor.notify("$/unknown", {})
    editor.notify("workspace/didChangeConfiguration", 7)
    editor.send({"jsonrpc": "2.0", "id": "never-asked", "result": {}})
    assert len(await editor.complete(buffer, 4)) == 1
    await editor.call("shutdown")
    assert await refused("textDocument/completion", editor.at(buffer, 4)) == -32600
    editor.notify("exit")
    assert await editor.exit_code == 0  # type: ignore[attr-defined]
    editor.check()


@pytest.mark.parametrize("wrong", ["0", True, 0.5, None, [0], {}, "", 1e300])
async def test_wrong_primitive_types_are_refused(editor: Editor, wrong: Any) -> None:
    """As params of a request: -32602. In a change: the document is desynced, since the text is unknown."""
    await editor.start()
    buffer = editor.open("x = \n")
    place = {"textDocument": {"uri": buffer.uri}, "position": {"line": 0, "character": 4}}
    for params in (
        {**place, "position": {"line": wrong, "character": 4}},
        {**place, "position": {"line": 0, "character": wrong}},
        {**place, "textDocument": {"uri": wrong}} if not isinstance(wrong, str) else {**place, "position": wrong},
    ):
        with pytest.raises(ServerError) as caught:
            await editor.call("textDocument/completion", params)
        assert caught.value.code == -32602
    assert await editor.complete(buffer, 4)
    change = {"range": {"start": {"line": wrong, "character": 0}, "end": {"line": 0, "character": 0}}, "text": "y"}
    editor.notify("textDocument/didChange", {"textDocument": buffer.identifier, "contentChanges": [change]})
    assert "out of step" in (await editor.until("window/showMessage"))["message"]
    assert await editor.complete(buffer, 4) == []


async def test_storm_of_unknown_settings_is_a_few_messages(editor: Editor, caplog: pytest.LogCaptureFixture) -> None:
    """2,501 of them; all are in the log, each once."""
    await editor.start()
    for number in range(100):
        options = {"completion": {f"key{number}x{at}": 1 for at in range(25)}, "nonsense": 1}
        editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": options}})
    buffer = editor.open("x = \n")
    assert await editor.complete(buffer, 4)
    shown = [(await editor.until("window/showMessage"))["message"] for _ in range(3)]
    assert all(message.count("unknown setting") == 3 for message in shown)
    assert "and 23 more, which are in the log" in shown[0]
    assert sum("unknown setting" in record.message for record in caplog.records) == 2501


@pytest.mark.parametrize("empty", [[], None, "", {}])
async def test_empty_settings_are_silence(editor: Editor, empty: Any) -> None:
    """Whatever a client writes for an empty table; the laws of the session find any message."""
    await editor.start({}, {"completion": empty, "model": empty, "edit": empty})
    for settings in (empty, {"codeclippy": empty}, {"codeclippy": {"completion": empty}}):
        editor.notify("workspace/didChangeConfiguration", {"settings": settings})
    buffer = editor.open("x = \n")
    assert await editor.complete(buffer, 4)


async def test_a_handler_that_fails_is_one_short_error(editor: Editor, server: Server) -> None:
    """Without a path, also where a library would end the process, or the result is no JSON; the next one is served."""
    await editor.start()
    buffer = editor.open("x = \n")
    session, circle = server.session, dict[str, Any]()
    right = session.suggest
    circle["circle"] = circle

    async def fails(error: BaseException) -> Any:
        raise error

    async def refused(method: str, params: Any) -> None:
        with pytest.raises(ServerError) as caught:
            await editor.call(method, params)
        assert caught.value.code == -32603 and "/" not in caught.value.message and len(caught.value.message) < 100

    for error in (ValueError("/home/user/secret.py"), SystemExit(0), MemoryError()):
        session.suggest = lambda *_, error=error, **__: fails(error)  # type: ignore[method-assign]
        await refused("textDocument/completion", editor.at(buffer, 4))
    session.suggest = right  # type: ignore[method-assign]
    for result in (circle, {"share": float("nan")}):
        session.assistant.metrics.to_json = lambda result=result: result  # type: ignore[method-assign, misc]
        await refused("workspace/executeCommand", {"command": "codeclippy.showMetrics", "arguments": [{"quiet": True}]})
    assert len(await editor.complete(buffer, 4)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 99999999999\r\n\r\n",
        b"X: y\r\n\r\n",
        b"x" * 5000,
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    ],
)
async def test_streams_that_are_no_frames_end_the_session(worker: ScriptedWorker, raw: bytes) -> None:
    """With exit code 1, rather than waiting for ever or reading on out of step."""
    async with in_process(Server(engine=worker.open)) as session:
        session.send_raw(raw)
        assert await asyncio.wait_for(session.exit_code, TIMEOUT) == 1  # type: ignore[attr-defined]


async def test_exit_without_shutdown_is_code_one(worker: ScriptedWorker) -> None:
    """As the protocol has it."""
    async with in_process(Server(engine=worker.open)) as session:
        await session.start()
        session.notify("exit")
        assert await session.exit_code == 1  # type: ignore[attr-defined]


async def test_lone_surrogates_break_no_answer(editor: Editor, worker: ScriptedWorker) -> None:
    """Neither in the text that came in nor in what goes out."""
    await editor.start()
    buffer = editor.open("x = '?' + y\n")
    buffer.text = buffer.text.replace("?", "\ud800")
    editor.notify(
        "textDocument/didChange",
        {"textDocument": {"uri": buffer.uri, "version": 2}, "contentChanges": [{"text": buffer.text}]},
    )
    worker.response = "z + w\ufffd"
    assert len((await editor.complete(buffer, 11))[0]["textEdit"]["newText"]) == 6


async def test_huge_files_get_one_notice(editor: Editor, worker: ScriptedWorker) -> None:
    """Ten megabytes in one line: the text is followed, no inference, and the user is told once."""
    await editor.start()
    buffer = editor.open("é" + "x" * 10_000_000)
    for _ in range(3):
        editor.type(buffer, 5, "y")
        assert await editor.ghost(buffer, 6) == [] and await editor.complete(buffer, 6) == []
    assert "files above 4096 kB" in (await editor.until("window/showMessage"))["message"]
    assert not worker.prompts


async def test_changes_leave_nothing_behind(worker: ScriptedWorker) -> None:
    """Two thousand changes, and no future is kept for any of them."""
    server = Server(engine=worker.open)
    async with in_process(server) as editor:
        await editor.start()
        buffer = editor.open("x = \n")
        for _ in range(2000):
            editor.type(buffer, 4, "y")
        await editor.complete(buffer, 4)
        assert len(server.protocol._request_futures) < 10


async def test_a_comment_behind_code_asks_for_an_edit(editor: Editor, worker: ScriptedWorker) -> None:
    """It is a code action, and the model sees the line with its code; a text that only looks like one is none."""
    await editor.start({"workspace": {"workspaceEdit": {"documentChanges": True}}})
    buffer = editor.open("def f():\n    return 1  # clippy: return two\n\n\ns = '# clippy: no'\n")

    async def list_titles(offset: int) -> list[str]:
        position = buffer.position(offset)
        at = {"textDocument": {"uri": buffer.uri}, "range": {"start": position, "end": position}}
        actions = await editor.call("textDocument/codeAction", {**at, "context": {"diagnostics": []}})
        return [action["title"] for action in actions]

    assert "Code Clippy: return two" in await list_titles(20)
    assert not any("no" in title for title in await list_titles(len(buffer.text) - 4))
    worker.response = " @@ -1,2 +1,2 @@\n def f():\n-    return 1  # clippy: return two\n+    return 2\n"
    await editor.edit(buffer, "", 20, 20)
    await editor.outcome()
    assert worker.prompts[-1].startswith(" sample.py\n def f():\n    return 1  # clippy: return two\n return two\n")
    assert buffer.text.startswith("def f():\n    return 2\n\n")
