"""Answers of services in raw bytes, in the forms that they are known to send: their ends, errors, reasoning, fences."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.diffs.reasoning import remove_reasoning
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


DRAFT = DIFF.replace("assert w", "assert draft")
FENCED = f"```diff\n{DIFF}```\n"
SECOND = "@@ -4,2 +5,2 @@\n \n-print(area(1, 2))\n+print(area(3, 4))\n"
BOTH = AFTER.replace("(1, 2)", "(3, 4)")


@pytest.mark.parametrize("opening", ["<think>\n", "<thinking>", "[THINK]", ""])
@pytest.mark.parametrize("draft", [f"```diff\n{DRAFT}```\nNo.\n", DRAFT + "\n", "Is it w < h?\n"])
@pytest.mark.parametrize("answer", [DIFF, FENCED])
async def test_draft_in_reasoning_is_not_applied(opening: str, draft: str, answer: str) -> None:
    """Templates write the opening tag themselves, so that the answer begins inside the reasoning."""
    closing = opening.strip().replace("<", "</").replace("[", "[/") or "</think>"
    edit = await edit_with(*map(chunk, (f"{opening}I should check w.\n", draft, f"Yes.{closing}\n\n", answer)), DONE)
    assert isinstance(edit, Proposal) and edit.after == AFTER, edit


@pytest.mark.parametrize("end", [DONE, chunk("", "length"), chunk("", "stop")])
async def test_reasoning_without_an_answer_is_refused(end: bytes) -> None:
    edit = await edit_with(chunk(f"<think>\nPerhaps:\n```diff\n{DRAFT}```\nOr not.\n"), end)
    assert isinstance(edit, Refusal) and "edit.maxTokens" in edit.reason, edit


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
async def test_reasoning_in_a_field_of_its_own_is_not_applied(name: str) -> None:
    for content in ("", None):
        edit = await edit_with(chunk(content, **{name: f"```diff\n{DRAFT}```\n"}), chunk(FENCED), DONE)
        assert isinstance(edit, Proposal) and edit.after == AFTER, edit
    edit = await edit_with(chunk(None, **{name: f"```diff\n{DRAFT}```\n"}), chunk("", "length"))
    assert isinstance(edit, Refusal), edit


async def test_reasoning_in_parts_is_not_applied() -> None:
    """As Mistral's models send it."""
    thought: Any = [{"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]}]
    written: Any = [{"type": "text", "text": DIFF}]
    edit = await edit_with(chunk(thought), chunk(written), DONE)
    assert isinstance(edit, Proposal) and edit.after == AFTER, edit


def test_closing_tag_of_the_document_is_text() -> None:
    """In a line of the diff always; in one that lost its space if the document holds it and no reasoning was opened."""
    diff = "@@ -1,2 +1,3 @@\n a\n+</think>\n </think>\n"
    assert remove_reasoning(diff, "a\n</think>\n") == diff
    assert remove_reasoning(diff.replace("\n </", "\n</"), "a\n</think>\n") == diff.replace("\n </", "\n</")
    assert remove_reasoning("<think>\nx\n</think>" + diff, "a\n</think>\n") == diff
    assert remove_reasoning("x</think>" + diff, "a\n") == diff


@pytest.mark.parametrize("fence", ["```python\n", "```\n", "~~~\n"])
async def test_quoted_code_before_a_diff_does_not_end_the_answer(fence: str) -> None:
    quoted = f"You have:\n{fence}{BEFORE}{fence[:3]}\n\nChange it so:\n\n"
    for answer in (FENCED, DIFF, FENCED + "\n- checks w\n"):
        edit = await edit_with(chunk(quoted), *map(chunk, answer), chunk("", "stop"))
        assert isinstance(edit, Proposal) and edit.after == AFTER, edit


async def test_two_fenced_diffs_are_one_edit() -> None:
    """All of it, or a refusal if one of them cannot be placed; the same one again is no second edit."""
    second = f"\nAnd the call:\n\n```diff\n{SECOND}```\n"
    edit = await edit_with(*map(chunk, FENCED + second), chunk("", "stop"))
    assert isinstance(edit, Proposal) and edit.after == BOTH, edit
    for wrong in (
        second.replace("(1, 2)", "(7, 8)"),  # of another text
        second.replace("@@ -4,2 +5,2 @@\n", ""),  # without a header
        second.replace("@@ -4,2 +5,2 @@\n", "").replace("```diff", "```"),
        f"\nBetter:\n```diff\n{DRAFT}```\n",  # of the same lines
    ):
        edit = await edit_with(chunk(FENCED + wrong), chunk("", "stop"))
        assert isinstance(edit, Refusal), (wrong, edit)
    for again in (FENCED, f"\nIn full:\n{FENCED}" * 3, second + FENCED + second):
        edit = await edit_with(chunk(FENCED + again), chunk("", "stop"))
        assert isinstance(edit, Proposal) and edit.after == (BOTH if second in again else AFTER), edit
