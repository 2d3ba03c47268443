"""Time limits of suggestions: by typing and by key, what is shown while a person waits, and what ends the waiting."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

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


async def test_a_request_by_key_has_a_time_limit_of_its_own(editor: Editor, worker: ScriptedWorker) -> None:
    """But never less than one by typing."""
    await editor.start(options=QUIET)
    buffer = editor.open("x = \n")
    await editor.ghost(buffer, 4, BY_TYPING)
    editor.type(buffer, 3, "")
    cursor = editor.type(buffer, 4, "1 + ")
    await editor.ghost(buffer, cursor, BY_KEY)
    assert [request.sampling.seconds for request in worker.requests] == [0.6, 5.0]
    editor.notify(
        "workspace/didChangeConfiguration", {"settings": {"codeclippy": {"completion": {"timeBudgetMs": 9000}}}}
    )
    await editor.ghost(buffer, 0, BY_KEY)
    assert worker.requests[-1].sampling.seconds == 9.0


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
