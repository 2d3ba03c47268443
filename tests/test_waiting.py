"""Time limits of suggestions: by typing and by key, what is shown while a person waits, and what ends the waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from codeclippy_ls.inference.requests import FinishReason
from tests.editor import TIMEOUT, Buffer, Editor, ServerError
from tests.scripted import ScriptedWorker

QUIET: dict[str, Any] = {"completion": {"prefetch": False, "debounce": False}}
WITH_PROGRESS = {"window": {"workDoneProgress": True}}
BY_TYPING, BY_KEY = 2, 1


def ask(editor: Editor, buffer: Buffer, offset: int, **more: Any) -> Any:
    """Request ghost text by key; the future of the answer."""
    params = {**editor.at(buffer, offset), "context": {"triggerKind": BY_KEY}, **more}
    return editor.request("textDocument/inlineCompletion", params)


async def read_progress(editor: Editor, token: Any, kind: str) -> Any:
    """Wait for a progress notification of a kind."""
    return await editor.until(
        "$/progress", lambda m: m["params"]["token"] == token and m["params"]["value"]["kind"] == kind
    )


@pytest.mark.parametrize(("typing", "by_key"), [(600, 5.0), (9000, 9.0)])
async def test_a_request_by_key_has_a_time_limit_of_its_own(
    editor: Editor, worker: ScriptedWorker, typing: int, by_key: float
) -> None:
    """But never less than one by typing."""
    await editor.start(options={"completion": {**QUIET["completion"], "timeBudgetMs": typing}})
    buffer = editor.open("x = \n")
    await editor.ghost(buffer, 4, BY_TYPING)
    editor.type(buffer, 3, "")
    cursor = editor.type(buffer, 4, "1 + ")
    await editor.ghost(buffer, cursor, BY_KEY)
    assert [request.sampling.seconds for request in worker.requests] == [typing / 1000, by_key]


async def test_a_list_is_asked_for_by_key_if_nothing_was_typed(editor: Editor, worker: ScriptedWorker) -> None:
    """Editors call a list "invoked" after letters, too: they must not wait long for it."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = \n")
    await editor.complete(buffer, 4)
    cursor = editor.type(buffer, 4, "a + ")
    await editor.complete(buffer, cursor)
    assert [request.sampling.seconds for request in worker.requests] == [5.0, 0.6]


@pytest.mark.parametrize("own_token", [True, False])
async def test_progress_is_shown_to_a_person_who_waits(editor: Editor, worker: ScriptedWorker, own_token: bool) -> None:
    """By the request's own token if it has one, otherwise by one that the server creates."""
    await editor.start({} if own_token else WITH_PROGRESS, options=QUIET)
    if not own_token:
        await editor.until("window/workDoneProgress/create")  # of loading
    buffer = editor.open("x = \n")
    worker.gate = threading.Event()
    answer = ask(editor, buffer, 4, **({"workDoneToken": "mine"} if own_token else {}))
    token = "mine" if own_token else (await editor.until("window/workDoneProgress/create"))["token"]
    began = await read_progress(editor, token, "begin")
    assert began["value"]["cancellable"] and not answer.done()
    worker.gate.set()
    assert (await asyncio.wait_for(answer, TIMEOUT))["items"]
    await read_progress(editor, token, "end")


@pytest.mark.parametrize("how", ["key", "progress", "request"])
async def test_a_person_who_waits_is_free_to_go_on(editor: Editor, worker: ScriptedWorker, how: str) -> None:
    """A key, the progress bar's button and a cancelled request end the waiting and the progress."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = \n")
    worker.gate = threading.Event()
    answer = ask(editor, buffer, 4, workDoneToken=7)
    await read_progress(editor, 7, "begin")
    if how == "key":
        editor.type(buffer, 4, "y")
    elif how == "progress":
        editor.notify("window/workDoneProgress/cancel", {"token": 7})
    else:
        editor.notify("$/cancelRequest", {"id": answer.request_id})
    try:
        found = await asyncio.wait_for(answer, TIMEOUT)
        assert not (found and found["items"])
    except ServerError as error:
        assert how == "request" and error.code == -32800
    await read_progress(editor, 7, "end")
    worker.gate.set()


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "answer", "shown"),
    [
        ("def mean(values):\n    \n", "return sum(values) / len", ""),
        ("\n", "a, b = 0,", ""),
        ("x = \n", "row", ""),
        ("def f(n):\n    \n", "total = 0\n    for i in ran", "total = 0"),
        ("# \nx = 1\n", "the mean of the val", "the mean of the"),
    ],
)
async def test_text_that_the_time_limit_cut_ends_where_it_can_stand(
    editor: Editor, worker: ScriptedWorker, text: str, answer: str, shown: str
) -> None:
    """With a whole line, a statement, or in prose a word; otherwise nothing is shown."""
    await editor.start(options=QUIET)
    worker.response, worker.finish_reason = answer, FinishReason.TIME
    cursor = text.index("\n") if text.startswith(("#", "x")) else len(text) - 1
    items = await editor.ghost(editor.open(text), cursor, BY_TYPING)
    assert [item["insertText"] for item in items] == ([shown] if shown else [])


async def test_suggestion_whose_time_was_up_is_finished_in_the_background(
    editor: Editor, worker: ScriptedWorker
) -> None:
    """Without a time limit; then the client is told, and the next request has it at once."""
    await editor.start(options={"completion": {"debounce": False}})
    buffer = editor.open("def mean(values):\n    \n")

    def answer(prompt: str) -> str:
        first = len(worker.prompts) == 1
        worker.finish_reason = FinishReason.TIME if first else FinishReason.END
        return "return sum(values) / len" + ("" if first else "(values)")

    worker.response = answer
    assert await editor.ghost(buffer, 22, BY_TYPING) == []
    ready = await editor.until("codeclippy/suggestionReady")
    assert ready == {"uri": buffer.uri}
    assert [request.sampling.seconds for request in worker.requests[:2]] == [0.6, None]
    asked = len(worker.prompts)
    (item,) = await editor.ghost(buffer, 22, BY_TYPING)
    assert item["insertText"] == "return sum(values) / len(values)" and len(worker.prompts) <= asked + 1


async def test_text_around_the_cursor_is_read_ahead(editor: Editor, worker: ScriptedWorker) -> None:
    """When a short document opens, and where the cursor rests: what the client notifies, or asks code actions at."""
    await editor.start()
    buffer = editor.open("first = 1\nsecond = 2\n")
    await until(lambda: worker.read_prompts)
    assert worker.read_prompts[-1].endswith("second = 2\n")
    editor.notify("codeclippy/cursor", editor.at(buffer, 6))
    await until(lambda: worker.read_prompts[-1].endswith("first "))
    here = {"start": buffer.position(17), "end": buffer.position(17)}
    await editor.call(
        "textDocument/codeAction", {"textDocument": {"uri": buffer.uri}, "range": here, "context": {"diagnostics": []}}
    )
    await until(lambda: worker.read_prompts[-1].endswith("second "))
    assert not worker.prompts


async def test_place_of_the_cursor_is_read_once_the_model_is_loaded(editor: Editor, worker: ScriptedWorker) -> None:
    """Also if the client said where it is before."""
    worker.load_error = "not yet"
    await editor.start()
    await editor.until("window/showMessage")
    buffer = editor.open("x" * 5000 + " = 1\ny = 2\n")
    editor.notify("codeclippy/cursor", editor.at(buffer, 5007))
    worker.load_error = ""
    await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel", "arguments": []})
    await until(lambda: worker.read_prompts)
    assert worker.read_prompts[-1].endswith("\ny ")


@pytest.mark.parametrize(
    "options",
    [
        {"completion": {"prefetch": False}},
        {"completion": {"disabledLanguages": ["python"]}},
        {"model": {"endpoint": "http://127.0.0.1:9/v1"}},
    ],
)
async def test_nothing_is_read_ahead_where_the_settings_forbid_it(
    editor: Editor, worker: ScriptedWorker, options: dict[str, Any]
) -> None:
    """Switched off, for the language, or because the model is somebody else's."""
    await editor.start(options=options)
    buffer = editor.open("x = 1\n")
    editor.notify("codeclippy/cursor", editor.at(buffer, 4))
    await editor.call("textDocument/codeAction", {**editor_range(buffer), "context": {"diagnostics": []}})
    assert not worker.read_prompts


@pytest.mark.parametrize(
    "params", [None, {}, [], {"textDocument": 3, "position": 4}, {"textDocument": {"uri": "file:///x"}}]
)
async def test_bad_cursor_notification_is_ignored(editor: Editor, worker: ScriptedWorker, params: Any) -> None:
    """Whatever its form is."""
    await editor.start()
    editor.notify("codeclippy/cursor", params)
    assert await editor.ghost(editor.open("x = \n"), 4, BY_KEY)


def editor_range(buffer: Buffer) -> dict[str, Any]:
    """Return the parameters of a request about a buffer's start."""
    start = buffer.position(0)
    return {"textDocument": {"uri": buffer.uri}, "range": {"start": start, "end": start}}
