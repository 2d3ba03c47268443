"""Suggestions through a fake editor: what is asked, what is remembered, what comes ahead of time, what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.server.server import Server
from tests.editor import TIMEOUT, Editor, ServerError
from tests.scripted import ScriptedWorker

QUIET = {"completion": {"prefetch": False, "debounce": False}}
BY_TYPING, BY_KEY = 2, 1


async def until_asked(worker: ScriptedWorker, count: int) -> None:
    """Wait until the engine has had this number of requests."""
    deadline = time.monotonic() + TIMEOUT
    while len(worker.prompts) < count:
        assert time.monotonic() < deadline, f"{len(worker.prompts)} requests, not {count}"
        await asyncio.sleep(0.01)


async def test_a_suggestion_takes_the_place_of_brackets_it_brings_along(editor: Editor, worker: ScriptedWorker) -> None:
    """Those that the editor closed are not doubled, in ghost text and in the list."""
    await editor.start(options=QUIET)
    worker.response = "path):\n"
    for ask in ("ghost", "list"):
        buffer = editor.open("if exists()\n", f"file:///work/{ask}.py")
        if ask == "ghost":
            (item,) = await editor.ghost(buffer, 10)
            edit = {"range": item["range"], "newText": item["insertText"]}
        else:
            (item,) = await editor.complete(buffer, 10)
            edit = item["textEdit"]
        assert edit["range"]["end"] == buffer.position(11)
        buffer.apply([edit])
        assert buffer.text == "if exists(path):\n"


async def test_nothing_by_itself_behind_a_finished_statement(editor: Editor, worker: ScriptedWorker) -> None:
    """But by key."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = f(1)\n")
    worker.response = " + 1"
    assert await editor.ghost(buffer, 8, BY_TYPING) == [] and not worker.prompts
    assert len(await editor.ghost(buffer, 8, BY_KEY)) == 1


async def test_several_candidates_by_key_the_likeliest_first_each_once(editor: Editor, worker: ScriptedWorker) -> None:
    """What is equal after the clean-up is one; what is empty after it is none."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = \n")
    worker.response = ["a + b", "c", "a + b  ", ""]
    for items in (await editor.ghost(buffer, 4, BY_KEY), await editor.complete(buffer, 4)):
        assert [item.get("insertText", item.get("filterText")) for item in items] == ["c", "a + b"]


async def test_an_empty_line_is_given_several_lines_by_key(editor: Editor, worker: ScriptedWorker) -> None:
    """While typing only a block that was just opened is."""
    await editor.start(options=QUIET)
    buffer = editor.open("def f(a):\n    b = a\n    \n")
    worker.response = "c = a + b\n    return c"
    cursor = len(buffer.text) - 1
    assert [item["insertText"] for item in await editor.ghost(buffer, cursor, BY_TYPING)] == ["c = a + b"]
    editor.type(buffer, 0, "\n")
    assert [item["insertText"] for item in await editor.ghost(buffer, cursor + 1, BY_KEY)] == [worker.response]


async def test_a_line_like_the_next_is_shown_by_key_if_it_was_begun(editor: Editor, worker: ScriptedWorker) -> None:
    """On an empty line it is the model's repetition of the file."""
    await editor.start(options=QUIET)
    buffer = editor.open("send(\nsend(a, b)\n\nsend(a, b)\n")
    worker.response = "a, b)"
    assert [item["insertText"] for item in await editor.ghost(buffer, 5, BY_KEY)] == ["a, b)"]
    worker.response = "send(a, b)"
    assert await editor.ghost(buffer, 17, BY_KEY) == []


async def test_a_licence_head_of_many_comments_costs_nothing(editor: Editor, worker: ScriptedWorker) -> None:
    """It once took a pattern hours, past cancel and shutdown."""
    await editor.start(options=QUIET)
    text = ";;; a.el --- A package -*- lexical-binding: t -*-\n\n" + ";; This file is free software; and so on.\n" * 34
    buffer = editor.open(text + "\n", "file:///work/a.el", language="emacs-lisp")
    worker.response = "(require 'cl-lib)"
    items = await editor.ghost(buffer, len(text), BY_TYPING)
    assert [item["insertText"] for item in items] == [worker.response]
    editor.type(buffer, len(text), ";")
    request = editor.request(
        "textDocument/inlineCompletion", {**editor.at(buffer, len(text)), "context": {"triggerKind": BY_KEY}}
    )
    editor.notify("$/cancelRequest", {"id": request.request_id})  # type: ignore[attr-defined]
    with contextlib.suppress(ServerError):
        await request


async def test_a_suggestion_is_there_when_the_cursor_comes_back(editor: Editor, worker: ScriptedWorker) -> None:
    """And when what was typed in the meantime is deleted again."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = \ny = \n")
    worker.response = "one"
    await editor.ghost(buffer, 4, BY_TYPING)
    worker.response = "two"
    await editor.ghost(buffer, 9, BY_TYPING)
    assert (await editor.ghost(buffer, 4, BY_TYPING))[0]["insertText"] == "one"
    editor.type(buffer, 4, "z")
    editor.type(buffer, 4, "", end=5)
    assert (await editor.ghost(buffer, 4, BY_TYPING))[0]["insertText"] == "one"
    assert len(worker.prompts) == 2


async def test_what_follows_is_made_ahead(editor: Editor, worker: ScriptedWorker) -> None:
    """Once a suggestion is accepted and Enter is pressed, the next one is there without another request."""
    await editor.start(options={"completion": {"debounce": False}})
    buffer = editor.open("def f():\n    x = \n")
    worker.response = lambda prompt: "g(1)" if prompt.endswith("x = ") else "return x"
    (item,) = await editor.ghost(buffer, 17, BY_TYPING)
    await until_asked(worker, 2)
    await asyncio.sleep(0.05)
    cursor = editor.type(buffer, 17, item["insertText"])
    cursor = editor.type(buffer, cursor, "\n    ")
    asked = len(worker.prompts)
    assert (await editor.ghost(buffer, cursor, BY_TYPING))[0]["insertText"] == "return x"
    assert worker.prompts[1].endswith("    x = g(1)\n    ") and len(worker.prompts) <= asked + 1


async def test_what_follows_is_made_once_however_much_is_typed_through(editor: Editor, worker: ScriptedWorker) -> None:
    """Also where nothing comes of it: a key costs the engine nothing."""
    await editor.start(options={"completion": {"debounce": False}})
    buffer = editor.open("x = \n")
    worker.response = lambda prompt: "value" if prompt.endswith("x = ") else ""
    assert await editor.ghost(buffer, 4, BY_TYPING)
    cursor = 4
    for key in "val":
        cursor = editor.type(buffer, cursor, key)
        assert await editor.ghost(buffer, cursor, BY_TYPING)
        await asyncio.sleep(0.03)
    assert len(worker.prompts) == 2


async def test_nothing_is_asked_of_a_service_ahead(editor: Editor, worker: ScriptedWorker) -> None:
    """Its time is somebody else's."""
    await editor.start(options={"model": {"endpoint": "http://127.0.0.1:9/v1"}, "completion": {"debounce": False}})
    buffer = editor.open("x = \n")
    assert await editor.ghost(buffer, 4, BY_TYPING)
    await asyncio.sleep(0.1)
    assert len(worker.prompts) == 1


async def test_a_key_overtakes_what_waits_for_a_pause(server: Server, editor: Editor, worker: ScriptedWorker) -> None:
    """Where answers come later than keys, a request that is overtaken costs the engine nothing."""
    await editor.start(options={"completion": {"prefetch": False}})
    buffer = editor.open("x = \n")
    debounce = server.session.assistant._suggester._debounce
    cursor = 4
    for _ in range(6):
        cursor = editor.type(buffer, cursor, "a")
        await asyncio.sleep(0.03)
    for _ in range(20):
        debounce.record_latency(2.0)
    cursor = editor.type(buffer, cursor, "b")
    waiting = editor.request(
        "textDocument/inlineCompletion", {**editor.at(buffer, cursor), "context": {"triggerKind": BY_TYPING}}
    )
    await asyncio.sleep(0.005)
    cursor = editor.type(buffer, cursor, "c")
    answer = await asyncio.wait_for(waiting, TIMEOUT)
    assert not (answer and answer["items"]) and not worker.prompts
    assert await editor.ghost(buffer, cursor, BY_TYPING) and len(worker.prompts) == 1


@pytest.mark.parametrize(
    ("options", "uri"),
    [
        ({"disabledLanguages": ["python"]}, "file:///work/a.py"),
        ({"disabledPaths": ["*/vendor/*"]}, "file:///vendor/a.py"),
        ({"minConfidence": 0.99}, "file:///work/a.py"),
    ],
)
async def test_switches(editor: Editor, worker: ScriptedWorker, options: dict[str, Any], uri: str) -> None:
    """For a language, for a path, for what the model is not sure of."""
    await editor.start(options={"completion": {"prefetch": False, **options}})
    buffer = editor.open("x = \n", uri)
    assert await editor.ghost(buffer, 4, BY_TYPING) == []


async def test_what_the_model_is_not_sure_of_stays_hidden_until_it_is_asked_for(
    editor: Editor, worker: ScriptedWorker
) -> None:
    """It is not shown automatically the second time either; by key it does, and then it stays while it is typed."""
    await editor.start(options={"completion": {"prefetch": False, "debounce": False, "minConfidence": 0.99}})
    buffer = editor.open("x = \n")
    for _ in range(2):
        assert await editor.ghost(buffer, 4, BY_TYPING) == []
    assert len(await editor.ghost(buffer, 4, BY_KEY)) == 1
    cursor = editor.type(buffer, 4, "va")
    assert (await editor.ghost(buffer, cursor, BY_TYPING))[0]["insertText"] == "lue"


HELPERS = "def area_of_circle(radius):\n    return 3 * radius ** 2\n"


async def test_passages_of_other_files_that_are_open(editor: Editor, worker: ScriptedWorker) -> None:
    """As comments with their path; nothing of files that hold secrets, nothing once they are closed or it is off."""
    await editor.start(options=QUIET)
    other = editor.open(HELPERS, "file:///work/lib/shapes.py")
    editor.open("area_of_circle = 'hunter2'\ndef area_of_circle(): pass\n", "file:///work/.env")
    buffer = editor.open("from lib.shapes import area_of_circle\n\ntotal = \n", "file:///work/main.py")
    await editor.ghost(buffer, 47)
    assert "# Path: lib/shapes.py\n# def area_of_circle(radius):\n" in worker.prompts[-1]
    assert "hunter2" not in worker.prompts[-1]
    editor.notify("textDocument/didClose", {"textDocument": {"uri": other.uri}})
    await editor.ghost(buffer, 47)
    assert "Path:" not in worker.prompts[-1]
    editor.notify(
        "workspace/didChangeConfiguration",
        {"settings": {"codeclippy": {"completion": {**QUIET["completion"], "context": "off"}}}},
    )
    editor.open(HELPERS, "file:///work/lib/shapes.py")
    await editor.ghost(buffer, 47)
    assert "Path:" not in worker.prompts[-1]


async def test_what_became_of_suggestions_is_counted(editor: Editor, worker: ScriptedWorker) -> None:
    """Told by a command, as a message and as figures."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = \n")
    worker.response = "value"
    (item,) = await editor.ghost(buffer, 4)
    command = item["command"]
    editor.type(buffer, 4, "value")
    await editor.call("workspace/executeCommand", {"command": command["command"], "arguments": command["arguments"]})
    found = await editor.call("workspace/executeCommand", {"command": "codeclippy.showMetrics", "arguments": []})
    said = await editor.until("window/showMessage")
    assert (found["shown"], found["accepted"], found["charactersSaved"]) == (1, 1, 5)
    assert "1 accepted" in said["message"] and found["answerMilliseconds"]["p50"] >= 0
    with pytest.raises(ServerError):
        await editor.call("workspace/executeCommand", {"command": "codeclippy.didAcceptSuggestion", "arguments": [1]})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".env", True),
        (".env.local", True),
        ("prod.env", True),
        ("key.pem", True),
        ("ID_RSA", True),
        ("id_rsa.pub", True),
        ("terraform.tfvars", True),
        (".npmrc", True),
        ("environment.py", False),
        ("keys.py", False),
        ("a.py", False),
    ],
)
def test_files_that_hold_secrets(name: str, expected: bool) -> None:
    """By their names."""
    assert is_secret_uri(f"file:///home/a%20b/{name}") is expected
