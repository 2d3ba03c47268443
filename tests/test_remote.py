"""The remote engine against a service made of raw bytes: what it sends, what it reads, and how each fault ends."""

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
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import FinishReason, Priority, Request
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.remote.endpoint import parse_endpoint, read_key
from codeclippy_ls.remote.engine import RemoteEngine
from codeclippy_ls.remote.models import select_model
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.text import Document
from tests.editor import TIMEOUT, in_process
from tests.services import DONE, MODELS, Asked, event, head, stub, whole

pytest.importorskip("httpx2", reason="needs Python 3.11 or newer")

CODE = "def area(width, height):\n    return "
KEY = "sk-very-secret-0123456789"


def settings_for(url: str, **model: Any) -> Settings:
    """Settings with an endpoint, and time for a busy machine."""
    completion = {"timeBudgetMs": 20000, "minConfidence": 0.0, "prefetch": False}
    settings, problems = parse(
        {"model": {"endpoint": url, **model}, "completion": completion, "edit": {"candidates": 1}}
    )
    assert not problems
    return settings


@asynccontextmanager
async def assistant(
    settings: Settings, watched: list[tuple[str, ModelStatus]] | None = None, **options: Any
) -> AsyncIterator[Assistant]:
    """An assistant over a remote engine that loses no time after failures."""

    def watch(model: str, status: ModelStatus) -> None:
        if watched is not None:
            watched.append((model, status))

    engine = RemoteEngine(settings.model, resolve_model_specs(settings), watch, **{"pauses": (0.0,), **options})
    made = Assistant(engine, settings)
    try:
        yield made
    finally:
        await made.close()


def saying(*pieces: str, finish: str = "stop") -> Any:
    """Answers each request with these pieces of text."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head() + b"".join(map(event, pieces)) + event("", finish=finish) + DONE)
        await writer.drain()

    return answer


def sending(*parts: bytes) -> Any:
    """Answers each request with these bytes, and closes."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def hanging(*parts: bytes) -> Any:
    """Sends these bytes and nothing more, and stays."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await writer.drain()
        await asyncio.sleep(60)

    return answer


async def suggested(subject: Assistant, code: str = CODE, uri: str = "file:///a.py", **options: Any) -> list[str]:
    """The texts of the suggestions at the end of a document."""
    found = await subject.complete(Document(uri, code, language="python"), len(code), **options)
    return [item.text for item in found.items]


# What is sent.


async def test_a_hole_is_asked_for_by_the_familys_template() -> None:
    """The served name tells the family; the first is greedy, the others are sampled beside it."""
    async with stub(saying("width ", "* height")) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        code = CODE + "\n\nprint(area(1, 2))\n"
        found = await subject.complete(Document("file:///a.py", code, language="python"), len(CODE), candidates=3)
        assert [item.text for item in found.items] == ["width * height"]
        greedy, sampled = sorted((asked.body for asked in service.posts), key=lambda body: body["temperature"])
        assert greedy["prompt"] == (
            f"<|file_sep|>a.py\n<|fim_prefix|>{CODE}<|fim_suffix|>\n\nprint(area(1, 2))\n<|fim_middle|>"
        )
        assert (greedy["model"], greedy["temperature"], greedy["stream"]) == ("qwen2.5-coder-7b", 0.0, True)
        assert "n" not in greedy and (sampled["n"], sampled["temperature"]) == (2, 0.6)


async def test_a_hole_may_be_the_services_to_fill() -> None:
    """`suffix` sends the text after the cursor apart; `none` does not send it at all."""
    for infill, suffix in (("suffix", "\n# end\n"), ("none", None)):
        async with (
            stub(saying("1")) as service,
            assistant(settings_for(service.url, endpointFim=infill)) as subject,
        ):
            await subject.prepare()
            await subject.complete(Document("file:///", CODE + "\n# end\n"), len(CODE))
            body = service.posts[0].body
            assert (body["prompt"], body.get("suffix")) == (CODE, suffix)


async def test_vllm_is_asked_to_spell_what_ends_an_answer() -> None:
    """It leaves control tokens out of the text otherwise, and our stops are such; no other service knows the field."""
    for owner, spelled in (("vllm", False), ("llamacpp", None)):
        async with stub(saying("width<|file_sep|>b.py")) as service, assistant(settings_for(service.url)) as subject:
            service.models = whole({"data": [{"id": "qwen2.5-coder-7b", "owned_by": owner}]})
            await subject.prepare()
            assert await suggested(subject) == ["width"]
            body = service.posts[0].body
            assert body.get("skip_special_tokens") == spelled and "<|file_sep|>" in body["stop"]


async def test_the_key_goes_in_the_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not into messages or logs, not even where the service repeats it, and no code either."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEAM_KEY", KEY)
    refused = whole({"error": {"message": f"bad key {KEY}"}}, "401 Unauthorized")
    async with (
        stub(sending(refused)) as service,
        assistant(settings_for(service.url, endpointKeyVariable="TEAM_KEY")) as subject,
    ):
        await subject.prepare()
        with pytest.raises(EngineError) as raised:
            await suggested(subject)
        assert service.posts[0].headers["authorization"] == f"Bearer {KEY}"
    assert "does not accept the key" in str(raised.value)
    assert KEY not in str(raised.value) + caplog.text and "area" not in caplog.text


async def test_what_a_service_says_is_quoted_unless_it_repeats_the_code() -> None:
    """A validation error that holds its input is not shown, another one is."""
    for said, shown in (("the context is 4096 tokens long", True), (f"cannot read {CODE!r:.40}", False)):
        async with (
            stub(sending(whole({"detail": said}, "422 Unprocessable"))) as service,
            assistant(settings_for(service.url)) as subject,
        ):
            await subject.prepare()
            with pytest.raises(EngineError) as raised:
                await suggested(subject)
            assert (said in str(raised.value)) == shown and "422" in str(raised.value)


@pytest.mark.parametrize("name", [".env", "server.pem", "id_ed25519", "prod.tfvars", "Secrets.yaml"])
async def test_files_that_hold_secrets_stay_here(name: str) -> None:
    """Nothing of them is sent, for a suggestion or for an edit; the message says why."""
    async with stub(saying("x")) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        with pytest.raises(EngineError, match="never leave this machine"):
            await suggested(subject, uri=f"file:///home/me/{name}")
        refused = await subject.edit(Document(f"file:///home/me/{name}", "A=1\n"), "sort")
        assert isinstance(refused, Refusal) and "never leave this machine" in refused.reason
        assert not service.posts


async def test_passages_go_along_unless_they_are_secret_or_spell_control_tokens() -> None:
    """Only with the setting context open."""
    text = "def area(width, height):\n    return width * height  # {}\n"
    others = [
        OpenFile("good.py", text.format("GOOD")),
        OpenFile("deep/.env", text.format("SECRET")),
        OpenFile("bad.py", text.format("BAD <|fim_suffix|>")),
    ]
    code = "from good import area\n\nx = area(width, height)\ny = "
    for context, along in (("open", True), ("off", False)):
        async with stub(saying("1")) as service:
            settings = settings_for(service.url)
            settings = replace(settings, completion=replace(settings.completion, context=context))
            async with assistant(settings) as subject:
                subject.suggester.others = lambda uri: others
                await subject.prepare()
                for one in others:  # each is the most relevant once
                    subject.suggester.others = lambda uri, one=one: [one]  # type: ignore[misc]
                    await suggested(subject, code, uri=f"file:///{one.path.replace('/', '_')}.py")
                sent = "".join(asked.body["prompt"] for asked in service.posts)
                assert ("GOOD" in sent) == along and "SECRET" not in sent and "BAD" not in sent


async def test_text_that_spells_a_control_token_is_not_sent() -> None:
    """A service would read it as one; the reason is said."""
    async with stub(saying("x")) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        with pytest.raises(EngineError, match=re.escape("holds <|fim_middle|>")):
            await suggested(subject, 'TOKEN = "<|fim_middle|>"\nx = ')
        assert not service.posts


# What is read.


async def test_an_answer_that_begins_the_word_anew_is_dropped() -> None:
    """Nothing holds the answer to the word that was begun."""
    for answer, shown in (("retval = 1", []), ("urn 1", ["urn 1"])):
        async with stub(saying(answer)) as service, assistant(settings_for(service.url)) as subject:
            await subject.prepare()
            assert await suggested(subject, "def f():\n    ret") == shown


async def test_a_suggestion_ends_where_we_say_and_the_connection_is_left() -> None:
    """The service sees that nobody waits any more."""
    pieces = (event("1\n"), event("def other():\n"), event("    pass\n"))
    async with stub(hanging(head(), *pieces)) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        assert await suggested(subject, CODE + "width * ") == ["1"]
        await until(lambda: service.left == 1)


async def test_cancelling_leaves_the_connection() -> None:
    """And the ticket is answered at once."""
    async with stub(hanging(head(), event("a"))) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        waiting = asyncio.create_task(subject.complete(Document("file:///a.py", CODE), len(CODE)))
        await until(lambda: bool(service.posts))
        subject.changed("file:///a.py", None)
        assert (await waiting).items == ()
        await until(lambda: service.left == 1)


async def test_what_there_is_when_time_is_up_is_shown() -> None:
    """As with every engine."""
    async with stub(hanging(head(), event("width"))) as service:
        settings = settings_for(service.url)
        settings = replace(settings, completion=replace(settings.completion, time_budget_ms=1500))
        async with assistant(settings) as subject:
            await subject.prepare()
            found = await subject.complete(Document("file:///a.py", CODE), len(CODE))
            assert [item.text for item in found.items] == ["width"] and not found.complete


async def test_confidence_comes_with_log_probabilities_in_either_form() -> None:
    """Lists of numbers, or llama.cpp's objects; without them it is certain."""
    forms = (({"token_logprobs": [-0.5, -1.5]}, 0.3678), ({"content": [{"logprob": -1.0}]}, 0.3678), (None, 1.0))
    for logprobs, confidence in forms:
        answer = sending(head() + event("width", logprobs=logprobs) + event("", finish="stop") + DONE)
        async with stub(answer) as service, assistant(settings_for(service.url)) as subject:
            await subject.prepare()
            found = await subject.complete(Document("file:///a.py", CODE), len(CODE))
            assert found.items[0].confidence == pytest.approx(confidence, abs=1e-3)


async def test_services_that_do_not_stream_or_know_fewer_fields() -> None:
    """An answer in one piece is read; fields that are refused are left out from then on."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        extra = {"n", "logprobs", "stop"} & set(asked.body)
        writer.write(
            whole({"detail": f"Unexpected fields: {extra}"}, "422 Unprocessable")
            if extra
            else whole({"choices": [{"index": 0, "text": "width", "finish_reason": "stop"}]})
        )
        await writer.drain()

    async with stub(answer) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        assert await suggested(subject) == ["width"]
        assert await suggested(subject, "x = 1\n" + CODE) == ["width"]
        assert len(service.posts) == 3


# Edits.

BEFORE = "def area(w, h):\n    return w * h\n\n\nprint(area(1, 2))\n"
DIFF = '```diff\n@@ -7,9 +1 @@\n def area(w, h):\n+    """The area."""\n     return w * h\n```\n'


def chatting(*pieces: str) -> Any:
    """Answers with these pieces by the chat interface."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        assert asked.line.startswith("POST /v1/chat/completions")
        chunk = b'data: {"choices":[{"index":0,"delta":{"content":%s}}]}\n\n'
        parts = [chunk % json.dumps(piece).encode() for piece in pieces]
        writer.write(
            head() + b"".join(parts) + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' + DONE
        )
        await writer.drain()

    return answer


async def test_an_edit_by_chat_is_placed_by_its_text() -> None:
    """Wrong line numbers and fences do not matter; the comment that asked goes with the edit."""
    async with (
        stub(chatting(*DIFF)) as service,
        assistant(settings_for(service.url, edit="helper-instruct")) as subject,
    ):
        document = Document("file:///a.py", "# clippy: document\n" + BEFORE, language="python")
        shown: list[str] = []
        made = await subject.edit(document, "", (0, 5), shown.append)
        assert isinstance(made, Proposal), made
        assert made.after == BEFORE.replace("h):\n", 'h):\n    """The area."""\n')
        assert "".join(shown).startswith("```diff")
        message = service.posts[0].body["messages"][0]["content"]
        assert "document" in message and "def area" in message and "clippy" not in message


@pytest.mark.parametrize(("owner", "held"), [("llamacpp", True), ("vllm", True), ("somebody", False)])
async def test_an_edit_is_held_to_the_grammar_where_the_service_can(owner: str, held: bool) -> None:
    """In the service's own field; a suggestion never is."""
    diff = "@@ -1 +1 @@\n def area(w, h):\n+    assert w\n"
    async with stub(chatting(diff)) as service, assistant(settings_for(service.url, edit="helper")) as subject:
        service.models = whole({"data": [{"id": "helper", "owned_by": owner}]})
        await subject.prepare()
        made = await subject.edit(Document("file:///a.py", BEFORE), "check w")
        assert isinstance(made, Proposal) and made.after == BEFORE.replace("h):\n", "h):\n    assert w\n"), made
        (body,) = (post.body for post in service.posts)
        found = body.get("grammar") if owner == "llamacpp" else body.get("structured_outputs", {}).get("grammar")
        assert bool(found) is held and ("def area" in str(found)) is held
        assert ("grammar" in body) is (owner == "llamacpp")


async def test_a_service_that_refuses_the_grammar_is_asked_without_it() -> None:
    """For edits; what suggestions are asked with stays."""
    said = chatting("@@ -1 +1 @@\n def area(w, h):\n+    assert w\n")

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "grammar" in asked.body:
            writer.write(whole({"error": {"message": "Failed to parse grammar"}}, "400 Bad Request"))
            await writer.drain()
        elif "messages" in asked.body:
            await said(asked, writer)
        else:
            await saying("width")(asked, writer)

    async with stub(answer) as service, assistant(settings_for(service.url, edit="helper")) as subject:
        service.models = whole({"data": [{"id": "helper", "owned_by": "llamacpp"}]})
        await subject.prepare()
        for _ in range(2):
            assert isinstance(await subject.edit(Document("file:///a.py", BEFORE), "check w"), Proposal)
        assert await suggested(subject) == ["width"]
        held = ["grammar" in post.body for post in service.posts]
        assert held == [True, False, False, False] and "logprobs" in service.posts[-1].body


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("I would rather not.", "refused"),
        ("```diff\n@@ -1 +1 @@\n-def nowhere():\n+def there():\n```", "refused"),
        ("", "no change"),
    ],
)
async def test_what_is_no_diff_of_the_text_is_refused(written: str, reason: str) -> None:
    """With the reader's reason."""
    async with (
        stub(chatting(written)) as service,
        assistant(settings_for(service.url, edit="helper-instruct")) as subject,
    ):
        made = await subject.edit(Document("file:///a.py", BEFORE), "document")
        assert isinstance(made, Refusal) and reason in made.reason, made


@pytest.mark.parametrize("end", [b"", b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"abort"}]}\n\n'])
async def test_a_candidate_that_was_cut_off_is_no_diff(end: bytes) -> None:
    """Where another one came to its end: half a hunk is never proposed."""
    half = "```diff\n@@ -1,2 +1,3 @@\n def area(w, h):\n+    # half\n"

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "n" in asked.body:
            chunk = {"choices": [{"index": 1, "delta": {"content": half}}]}
            writer.write(
                head()
                + f"data: {json.dumps(chunk)}\n\n".encode()
                + end
                + b'data: {"choices":[{"index":0,"delta":{"content":"no"},"finish_reason":"stop"}]}\n\n'
            )
            await writer.drain()
        else:
            await chatting(DIFF)(asked, writer)

    async with stub(answer) as service:
        settings = settings_for(service.url, edit="helper-instruct")
        settings = replace(settings, edit=replace(settings.edit, candidates=3))
        async with assistant(settings) as subject:
            made = await subject.edit(Document("file:///a.py", BEFORE), "document")
            assert isinstance(made, Proposal) and made.others == () and "half" not in made.after


async def test_a_model_for_completion_alone_offers_no_edits() -> None:
    """And the shipped model is not looked for at the endpoint."""
    async with stub(saying("x")) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        assert not subject.edits_possible()
        made = await subject.edit(Document("file:///a.py", BEFORE), "document")
        assert isinstance(made, Refusal) and "not known to write diffs" in made.reason
        assert not service.posts


async def test_an_edit_is_tried_a_second_time_and_a_keystroke_is_not() -> None:
    """Where the service was busy for a moment."""

    def failing_once() -> Any:
        failed: list[Asked] = []

        async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
            if not failed:
                failed.append(asked)
                writer.write(whole({"error": "busy"}, "429 Too Many", "Retry-After: 0\r\n"))
            else:
                await chatting(DIFF)(asked, writer)
            await writer.drain()

        return answer

    async with (
        stub(failing_once()) as service,
        assistant(settings_for(service.url, edit="helper-instruct")) as subject,
    ):
        assert isinstance(await subject.edit(Document("file:///a.py", BEFORE), "document"), Proposal)
        assert len(service.posts) == 2
    async with stub(failing_once()) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        with pytest.raises(EngineError, match="busy"):
            await suggested(subject)
        assert len(service.posts) == 1


# Faults.

FAULTS: dict[str, tuple[Any, str]] = {
    "401": (sending(whole({"error": "no"}, "401 Unauthorized")), "it wants a key"),
    "403": (sending(whole({}, "403 Forbidden")), "refuses"),
    "404": (sending(whole({"error": {"message": "no model x"}}, "404 Not Found")), "no model x"),
    "429": (sending(whole({}, "429 Too Many", "Retry-After: 0\r\n")), "busy"),
    "500": (sending(whole({"error": "out of memory"}, "500 Internal")), "out of memory"),
    "503 in HTML": (sending(head("503 Unavailable", "text/html"), b"<html>proxy</html>"), "busy"),
    "redirect": (sending(head("302 Found", more="Location: http://192.0.2.1/\r\n")), "redirects"),
    "HTML": (sending(head(kind="text/html"), b"<html>login</html>"), "answers with text/html"),
    "no type": (sending(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"), "no content type"),
    "no HTTP": (sending(b"SSH-2.0-OpenSSH_9.6\r\n"), "closed the connection"),
    "no answer": (sending(), "closed the connection"),
    "truncated": (sending(head(), event("wid")), "in the middle"),
    "truncated event": (sending(head(), event("wid")[:-9]), "in the middle"),
    "empty": (sending(head(), DONE), "in the middle"),
    "no JSON": (sending(head(), b"data: {nonsense\n\n"), "not JSON"),
    "deep JSON": (sending(head(), b"data: " + b"[" * 100_000 + b"\n\n"), "not JSON"),
    "other JSON": (sending(head(), b"data: [1]\n\n"), "unexpected form"),
    "other choices": (sending(head(), b'data: {"choices": [{"text": 7}]}\n\n'), "unexpected form"),
    "error inside": (sending(head(), event("w"), b'data: {"error": "cuda"}\n\n'), "reports an error"),
    "no UTF-8": (sending(head(), b"data: \xff\xfe\n\n"), "not UTF-8"),
    "no events": (sending(head(), b"once upon a time\n"), "something other"),
    "endless line": (sending(head(), b"data: " + b"x" * (2 << 20)), "more than"),
    "compressed": (sending(head(more="Content-Encoding: gzip\r\n"), b"\x1f\x8b"), "compressed"),
    "hangs": (hanging(), "nothing for"),
    "hangs inside": (hanging(head(), event("w")), "nothing for"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_one_clear_error_and_the_engine_recovers(fault: str) -> None:
    """The next request is answered, without anybody having restarted anything."""
    answer, said = FAULTS[fault]
    async with stub(answer) as service, assistant(settings_for(service.url), read_timeout=0.5) as subject:
        await subject.prepare()
        with pytest.raises(EngineError) as raised:
            await suggested(subject)
        assert said in str(raised.value) and service.url in str(raised.value)
        service.answer = saying("width")
        assert await suggested(subject) == ["width"]
        assert subject.engine.status(ModelRole.COMPLETE).state is ModelState.READY


async def test_an_endless_answer_ends() -> None:
    """At a number of events, where our own measure ends nothing."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head())
        while True:
            writer.write(b": ping\n\n" + event("") * 50)
            await writer.drain()

    async with stub(answer) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        with pytest.raises(EngineError, match="more than"):
            await suggested(subject)


async def test_a_service_that_dies_and_comes_back() -> None:
    """In the middle of an answer, then for a while; the models are failed with the reason, and ready again after."""
    watched: list[tuple[str, ModelStatus]] = []
    async with stub(hanging(head(), event("w"))) as service:
        settings, port = settings_for(service.url), service.port
        async with assistant(settings, watched) as subject:
            await subject.prepare()
            waiting = asyncio.create_task(suggested(subject))
            await until(lambda: bool(service.posts))
            service.drop()
            with pytest.raises(EngineError, match=r"closed the (connection|stream)"):
                await waiting
    async with assistant(settings, watched) as subject:
        with pytest.raises(EngineError, match=r"cannot be reached \(.+\); is the service running"):
            await subject.prepare()
        assert subject.engine.status(ModelRole.COMPLETE).state is ModelState.FAILED
        async with stub(saying("width"), port) as service:
            assert await suggested(subject) == ["width"]
            assert subject.engine.status(ModelRole.COMPLETE).state is ModelState.READY
    states = [status.state for model, status in watched if model == ModelRole.COMPLETE]
    assert states == [ModelState.LOADING, ModelState.READY, ModelState.LOADING, ModelState.FAILED, ModelState.READY]


async def test_keystrokes_leave_a_failing_service_alone_for_a_while() -> None:
    """They are answered without it; an edit asks all the same."""
    async with stub(sending(whole({}, "500 Internal"))) as service:
        settings = settings_for(service.url, edit="helper-instruct")
        async with assistant(settings, pauses=(0.0, 60.0)) as subject:
            await subject.prepare()
            for _ in range(4):
                with pytest.raises(EngineError, match="failed"):
                    await suggested(subject)
            assert len(service.posts) == 2
            service.answer = chatting(DIFF)
            assert isinstance(await subject.edit(Document("file:///a.py", BEFORE), "document"), Proposal)
            service.answer = saying("width")
            assert await suggested(subject) == ["width"]


async def test_a_service_without_models_is_failed_with_the_reason() -> None:
    """And one that lists what cannot be read."""
    for models, said in (
        (whole({"data": []}), "lists no model"),
        (head(kind="text/html") + b"<p>", "not JSON"),
        (whole({}, "401 Unauthorized"), "wants a key"),
    ):
        async with stub(saying("x")) as service, assistant(settings_for(service.url)) as subject:
            service.models = models
            with pytest.raises(EngineError, match=said):
                await subject.prepare()
            assert said in subject.engine.status(ModelRole.EDIT).reason


async def test_a_connection_that_was_kept_too_long_costs_nothing() -> None:
    """A service may close it just when the next request is sent: that goes out again."""
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
    async with assistant(settings_for(f"http://127.0.0.1:{port}/v1")) as subject:
        await subject.prepare()
        assert await suggested(subject) == ["width"]
    assert answered == [True, False, True]
    server.close()
    await asyncio.gather(*serving)


async def test_a_service_that_lists_nothing_is_asked_by_name() -> None:
    """Where the settings have one; else there is nothing to ask for."""
    async with stub(saying("width")) as service:
        service.models = whole({"detail": "no list"}, "500 Internal")
        async with assistant(settings_for(service.url, completion="org/starcoder2-3b")) as subject:
            await subject.prepare()
            assert await suggested(subject) == ["width"]
            assert service.posts[0].body["model"] == "org/starcoder2-3b"
        async with assistant(settings_for(service.url)) as subject:
            with pytest.raises(EngineError, match="no list"):
                await subject.prepare()


async def test_the_newest_of_a_key_wins_and_closing_answers_everybody() -> None:
    """As with every engine."""
    async with stub(hanging(head())) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        asked = [asyncio.create_task(subject.complete(Document("file:///a.py", CODE), len(CODE))) for _ in range(2)]
        generation = (await asked[0]).generation
        assert generation is not None and generation.finish_reason is FinishReason.SUPERSEDED
        await subject.close()
        generation = (await asked[1]).generation
        assert generation is not None and generation.finish_reason is FinishReason.CANCELLED
        ticket = subject.engine.submit(Request(None, model=ModelRole.COMPLETE), Priority.EDIT)  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="closed"):
            await ticket.result()


async def until(condition: Any) -> None:
    """Wait for something that is about to be so."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.01)


# The whole server.


async def test_an_editors_session_over_a_service() -> None:
    """Suggestions, an edit, a file that stays here, and a service that goes and comes back: each is said once."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (chatting(DIFF) if "messages" in asked.body else saying("width * height"))(asked, writer)

    async with in_process(Server()) as editor:
        async with stub(answer) as service:
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
        async with stub(answer, port):
            for _ in range(100):
                if items := await editor.ghost(code, end):
                    break
                await asyncio.sleep(0.1)
            assert [item["insertText"] for item in items] == ["width * height"]
            await editor.stop()


# Addresses and keys.


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.8.9.1:80/api/", "http://127.8.9.1:80/api"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1"),
        ("https://models.example.org", "https://models.example.org/v1"),
    ],
)
def test_endpoints(url: str, made: str) -> None:
    """https anywhere, http on this machine."""
    assert parse_endpoint(url).url == made


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
    ],
)
def test_endpoints_to_which_nothing_is_sent(url: str) -> None:
    """Each with a sentence that names the setting, and no password."""
    with pytest.raises(ValueError, match=r"model\.endpoint") as raised:
        parse_endpoint(url)
    assert "pass@" not in str(raised.value)


def test_keys_come_from_variables() -> None:
    """A key in the place of the name is not repeated; one with a line end would be a header."""
    assert read_key("", {}) == "" and read_key("K", {"K": f" {KEY}\n"}) == KEY
    for variable, environment in ((KEY, {}), ("K", {}), ("K", {"K": "a\r\nX: b"}), ("K", {"K": "schlüssel"})):
        with pytest.raises(ValueError) as raised:
            read_key(variable, environment)
        assert KEY not in str(raised.value) and "X: b" not in str(raised.value)


async def test_the_setting_chooses_the_engine_and_a_workspace_may_not_set_it() -> None:
    """A bad endpoint fails with its reason when it is first needed."""
    settings = settings_for("http://192.0.2.1/v1")
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
        changed, problems = parse({"model": {name: value}}, settings, trusted=False)
        assert changed == settings and len(problems) == 1


async def test_proxies_of_the_environment_are_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loopback endpoint is asked directly, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://192.0.2.1:9")
    async with stub(saying("width")) as service, assistant(settings_for(service.url)) as subject:
        await subject.prepare()
        assert await suggested(subject) == ["width"]


async def test_https_is_for_certificates_that_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody vouches for is refused with the reason; of one that the environment trusts, answers are read."""
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
    async with stub(saying("width"), tls=tls) as service:
        settings = settings_for(service.url.replace("http://", "https://"))
        async with assistant(settings) as subject:
            with pytest.raises(EngineError, match="certificate"):
                await subject.prepare()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with assistant(settings) as subject:
            await subject.prepare()
            assert await suggested(subject) == ["width"]


def test_what_is_listed_says_how_much_fits() -> None:
    """By the names that services have for it; too much of it is not used unasked."""
    for entry, window in (
        ({"max_model_len": 4096}, 4096),
        ({"meta": {"n_ctx": 1024, "n_ctx_train": 9999}}, 1024),
        ({"max_model_len": 131072}, 8192),
        ({}, 2048),
        ({"max_model_len": "many"}, 2048),
    ):
        listed = {"data": [{"id": "m", **entry}]}
        assert select_model(listed, "", 0, False, "u").window == window
        assert select_model(listed, "", 300, False, "u").window == 300


@pytest.mark.slow
async def test_the_verbs_ask_an_endpoint_too(tmp_path: Path) -> None:
    """``doctor`` tries it and says why where it fails; ``complete`` prints what it wrote."""
    file = tmp_path / "a.py"
    file.write_text(CODE)
    line, column = CODE.count("\n") + 1, len(CODE.rpartition("\n")[2]) + 1

    async def run(url: str, *verb: str) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "codeclippy_ls",
            *verb,
            "--endpoint",
            url,
            "--model",
            "qwen2.5-coder-7b",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await child.communicate()
        return child.returncode, said.decode()

    async with stub(saying("width")) as service:
        code, said = await run(service.url, "doctor")
        assert code == 0 and f"qwen2.5-coder-7b at {service.url}" in said and "shipped" not in said, said
        assert await run(service.url, "complete", f"{file}:{line}:{column}") == (0, "width\n")
        gone = service.url
    code, said = await run(gone, "doctor")
    assert code == 1 and "FAIL  model" in said and "is the service running there" in said, said
