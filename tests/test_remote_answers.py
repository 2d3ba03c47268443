"""Answers of services in raw bytes, in the forms that they are known to send: their ends, errors, reasoning, fences."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.settings import Settings
from codeclippy_ls.text import Document
from tests.services import DONE, event, json_response, response_head, run_stub
from tests.test_remote import BEFORE, answer_bytes, complete, make_settings, open_assistant

pytest.importorskip("httpx2", reason="needs Python 3.11 or newer")

AFTER = BEFORE.replace("h):\n", "h):\n    assert w\n")
DIFF = "@@ -1,2 +1,3 @@\n def area(w, h):\n+    assert w\n     return w * h\n"


def chunk(content: str | None, finish: str | None = None, **fields: Any) -> bytes:
    """Return an event with a piece of text, in the chat interface."""
    delta = {"content": content, **fields}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\n\n".encode()


async def edit_with(*parts: bytes) -> Proposal | Refusal:
    """Ask for an edit of a service that answers with these bytes after its head."""
    async with (
        run_stub(answer_bytes(response_head(), *parts)) as service,
        open_assistant(make_settings(service.url, edit="helper-instruct")) as assistant,
    ):
        return await assistant.edit(Document("file:///a.py", BEFORE), "check w")


@pytest.mark.parametrize("open_end", ["", "null"])
@pytest.mark.parametrize("end", [DONE, event("", finish="stop") + DONE])
async def test_suggestion_goes_on_while_its_reason_to_finish_is_empty(open_end: str, end: bytes) -> None:
    pieces = [event(piece, finish=open_end) for piece in ("width", " * ", "height")]
    async with (
        run_stub(answer_bytes(response_head(), *pieces, end)) as service,
        open_assistant(make_settings(service.url)) as assistant,
    ):
        await assistant.load()
        assert await complete(assistant) == ["width * height"]


@pytest.mark.parametrize("open_end", [None, "", "null"])
@pytest.mark.parametrize("end", [DONE, chunk("", "stop"), chunk("", "stop") + DONE])
async def test_edit_goes_on_while_its_reason_to_finish_is_empty(open_end: str | None, end: bytes) -> None:
    """The last hunk has no line end, so that it counts only if the answer ended well."""
    edit = await edit_with(*(chunk(char, open_end) for char in DIFF.rstrip()), end)
    assert isinstance(edit, Proposal) and edit.after == AFTER, edit


async def test_edit_that_fills_its_tokens_is_cut_off_even_if_the_service_says_done() -> None:
    """By the service's count of its tokens, or by ours of its events: half a hunk is never proposed."""
    half = "@@ -1,2 +1,3 @@\n def area(w, h):\n+    # half"
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 100000}}\n\n'
    for parts in ((chunk(half), usage), tuple(map(chunk, "#" * Settings().edit.max_tokens + "\n" + half))):
        edit = await edit_with(*parts, DONE)
        assert isinstance(edit, Refusal) and re.search("length budget|cut off", edit.reason), edit


async def test_stream_that_breaks_off_after_its_text_is_an_error() -> None:
    """Neither a reason to finish nor the service's sign of the end came."""
    edit = await edit_with(chunk(DIFF, ""))
    assert isinstance(edit, Refusal) and "in the middle" in edit.reason, edit


ERRORS = {
    "object": {"error": {"message": "the GPU is on fire", "type": "server_error", "code": 500}},
    "text": {"error": "the GPU is on fire"},
    "vllm": {"object": "error", "message": "the GPU is on fire", "type": "BadRequestError", "code": 400},
    "detail": {"object": "error", "detail": [{"msg": "the GPU is on fire"}]},
    "empty": {"error": {}, "object": "error", "message": "the GPU is on fire"},
}


@pytest.mark.parametrize("form", ERRORS)
@pytest.mark.parametrize("way", ["json", "stream", "late", "line"])
async def test_error_inside_an_answer_is_quoted(form: str, way: str) -> None:
    """With status 200: as the whole answer, as an event, after some text, and in llama.cpp's old field of events."""
    error = json.dumps(ERRORS[form]).encode()
    answer = {
        "json": json_response(ERRORS[form]),
        "stream": response_head() + b"data: " + error + b"\n\n" + DONE,
        "late": response_head() + event("width") + b"data: " + error + b"\n\n",
        "line": response_head() + b"error: " + error + b"\n\n",
    }[way]
    async with (
        run_stub(answer_bytes(answer)) as service,
        open_assistant(make_settings(service.url)) as assistant,
    ):
        await assistant.load()
        with pytest.raises(EngineError, match="the GPU is on fire") as raised:
            await complete(assistant)
        assert service.url in str(raised.value)


async def test_error_inside_an_answer_repeats_neither_key_nor_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "sk-0123456789")
    code = "def area(width, height):\n    return "
    for message in ("bad key sk-0123456789", f"cannot parse {code}"):
        for answer in (json_response({"error": message}), response_head() + b'data: {"error": %s}\n\n'):
            answer = answer.replace(b"%s", json.dumps(message).encode())
            async with (
                run_stub(answer_bytes(answer)) as service,
                open_assistant(make_settings(service.url, endpointKeyVariable="SERVICE_KEY")) as assistant,
            ):
                await assistant.load()
                with pytest.raises(EngineError, match="reports an error") as raised:
                    await complete(assistant, code)
                assert "sk-" not in str(raised.value) and "area" not in str(raised.value)


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found"])
async def test_list_that_is_refused_does_not_matter_if_the_model_is_named(status: str) -> None:
    """Some services let a key generate but not list. Without a name, the error says why there is no model."""
    answer = answer_bytes(response_head(), event("width", finish="stop"), DONE)
    async with run_stub(answer) as service:
        service.models = json_response({"error": "no listing"}, status)
        async with open_assistant(make_settings(service.url, completion="qwen2.5-coder-7b")) as assistant:
            await assistant.load()
            assert await complete(assistant) == ["width"]
        async with open_assistant(make_settings(service.url)) as assistant:
            with pytest.raises(EngineError, match="no listing"):
                await assistant.load()
