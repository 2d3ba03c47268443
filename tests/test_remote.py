"""The remote engine against a scripted service: requests, responses, and the error for each fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shutil
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.engines import open_engine
from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.errors import DocumentRefusedError, EngineError
from codeclippy_ls.inference.requests import FinishReason, Priority, Request
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.remote.endpoint import parse_endpoint, read_key
from codeclippy_ls.remote.engine import RemoteEngine
from codeclippy_ls.remote.models import select_model
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import Settings, Source, parse
from codeclippy_ls.text import Document
from tests.editor import TIMEOUT, in_process
from tests.services import DONE, MODELS, RecordedRequest, event, json_response, response_head, run_stub

pytest.importorskip("httpx2", reason="needs Python 3.11 or newer")

CODE = "def area(width, height):\n    return "
KEY = "sk-very-secret-0123456789"


def make_settings(url: str, **model: Any) -> Settings:
    """Make settings with an endpoint, and time for a busy machine."""
    completion = {"timeBudgetMs": 20000, "minConfidence": 0.0, "prefetch": False}
    settings, problems = parse(
        {"model": {"endpoint": url, **model}, "completion": completion, "edit": {"candidates": 1}}
    )
    assert not problems
    return settings


def make_diff_settings(url: str) -> Settings:
    """Make settings for a model that is to write diffs."""
    settings = make_settings(url, edit="helper")
    return replace(settings, edit=replace(settings.edit, format="diff"))


@asynccontextmanager
async def open_assistant(
    settings: Settings, statuses: list[tuple[str, ModelStatus]] | None = None, **options: Any
) -> AsyncIterator[Assistant]:
    """Open an assistant over a remote engine that does not pause after failures."""

    def on_status(model: str, status: ModelStatus) -> None:
        if statuses is not None:
            statuses.append((model, status))

    engine = RemoteEngine(settings.model, resolve_model_specs(settings), on_status, **{"pauses": (0.0,), **options})
    assistant = Assistant(engine, settings)
    try:
        yield assistant
    finally:
        await assistant.aclose()


def answer_text(*pieces: str, finish: str = "stop") -> Any:
    """Answer each request with these pieces of text."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(response_head() + b"".join(map(event, pieces)) + event("", finish=finish) + DONE)
        await writer.drain()

    return answer


def answer_bytes(*parts: bytes) -> Any:
    """Answer each request with these bytes, and close."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def answer_and_hang(*parts: bytes) -> Any:
    """Answer with these bytes, and keep the connection open without sending more."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await writer.drain()
        await asyncio.sleep(60)

    return answer


async def complete(assistant: Assistant, code: str = CODE, uri: str = "file:///a.py", **options: Any) -> list[str]:
    """Return the texts of the suggestions at the end of a document."""
    found = await assistant.complete(Document(uri, code, language="python"), len(code), **options)
    return [item.text for item in found.items]


# Requests.


async def test_fim_prompt_follows_the_familys_template() -> None:
    """The model's name tells the family; the first candidate is greedy, the others are sampled in a second call."""
    async with (
        run_stub(answer_text("width ", "* height")) as service,
        open_assistant(make_settings(service.url)) as assistant,
    ):
        await assistant.load()
        code = CODE + "\n\nprint(area(1, 2))\n"
        found = await assistant.complete(Document("file:///a.py", code, language="python"), len(CODE), candidates=3)
        assert [item.text for item in found.items] == ["width * height"]
        greedy, sampled = sorted((request.body for request in service.posts), key=lambda body: body["temperature"])
        assert greedy["prompt"] == (
            f"<|file_sep|>a.py\n<|fim_prefix|>{CODE}<|fim_suffix|>\n\nprint(area(1, 2))\n<|fim_middle|>"
        )
        assert (greedy["model"], greedy["temperature"], greedy["stream"]) == ("qwen2.5-coder-7b", 0.0, True)
        assert "n" not in greedy and (sampled["n"], sampled["temperature"]) == (2, 0.6)


async def test_service_can_make_the_fim_prompt() -> None:
    """`suffix` sends the text after the cursor in a field of its own; `none` does not send it."""
    for fim, suffix in (("suffix", "\n# end\n"), ("none", None)):
        async with (
            run_stub(answer_text("1")) as service,
            open_assistant(make_settings(service.url, endpointFim=fim)) as assistant,
        ):
            await assistant.load()
            await assistant.complete(Document("file:///", CODE + "\n# end\n"), len(CODE))
            body = service.posts[0].body
            assert (body["prompt"], body.get("suffix")) == (CODE, suffix)


async def test_vllm_is_asked_to_keep_control_tokens() -> None:
    """It omits them from the text otherwise, and our stops are control tokens; no other service knows the field."""
    for owner, spelled in (("vllm", False), ("llamacpp", None)):
        async with (
            run_stub(answer_text("width<|file_sep|>b.py")) as service,
            open_assistant(make_settings(service.url)) as assistant,
        ):
            service.models = json_response({"data": [{"id": "qwen2.5-coder-7b", "owned_by": owner}]})
            await assistant.load()
            assert await complete(assistant) == ["width"]
            body = service.posts[0].body
            assert body.get("skip_special_tokens") == spelled and "<|file_sep|>" in body["stop"]


async def test_key_is_sent_in_the_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages and logs contain neither the key, even if the service repeats it, nor code."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEAM_KEY", KEY)
    refused = json_response({"error": {"message": f"bad key {KEY}"}}, "401 Unauthorized")
    async with (
        run_stub(answer_bytes(refused)) as service,
        open_assistant(make_settings(service.url, endpointKeyVariable="TEAM_KEY")) as assistant,
    ):
        await assistant.load()
        with pytest.raises(EngineError) as raised:
            await complete(assistant)
        assert service.posts[0].headers["authorization"] == f"Bearer {KEY}"
    assert "does not accept the key" in str(raised.value)
    assert KEY not in str(raised.value) + caplog.text and "area" not in caplog.text


async def test_service_message_is_quoted_unless_it_repeats_the_code() -> None:
    """A validation error that contains its input is not shown, another one is."""
    for message, is_shown in (("the context is 4096 tokens long", True), (f"cannot read {CODE!r:.40}", False)):
        async with (
            run_stub(answer_bytes(json_response({"detail": message}, "422 Unprocessable"))) as service,
            open_assistant(make_settings(service.url)) as assistant,
        ):
            await assistant.load()
            with pytest.raises(EngineError) as raised:
                await complete(assistant)
            assert (message in str(raised.value)) == is_shown and "422" in str(raised.value)


@pytest.mark.parametrize("name", [".env", "server.pem", "id_ed25519", "prod.tfvars", "Secrets.yaml"])
async def test_secret_files_are_never_sent(name: str) -> None:
    """Neither for a suggestion nor for an edit; the message says why."""
    async with run_stub(answer_text("x")) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        with pytest.raises(EngineError, match="never leave this machine"):
            await complete(assistant, uri=f"file:///home/me/{name}")
        refused = await assistant.edit(Document(f"file:///home/me/{name}", "A=1\n"), "sort")
        assert isinstance(refused, Refusal) and "never leave this machine" in refused.reason
        assert not service.posts


async def test_snippets_are_sent_unless_secret_or_with_control_tokens() -> None:
    """Only if the setting "completion.context" is "open"."""
    text = "def area(width, height):\n    return width * height  # {}\n"
    others = [
        OpenFile("good.py", text.format("GOOD")),
        OpenFile("deep/.env", text.format("SECRET")),
        OpenFile("bad.py", text.format("BAD <|fim_suffix|>")),
    ]
    code = "from good import area\n\nx = area(width, height)\ny = "
    for context, is_sent in (("open", True), ("off", False)):
        async with run_stub(answer_text("1")) as service:
            settings = make_settings(service.url)
            settings = replace(settings, completion=replace(settings.completion, context=context))
            async with open_assistant(settings) as assistant:
                assistant._suggester.open_files = lambda uri: others
                await assistant.load()
                for other in others:  # each is the most relevant once
                    assistant._suggester.open_files = lambda uri, other=other: [other]  # type: ignore[misc]
                    await complete(assistant, code, uri=f"file:///{other.path.replace('/', '_')}.py")
                sent = "".join(request.body["prompt"] for request in service.posts)
                assert ("GOOD" in sent) == is_sent and "SECRET" not in sent and "BAD" not in sent


async def test_text_that_spells_a_control_token_is_not_sent() -> None:
    """A service would read it as one; the message names the token."""
    async with run_stub(answer_text("x")) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        with pytest.raises(EngineError, match=re.escape("contains <|fim_middle|>")):
            await complete(assistant, 'TOKEN = "<|fim_middle|>"\nx = ')
        assert not service.posts


async def test_control_tokens_are_asked_of_the_service() -> None:
    """llama.cpp's server tells its own beside the interface; it is asked once, with the list, and sent no text."""
    async with run_stub(answer_text("x")) as service, open_assistant(make_settings(service.url)) as assistant:
        service.models = json_response({"data": [{"id": "mine", "owned_by": "llamacpp"}]})
        service.properties = json_response({"bos_token": "{start}", "eos_token": "{end}", "chat_template": ""})
        await assistant.load()
        with pytest.raises(DocumentRefusedError, match=re.escape("contains {end}")):
            await complete(assistant, 'TOKEN = "{end}"\nx = ')
        assert [request.line.split()[1] for request in service.requests] == ["/v1/models", "/props"]


async def test_user_is_told_once_a_file_why_there_is_no_suggestion() -> None:
    """Whatever the token and however often; another file has its own message, which names it."""
    async with in_process(Server()) as editor, run_stub(answer_text("1")) as service:
        await editor.start(options={"model": {"endpoint": service.url}, "completion": {"timeBudgetMs": 20000}})
        for name, tokens in (("a.py", ("<|im_start|>", "</s>")), ("b.py", ("[INST]",))):
            buffer = editor.open("", f"file:///work/{name}")
            for token in tokens:
                end = editor.type(buffer, 0, f"x = '{token}'\ny = ", len(buffer.text))
                for _ in range(2):
                    assert await editor.ghost(buffer, end) == []
            message = (await editor.outcome())["message"]
            assert f"no suggestions in {name}" in message and tokens[0] in message
        assert not service.posts
        await editor.stop()


# Responses.


async def test_answer_that_repeats_the_begun_word_is_dropped() -> None:
    """No constraint makes the answer continue the word that was begun."""
    for answer, shown in (("retval = 1", []), ("urn 1", ["urn 1"])):
        async with run_stub(answer_text(answer)) as service, open_assistant(make_settings(service.url)) as assistant:
            await assistant.load()
            assert await complete(assistant, "def f():\n    ret") == shown


async def test_connection_is_closed_once_a_suggestion_is_done() -> None:
    """So the service sees that nobody waits any more."""
    pieces = (event("1\n"), event("def other():\n"), event("    pass\n"))
    async with (
        run_stub(answer_and_hang(response_head(), *pieces)) as service,
        open_assistant(make_settings(service.url)) as assistant,
    ):
        await assistant.load()
        assert await complete(assistant, CODE + "width * ") == ["1"]
        await wait_until(lambda: service.cut_off == 1)


async def test_cancelling_closes_the_connection() -> None:
    """The request is resolved at once."""
    async with (
        run_stub(answer_and_hang(response_head(), event("a"))) as service,
        open_assistant(make_settings(service.url)) as assistant,
    ):
        await assistant.load()
        waiting = asyncio.create_task(assistant.complete(Document("file:///a.py", CODE), len(CODE)))
        await wait_until(lambda: bool(service.posts))
        assistant.record_change("file:///a.py", None)
        assert (await waiting).items == ()
        await wait_until(lambda: service.cut_off == 1)


async def test_partial_text_is_shown_if_time_is_up() -> None:
    """As with every engine, up to the last whole word."""
    async with run_stub(answer_and_hang(response_head(), event("width + hei"))) as service:
        settings = make_settings(service.url)
        settings = replace(settings, completion=replace(settings.completion, time_budget_ms=1500))
        async with open_assistant(settings) as assistant:
            await assistant.load()
            found = await assistant.complete(Document("file:///a.py", CODE), len(CODE))
            assert [item.text for item in found.items] == ["width +"] and not found.complete


async def test_confidence_is_read_from_log_probabilities_in_either_form() -> None:
    """Lists of numbers, or llama.cpp's objects; without them the confidence is 1."""
    forms = (({"token_logprobs": [-0.5, -1.5]}, 0.3678), ({"content": [{"logprob": -1.0}]}, 0.3678), (None, 1.0))
    for logprobs, confidence in forms:
        answer = answer_bytes(response_head() + event("width", logprobs=logprobs) + event("", finish="stop") + DONE)
        async with run_stub(answer) as service, open_assistant(make_settings(service.url)) as assistant:
            await assistant.load()
            found = await assistant.complete(Document("file:///a.py", CODE), len(CODE))
            assert found.items[0].confidence == pytest.approx(confidence, abs=1e-3)


async def test_services_that_do_not_stream_or_that_know_fewer_fields() -> None:
    """An answer in one piece is read; fields that are refused are omitted from then on."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        extra = {"n", "logprobs", "stop"} & set(request.body)
        writer.write(
            json_response({"detail": f"Unexpected fields: {extra}"}, "422 Unprocessable")
            if extra
            else json_response({"choices": [{"index": 0, "text": "width", "finish_reason": "stop"}]})
        )
        await writer.drain()

    async with run_stub(answer) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        assert await complete(assistant) == ["width"]
        assert await complete(assistant, "x = 1\n" + CODE) == ["width"]
        assert len(service.posts) == 3


# Edits.

BEFORE = "def area(w, h):\n    return w * h\n\n\nprint(area(1, 2))\n"
DIFF = '```diff\n@@ -7,9 +1 @@\n def area(w, h):\n+    """The area."""\n     return w * h\n```\n'


def answer_chat(*pieces: str) -> Any:
    """Answer each request with these pieces, in the chat interface."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        assert request.line.startswith("POST /v1/chat/completions")
        chunk = b'data: {"choices":[{"index":0,"delta":{"content":%s}}]}\n\n'
        parts = [chunk % json.dumps(piece).encode() for piece in pieces]
        writer.write(
            response_head()
            + b"".join(parts)
            + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
            + DONE
        )
        await writer.drain()

    return answer


@pytest.mark.parametrize(
    ("owner", "extra"),
    [("llamacpp", {}), ("vllm", {"continue_final_message": True, "add_generation_prompt": False}), ("somebody", None)],
)
async def test_lines_are_written_anew_by_chat(owner: str, extra: dict[str, bool] | None) -> None:
    """The answer is begun if the service can go on from there, and its fence ends it; else it has a fence of its own.

    Whatever the service does, prose is never taken for code.
    """
    code = 'def area(w, h):\n    """The area."""\n    return w * h\n'
    begun = code + "```\nThis documents it.\n```sh\nls\n"
    whole = f"Sure:\n\n```python\n{code}```\nRun it:\n```sh\npython a.py\n```\n"
    document = Document("file:///a.py", BEFORE, language="python")
    for answer in (begun, whole) if extra is not None else (whole,):
        async with run_stub(answer_chat(*re.findall(r".{1,7}", answer, re.DOTALL))) as service:
            settings = make_settings(service.url, edit="helper")
            service.models = json_response({"data": [{"id": "helper", "owned_by": owner}]})
            async with open_assistant(settings) as assistant:
                await assistant.load()
                edit = await assistant.edit(document, "document it", (0, 0))
                assert isinstance(edit, Proposal), edit
                assert edit.after == BEFORE.replace("h):\n", 'h):\n    """The area."""\n')
        (post,) = service.posts
        asked, *begins = post.body["messages"]
        assert asked == {
            "role": "user",
            "content": "```python\ndef area(w, h):\n    return w * h\n```\n\ndocument it",
        }
        assert begins == (
            [] if extra is None else [{"role": "assistant", "content": "Here is the updated code:\n\n```python\n"}]
        )
        assert all(post.body[key] is value for key, value in (extra or {}).items())
        assert post.body["max_tokens"] > 400 and "grammar" not in post.body
    for prose in ("You can document it yourself.", "Sure:\n```python\n" + code):
        async with (
            run_stub(answer_chat(prose)) as service,
            open_assistant(make_settings(service.url, edit="helper-instruct")) as assistant,
        ):
            await assistant.load()
            edit = await assistant.edit(document, "document it", (0, 0))
            assert isinstance(edit, Refusal) and "no whole block of code" in edit.reason, edit


async def test_diff_from_chat_is_placed_by_its_text() -> None:
    """Wrong line numbers and fences do not matter; the comment with the message is removed with the edit."""
    async with (
        run_stub(answer_chat(*DIFF)) as service,
        open_assistant(make_settings(service.url, edit="helper-instruct")) as assistant,
    ):
        document = Document("file:///a.py", "# clippy: document\n" + BEFORE, language="python")
        shown: list[str] = []
        edit = await assistant.edit(document, "", (0, 5), shown.append)
        assert isinstance(edit, Proposal), edit
        assert edit.after == BEFORE.replace("h):\n", 'h):\n    """The area."""\n')
        assert "".join(shown).startswith("```diff")
        message = service.posts[0].body["messages"][0]["content"]
        assert "document" in message and "def area" in message and "clippy" not in message


@pytest.mark.parametrize(("owner", "has_grammar"), [("llamacpp", True), ("vllm", True), ("somebody", False)])
async def test_edit_is_sent_with_a_grammar_if_the_service_supports_it(owner: str, has_grammar: bool) -> None:
    """In the service's own field; a suggestion never is."""
    diff = "@@ -1 +1 @@\n def area(w, h):\n+    assert w\n"
    async with (
        run_stub(answer_chat(diff)) as service,
        open_assistant(make_diff_settings(service.url)) as assistant,
    ):
        service.models = json_response({"data": [{"id": "helper", "owned_by": owner}]})
        await assistant.load()
        edit = await assistant.edit(Document("file:///a.py", BEFORE), "check w")
        assert isinstance(edit, Proposal) and edit.after == BEFORE.replace("h):\n", "h):\n    assert w\n"), edit
        (body,) = (post.body for post in service.posts)
        found = body.get("grammar") if owner == "llamacpp" else body.get("structured_outputs", {}).get("grammar")
        assert bool(found) is has_grammar and ("def area" in str(found)) is has_grammar
        assert ("grammar" in body) is (owner == "llamacpp")


async def test_edit_is_sent_without_grammar_if_the_service_refuses_it() -> None:
    """The fields of suggestions stay."""
    chat_answer = answer_chat("@@ -1 +1 @@\n def area(w, h):\n+    assert w\n")

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        if "grammar" in request.body:
            writer.write(json_response({"error": {"message": "Failed to parse grammar"}}, "400 Bad Request"))
            await writer.drain()
        elif "messages" in request.body:
            await chat_answer(request, writer)
        else:
            await answer_text("width")(request, writer)

    async with run_stub(answer) as service, open_assistant(make_diff_settings(service.url)) as assistant:
        service.models = json_response({"data": [{"id": "helper", "owned_by": "llamacpp"}]})
        await assistant.load()
        for _ in range(2):
            assert isinstance(await assistant.edit(Document("file:///a.py", BEFORE), "check w"), Proposal)
        assert await complete(assistant) == ["width"]
        have_grammar = ["grammar" in post.body for post in service.posts]
        assert have_grammar == [True, False, False, False] and "logprobs" in service.posts[-1].body


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("I would rather not.", "refused"),
        ("```diff\n@@ -1 +1 @@\n-def nowhere():\n+def there():\n```", "refused"),
        ("", "no change"),
    ],
)
async def test_answer_that_is_not_a_diff_of_the_text_is_refused(written: str, reason: str) -> None:
    """With the diff parser's reason."""
    async with (
        run_stub(answer_chat(written)) as service,
        open_assistant(make_settings(service.url, edit="helper-instruct")) as assistant,
    ):
        edit = await assistant.edit(Document("file:///a.py", BEFORE), "document")
        assert isinstance(edit, Refusal) and reason in edit.reason, edit


@pytest.mark.parametrize("end", [b"", b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"abort"}]}\n\n'])
async def test_candidate_that_was_cut_off_is_not_a_diff(end: bytes) -> None:
    """Even if another one is complete: half a hunk is never proposed."""
    half = "```diff\n@@ -1,2 +1,3 @@\n def area(w, h):\n+    # half\n"

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        if "n" in request.body:
            chunk = {"choices": [{"index": 1, "delta": {"content": half}}]}
            writer.write(
                response_head()
                + f"data: {json.dumps(chunk)}\n\n".encode()
                + end
                + b'data: {"choices":[{"index":0,"delta":{"content":"no"},"finish_reason":"stop"}]}\n\n'
            )
            await writer.drain()
        else:
            await answer_chat(DIFF)(request, writer)

    async with run_stub(answer) as service:
        settings = make_settings(service.url, edit="helper-instruct")
        settings = replace(settings, edit=replace(settings.edit, candidates=3))
        async with open_assistant(settings) as assistant:
            edit = await assistant.edit(Document("file:///a.py", BEFORE), "document")
            assert isinstance(edit, Proposal) and edit.alternatives == () and "half" not in edit.after


async def test_completion_model_offers_no_edits() -> None:
    """Nor is the shipped model expected at the endpoint."""
    async with (
        run_stub(answer_text("x")) as service,
        open_assistant(make_settings(service.url, family="causal")) as assistant,
    ):
        await assistant.load()
        assert not assistant.supports_edits()
        edit = await assistant.edit(Document("file:///a.py", BEFORE), "document")
        assert isinstance(edit, Refusal) and "not known to make edits" in edit.reason
        assert not service.posts


async def test_edit_is_retried_once_and_a_keystroke_is_not() -> None:
    """After the service was busy for a moment."""

    def failing_once() -> Any:
        failed: list[RecordedRequest] = []

        async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
            if not failed:
                failed.append(request)
                writer.write(json_response({"error": "busy"}, "429 Too Many", "Retry-After: 0\r\n"))
            else:
                await answer_chat(DIFF)(request, writer)
            await writer.drain()

        return answer

    async with (
        run_stub(failing_once()) as service,
        open_assistant(make_settings(service.url, edit="helper-instruct")) as assistant,
    ):
        assert isinstance(await assistant.edit(Document("file:///a.py", BEFORE), "document"), Proposal)
        assert len(service.posts) == 2
    async with run_stub(failing_once()) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        with pytest.raises(EngineError, match="busy"):
            await complete(assistant)
        assert len(service.posts) == 1


# Faults.

FAULTS: dict[str, tuple[Any, str]] = {
    "401": (answer_bytes(json_response({"error": "no"}, "401 Unauthorized")), "it wants a key"),
    "403": (answer_bytes(json_response({}, "403 Forbidden")), "refuses"),
    "404": (answer_bytes(json_response({"error": {"message": "no model x"}}, "404 Not Found")), "no model x"),
    "429": (answer_bytes(json_response({}, "429 Too Many", "Retry-After: 0\r\n")), "busy"),
    "500": (answer_bytes(json_response({"error": "out of memory"}, "500 Internal")), "out of memory"),
    "503 in HTML": (answer_bytes(response_head("503 Unavailable", "text/html"), b"<html>proxy</html>"), "busy"),
    "redirect": (answer_bytes(response_head("302 Found", headers="Location: http://192.0.2.1/\r\n")), "redirects"),
    "HTML": (answer_bytes(response_head(content_type="text/html"), b"<html>login</html>"), "answers with text/html"),
    "no type": (answer_bytes(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"), "no content type"),
    "no HTTP": (answer_bytes(b"SSH-2.0-OpenSSH_9.6\r\n"), "closed the connection"),
    "no answer": (answer_bytes(), "closed the connection"),
    "truncated": (answer_bytes(response_head(), event("wid")), "in the middle"),
    "truncated event": (answer_bytes(response_head(), event("wid")[:-9]), "in the middle"),
    "empty": (answer_bytes(response_head(), DONE), "in the middle"),
    "no JSON": (answer_bytes(response_head(), b"data: {nonsense\n\n"), "not JSON"),
    "deep JSON": (answer_bytes(response_head(), b"data: " + b"[" * 100_000 + b"\n\n"), "not JSON"),
    "other JSON": (answer_bytes(response_head(), b"data: [1]\n\n"), "unexpected form"),
    "other choices": (answer_bytes(response_head(), b'data: {"choices": [{"text": 7}]}\n\n'), "unexpected form"),
    "error inside": (answer_bytes(response_head(), event("w"), b'data: {"error": "cuda"}\n\n'), "reports an error"),
    "no UTF-8": (answer_bytes(response_head(), b"data: \xff\xfe\n\n"), "not UTF-8"),
    "no events": (answer_bytes(response_head(), b"once upon a time\n"), "something other"),
    "endless line": (answer_bytes(response_head(), b"data: " + b"x" * (2 << 20)), "more than"),
    "compressed": (answer_bytes(response_head(headers="Content-Encoding: gzip\r\n"), b"\x1f\x8b"), "compressed"),
    "hangs": (answer_and_hang(), "nothing for"),
    "hangs inside": (answer_and_hang(response_head(), event("w")), "nothing for"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_one_clear_error_and_the_engine_recovers(fault: str) -> None:
    """The next request is answered, and nobody had to restart anything."""
    answer, message = FAULTS[fault]
    async with run_stub(answer) as service, open_assistant(make_settings(service.url), read_timeout=0.5) as assistant:
        await assistant.load()
        with pytest.raises(EngineError) as raised:
            await complete(assistant)
        assert message in str(raised.value) and service.url in str(raised.value)
        service.answer = answer_text("width")
        assert await complete(assistant) == ["width"]
        assert assistant.status(ModelRole.COMPLETE).state is ModelState.READY


async def test_endless_answer_is_cut_off() -> None:
    """By the number of events, since the task is never done."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(response_head())
        while True:
            writer.write(b": ping\n\n" + event("") * 50)
            await writer.drain()

    async with run_stub(answer) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        with pytest.raises(EngineError, match="more than"):
            await complete(assistant)


async def test_service_that_dies_and_comes_back() -> None:
    """In the middle of an answer, then for a while; the models fail with the reason, and are ready again afterwards."""
    statuses: list[tuple[str, ModelStatus]] = []
    async with run_stub(answer_and_hang(response_head(), event("w"))) as service:
        settings, port = make_settings(service.url), service.port
        async with open_assistant(settings, statuses) as assistant:
            await assistant.load()
            waiting = asyncio.create_task(complete(assistant))
            await wait_until(lambda: bool(service.posts))
            service.drop()
            with pytest.raises(EngineError, match=r"closed the (connection|stream)"):
                await waiting
    async with open_assistant(settings, statuses) as assistant:
        with pytest.raises(EngineError, match=r"cannot be reached \(.+\); is the service running"):
            await assistant.load()
        assert assistant.status(ModelRole.COMPLETE).state is ModelState.FAILED
        async with run_stub(answer_text("width"), port) as service:
            assert await complete(assistant) == ["width"]
            assert assistant.status(ModelRole.COMPLETE).state is ModelState.READY
    states = [status.state for model, status in statuses if model == ModelRole.COMPLETE]
    assert states == [ModelState.LOADING, ModelState.READY, ModelState.LOADING, ModelState.FAILED, ModelState.READY]


async def test_keystrokes_pause_after_failures() -> None:
    """They are refused without the service; an edit is sent all the same."""
    async with run_stub(answer_bytes(json_response({}, "500 Internal"))) as service:
        settings = make_settings(service.url, edit="helper-instruct")
        async with open_assistant(settings, pauses=(0.0, 60.0)) as assistant:
            await assistant.load()
            for _ in range(4):
                with pytest.raises(EngineError, match="failed"):
                    await complete(assistant)
            assert len(service.posts) == 2
            service.answer = answer_chat(DIFF)
            assert isinstance(await assistant.edit(Document("file:///a.py", BEFORE), "document"), Proposal)
            service.answer = answer_text("width")
            assert await complete(assistant) == ["width"]


async def test_model_status_says_why_listing_failed() -> None:
    """An empty list, a list that cannot be parsed, a list that is refused."""
    for models, message in (
        (json_response({"data": []}), "lists no model"),
        (response_head(content_type="text/html") + b"<p>", "not JSON"),
        (json_response({}, "401 Unauthorized"), "wants a key"),
    ):
        async with run_stub(answer_text("x")) as service, open_assistant(make_settings(service.url)) as assistant:
            service.models = models
            with pytest.raises(EngineError, match=message):
                await assistant.load()
            assert message in assistant.status(ModelRole.EDIT).reason


async def test_request_on_a_stale_connection_is_sent_again() -> None:
    """A service may close a kept connection just when the next request is sent."""
    answered: list[bool] = []
    serving: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        first = True
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0] or 0))
                if not first:
                    answered.append(False)
                    break
                first = False
                found = MODELS if line.startswith(b"GET") else {"choices": [{"text": "width", "finish_reason": "stop"}]}
                body = json.dumps(found).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body
                )
                answered.append(True)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with open_assistant(make_settings(f"http://127.0.0.1:{port}/v1")) as assistant:
        await assistant.load()
        assert await complete(assistant) == ["width"]
    assert answered == [True, False, True]
    server.close()
    await asyncio.gather(*serving)


async def test_service_without_a_list_works_if_the_model_is_named() -> None:
    """Without a name in the settings, the error says that there is no list."""
    async with run_stub(answer_text("width")) as service:
        service.models = json_response({"detail": "no list"}, "500 Internal")
        async with open_assistant(make_settings(service.url, completion="org/starcoder2-3b")) as assistant:
            await assistant.load()
            assert await complete(assistant) == ["width"]
            assert service.posts[0].body["model"] == "org/starcoder2-3b"
        async with open_assistant(make_settings(service.url)) as assistant:
            with pytest.raises(EngineError, match="no list"):
                await assistant.load()


async def test_newer_request_supersedes_and_closing_answers_every_request() -> None:
    """As with every engine."""
    async with (
        run_stub(answer_and_hang(response_head())) as service,
        open_assistant(make_settings(service.url)) as assistant,
    ):
        await assistant.load()
        requests = [
            asyncio.create_task(assistant.complete(Document("file:///a.py", CODE), len(CODE))) for _ in range(2)
        ]
        generation = (await requests[0]).generation
        assert generation is not None and generation.finish_reason is FinishReason.SUPERSEDED
        await assistant.aclose()
        generation = (await requests[1]).generation
        assert generation is not None and generation.finish_reason is FinishReason.CANCELLED
        handle = assistant._engine.submit(Request(None, model=ModelRole.COMPLETE), Priority.EDIT)  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="closed"):
            await handle.result()


async def wait_until(condition: Any) -> None:
    """Wait for a condition on this loop."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.01)


# The whole server.


async def test_editor_session_over_a_service() -> None:
    """Suggestions, an edit, a secret file, and a service that goes and comes back: each is shown once."""

    async def answer(request: RecordedRequest, writer: asyncio.StreamWriter) -> None:
        await (answer_chat(DIFF) if "messages" in request.body else answer_text("width * height"))(request, writer)

    async with in_process(Server()) as editor:
        async with run_stub(answer) as service:
            options = {
                "model": {"endpoint": service.url, "edit": "helper-instruct"},
                "completion": {"timeBudgetMs": 20000, "prefetch": False},
                "edit": {"candidates": 1},
            }
            await editor.start(options=options)
            code = editor.open(CODE)
            assert [item["insertText"] for item in await editor.ghost(code, len(CODE))] == ["width * height"]
            whole_file = editor.open(BEFORE, "file:///work/b.py")
            await editor.edit(whole_file, "document")
            assert "edit" in await editor.outcome()
            assert whole_file.text == BEFORE.replace("h):\n", 'h):\n    """The area."""\n')
            secret = editor.open("TOKEN=\n", "file:///work/.env")
            for _ in range(2):
                assert await editor.ghost(secret, 6) == []
            assert "never leave this machine" in (await editor.outcome())["message"]
            port = service.port
        end = editor.type(code, len(CODE), "1 + ")
        for _ in range(2):
            assert await editor.ghost(code, end) == []
        assert "cannot be reached" in (await editor.outcome())["message"]
        await editor.until("codeclippy/status", lambda m: m["params"]["state"] == "failed")
        async with run_stub(answer, port):
            for _ in range(100):
                if items := await editor.ghost(code, end):
                    break
                await asyncio.sleep(0.1)
            assert [item["insertText"] for item in items] == ["width * height"]
            await editor.stop()


# Endpoints and keys.


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.8.9.1:80/api/", "http://127.8.9.1:80/api"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1"),
        ("HTTP://LocalHost", "http://localhost/v1"),
        (" http://127.0.0.1 ", "http://127.0.0.1/v1"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[0:0:0:0:0:0:0:1]/v1"),
        ("http://127.0.0.1//elsewhere.example/", "http://127.0.0.1//elsewhere.example"),
        ("https://models.example.org", "https://models.example.org/v1"),
    ],
)
def test_endpoint_is_parsed(url: str, expected: str) -> None:
    """https anywhere, http on this machine."""
    assert parse_endpoint(url).url == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example.org/v1",
        "http://192.168.1.7:8080/v1",
        "http://0.0.0.0:8080",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "ftp://127.0.0.1",
        "127.0.0.1:8080",
        "https://",
        "http://[::1",
        "http://127.0.0.1:x",
        "https://user:pass@models.example.org",
        "https://models.example.org/v1?key=1",
        "http://127.0.0.1@evil.example",
        "http://[::ffff:192.0.2.1]/",
        # Look-alikes of this machine.
        "http://127.0.0.1%2eevil.example/",
        "http://127.0.0.1%2Eevil.example:8080/v1",
        "http://127.0.0.1%evil.example",
        "http://127.0.0.1%00.evil.example",
        "http://127.0.0.1%2f@evil.example",
        "http://localhost%2eevil.example",
        "http://localhost%00.evil.example",
        "http://%6cocalhost",
        "http://localhost.",
        "http://.localhost",
        "http://evil.localhost",
        "http://local\u017fhost",  # a long s, which some parsers turn into s
        "http://\uff4cocalhost",  # a full-width letter
        "http://127.0.0.1\u3002evil.example",  # an ideographic full stop
        "http://127\u30020\u30020\u30021",
        "http://\u2460\u2461\u2466.0.0.1",  # digits in circles
        "http://[::1%25evil.example]/",
        "http://[::1%evil.example]/",
        "http://[::1]evil.example/",
        "http://[::1].evil.example/",
        "http://127.0.0.1\\.evil.example/",
        "http://127.0.0.1\\@evil.example/",
        "http://evil.example\\@127.0.0.1/",
        "http://127.0.0.1 .evil.example/",
        "http://127.0.0.1\t.evil.example/",
        "http://127.0.0.1\n.evil.example/",
        "http://127.0.0.1\x00.evil.example/",
        "http://127.0.0.1;evil.example/",
        "http://127.0.0.1,evil.example/",
        "http://127.0.0.1:80:evil.example/",
        "http://127.0.0.1#@evil.example/",
        "http://127.0.0.1?@evil.example/",
        "http://127.0.0.1&@evil.example/",
        "http://1@127.0.0.1@evil.example/",
        # Other spellings of addresses, which parsers read differently.
        "http://127.1",
        "http://127.0.0.1.",
        "http://2130706433",
        "http://0x7f.0.0.1",
        "http://0x7f000001",
        "http://0177.0.0.1",
        "http://127.0.0.01",
        "http://127.0.0.1.0",
        "http://128.0.0.1",
        "http://0",
        "http://[::]",
        "http://[::2]",
        "http://[::127.0.0.1]",
        "http://[64:ff9b::7f00:1]",
    ],
)
def test_endpoint_to_which_nothing_is_sent(url: str) -> None:
    """Each with a sentence that names the setting and contains no password."""
    with pytest.raises(ValueError, match=r"model\.endpoint") as raised:
        parse_endpoint(url)
    assert "pass@" not in str(raised.value) and str(raised.value).isascii() and str(raised.value).isprintable()


@pytest.mark.parametrize("url", ["https://127.0.0.1%2eevil.example", "https://a%62c.example", "https://\uff41.example"])
def test_endpoint_over_https_has_a_plain_host_name_too(url: str) -> None:
    """So that all parsers agree on where the code goes."""
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        parse_endpoint(url)


def test_http_library_connects_to_the_host_that_was_checked() -> None:
    """It parses the URL again."""
    import httpx2

    for url in ("http://LOCALHOST:1", "http://[::1]:8080", "http://127.8.9.1/a//b", "https://Models.Example.org:443/x"):
        endpoint = parse_endpoint(url)
        assert httpx2.URL(f"{endpoint.url}/models").host == endpoint.host


def test_key_is_read_from_a_variable() -> None:
    """A key in place of the variable's name is not repeated; a key with a line end would be a header."""
    assert read_key("", {}) == "" and read_key("K", {"K": f" {KEY}\n"}) == KEY
    for variable, environment in ((KEY, {}), ("K", {}), ("K", {"K": "a\r\nX: b"}), ("K", {"K": "schlüssel"})):
        with pytest.raises(ValueError) as raised:
            read_key(variable, environment)
        assert KEY not in str(raised.value) and "X: b" not in str(raised.value)


async def test_only_the_user_can_set_an_endpoint() -> None:
    """A bad endpoint fails with its reason when it is first needed; a workspace cannot set one."""
    settings = make_settings("http://192.0.2.1/v1")
    engine = open_engine(settings)
    assert isinstance(engine, RemoteEngine)
    with pytest.raises(EngineError, match="another machine"):
        await engine.load(ModelRole.COMPLETE).result()
    assert engine.status(ModelRole.COMPLETE).state is ModelState.FAILED
    engine.close()
    for name, value in (
        ("endpoint", "https://evil.example"),
        ("endpointKeyVariable", "PATH"),
        ("endpointFim", "none"),
        ("endpointContextLength", 9),
    ):
        changed, problems = parse({"model": {name: value}}, settings, Source.WORKSPACE)
        assert changed == settings and len(problems) == 1


async def test_environment_proxies_are_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loopback endpoint is called directly, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://192.0.2.1:9")
    async with run_stub(answer_text("width")) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        assert await complete(assistant) == ["width"]


async def test_https_needs_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown certificate is refused with the reason; one that the environment trusts is accepted."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    making = await asyncio.create_subprocess_exec(
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with run_stub(answer_text("width"), tls=tls) as service:
        settings = make_settings(service.url.replace("http://", "https://"))
        async with open_assistant(settings) as assistant:
            with pytest.raises(EngineError, match="certificate"):
                await assistant.load()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with open_assistant(settings) as assistant:
            await assistant.load()
            assert await complete(assistant) == ["width"]


def test_context_length_is_read_from_the_list() -> None:
    """By the field names that services use; too much of it is not used unless the settings say so."""
    for entry, context_length in (
        ({"max_model_len": 4096}, 4096),
        ({"meta": {"n_ctx": 1024, "n_ctx_train": 9999}}, 1024),
        ({"max_model_len": 131072}, 8192),
        ({}, 2048),
        ({"max_model_len": "many"}, 2048),
    ):
        listed = {"data": [{"id": "m", **entry}]}
        assert select_model(listed, "", 0, False, "u").context_length == context_length
        assert select_model(listed, "", 300, False, "u").context_length == 300


@pytest.mark.slow
async def test_commands_can_use_an_endpoint(tmp_path: Path) -> None:
    """``doctor`` tries it and says why if it fails; ``complete`` prints its text."""
    file = tmp_path / "a.py"
    file.write_text(CODE)
    line, column = CODE.count("\n") + 1, len(CODE.rpartition("\n")[2]) + 1

    async def run(url: str, *arguments: str) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "codeclippy_ls",
            *arguments,
            "--endpoint",
            url,
            "--model",
            "qwen2.5-coder-7b",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await child.communicate()
        return child.returncode, output.decode()

    async with run_stub(answer_text("width")) as service:
        code, output = await run(service.url, "doctor")
        assert code == 0 and f"qwen2.5-coder-7b at {service.url}" in output and "shipped" not in output, output
        assert await run(service.url, "complete", f"{file}:{line}:{column}") == (0, "width\n")
        closed_url = service.url
    code, output = await run(closed_url, "doctor")
    assert code == 1 and "FAIL  model" in output and "is the service running there" in output, output
