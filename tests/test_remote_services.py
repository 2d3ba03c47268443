"""The remote engine against two real services: llama.cpp's server and transformers' own `serve`.

They run if their packages are installed, as in the environment that `make test-services` makes.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import pytest

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.inference.engine import Engine
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Sampling
from codeclippy_ls.inference.spec import SHIPPED_FOLDER, ModelRole
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.remote.engine import RemoteEngine
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.text import Document
from tests.services import run_llama_server, run_transformers_server

PACKAGES = {"llama.cpp": ("xllamacpp", "gguf"), "transformers": ("fastapi", "uvicorn", "openai")}
# Texts that llama.cpp splits as our tokenizer does: without digits, underscores and indentation.
PLAIN = ("import os\nimport sys\n", "class Basket:\n", "x = [a for a in ", "print(", "from pathlib import Path\n\n")
CODE = (
    *PLAIN,
    "def add_all(values):\n    total = 0\n    for value in values:\n        ",
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = ",
)

pytestmark = pytest.mark.peers


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: its kind, its endpoint, the model's name there."""

    kind: str
    url: str
    model: str

    def settings(self, **options: Any) -> Settings:
        """Return settings that use it, with time for a busy machine."""
        model = {
            "endpoint": self.url,
            "completion": self.model,
            "family": "clippy",
            "dtype": "float32",
            "device": "cpu",
        }
        settings, problems = parse(
            {
                "model": {**model, **options},
                "edit": {"timeBudgetMs": 120000, "candidates": 1},
                "completion": {"timeBudgetMs": 60000, "prefetch": False, "minConfidence": 0.0, "copiedCode": "show"},
            }
        )
        assert not problems
        return settings


@pytest.fixture(scope="module", params=list(PACKAGES))
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run each of the services, with the shipped model in float32."""
    kind = request.param
    if missing := [name for name in PACKAGES[kind] if find_spec(name) is None]:
        pytest.skip(f"{kind}'s server is not installed: {', '.join(missing)}")
    scratch = tmp_path_factory.mktemp("service")
    if kind == "llama.cpp":
        with run_llama_server(scratch) as url:
            yield Service(kind, url, "")
    else:
        with run_transformers_server(SHIPPED_FOLDER, scratch) as url:
            yield Service(kind, url, str(SHIPPED_FOLDER))


@asynccontextmanager
async def open_assistant(engine: Engine, settings: Settings) -> AsyncIterator[Assistant]:
    """Open an assistant over an engine, and load its models."""
    assistant = Assistant(engine, settings)
    try:
        await assistant.load()
        yield assistant
    finally:
        await assistant.aclose()


def open_remote(service: Service, **options: Any) -> AbstractAsyncContextManager[Assistant]:
    """Open an assistant over a service."""
    settings = service.settings(**options)
    return open_assistant(RemoteEngine(settings.model, resolve_model_specs(settings)), settings)


def open_local(service: Service) -> AbstractAsyncContextManager[Assistant]:
    """Open an assistant whose engine runs the same weights in this process."""
    settings = service.settings()
    settings = replace(settings, model=replace(settings.model, completion="", endpoint=""))
    return open_assistant(open_thread_engine(settings), settings)


@dataclass(frozen=True, slots=True)
class EndlessTask(CompletionTask):
    """A completion that only the model or its token budget ends."""

    def is_done(self, text: str, prompt: Any) -> bool:
        """Return False."""
        return False


async def generate(engine: Engine, code: str, tokens: int = 24, **options: Any) -> Generation:
    """Generate text at the end of some code, before a closing line."""
    task = EndlessTask(CompletionContext(code, "\n# end\n", "a.py", "python"), tokens, family="clippy")
    sampling = Sampling(max_tokens=tokens, seconds=60.0, **options)
    return await engine.submit(Request(task, sampling, ModelRole.COMPLETE), Priority.EDIT).result()


async def test_greedy_text_equals_the_in_process_engine_s(service: Service) -> None:
    """The same weights, the same prompt, float32: the same text, to the last character."""
    codes = PLAIN if service.kind == "llama.cpp" else CODE
    async with open_remote(service) as remote, open_local(service) as local:
        for code in codes:
            found, expected = await generate(remote._engine, code), await generate(local._engine, code)
            assert expected.text
            assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason), code


async def test_suggestions_with_candidates(service: Service) -> None:
    """The whole way: template, stream, end of the text, clean-up."""
    async with open_remote(service) as assistant:
        code = "for key, value in values."
        found = await assistant.complete(Document("file:///a.py", code, language="python"), len(code), candidates=3)
        assert found.items and found.generation is not None
        count = 3 if service.kind == "llama.cpp" else 2  # transformers' serve knows no `n`
        assert len(found.generation.candidates) == count
        if service.kind == "llama.cpp":
            assert all(0 < item.confidence < 1 for item in found.items)


async def test_long_file_fits_the_context_length(service: Service) -> None:
    """The service never finds the prompt too long, so the estimate of its tokens is high enough."""
    line = "    value_{0} = compute[{0}]({0}.5, 'naïve ü {0}', **options)  # ☃ {0}\n"
    code = "".join(map(line.format, range(4000)))
    async with open_remote(
        service, **({} if service.kind == "llama.cpp" else {"endpointContextLength": 1024})
    ) as assistant:
        assert assistant.status(ModelRole.COMPLETE).info.context_length == 1024
        generation = await generate(assistant._engine, code, 16)
        assert generation.text


async def test_service_is_free_after_a_cancel(service: Service) -> None:
    """It notices that the connection is closed, and answers the next request at once."""
    async with open_remote(service) as assistant:
        task = EndlessTask(CompletionContext("import os\n", "", "a.py"), 900, family="clippy")
        sampling = Sampling(max_tokens=900, temperature=1.0, candidates=2, seconds=60.0)
        handle = assistant._engine.submit(Request(task, sampling, ModelRole.COMPLETE), Priority.EDIT)
        async for _ in handle.deltas():
            handle.cancel()
            break
        assert (await handle.result()).finish_reason is FinishReason.CANCELLED
        assert (await generate(assistant._engine, "import os\n", 4)).text
        if service.kind == "llama.cpp":
            for _ in range(50):
                if not any(slot["is_processing"] for slot in await asyncio.to_thread(read_slots, service)):
                    return
                await asyncio.sleep(0.1)
            raise AssertionError("a slot is still busy")


def read_slots(service: Service) -> Any:
    """Return the states of llama.cpp's slots."""
    with urllib.request.urlopen(service.url.removesuffix("/v1") + "/slots", timeout=5) as answer:
        return json.load(answer)


async def test_edit_is_made_or_refused_with_the_reason(service: Service) -> None:
    """llama.cpp's server constrains the shipped model with the grammar, so it always writes a diff of the text.

    Other services' diffs are placed by their text, or refused.
    """
    text = "import os\nimport sys\n\nprint(sys.argv)\n"
    async with open_remote(service) as assistant:
        assert assistant.supports_edits()
        edit = await assistant.edit(Document("file:///a.py", text, language="python"), "Remove the unused import os")
        if service.kind == "transformers":  # with our own tokenizer the model gets this right
            assert isinstance(edit, Proposal) and edit.after == text.removeprefix("import os\n"), edit
        for message in ("Add a docstring", "Rename argv to arguments"):
            edit = await assistant.edit(Document("file:///a.py", text, language="python"), message)
            is_right = edit.after != text if isinstance(edit, Proposal) else "the model" in edit.reason
            assert is_right, edit
            if service.kind == "llama.cpp" and not isinstance(edit, Proposal):
                assert "diff was refused" not in edit.reason, edit


async def test_unknown_model_is_named_in_the_error(service: Service) -> None:
    """By the service's own words; llama.cpp's server takes any name for its only model."""
    if service.kind == "llama.cpp":
        pytest.skip("it has a single model, which answers to any name")
    async with open_remote(service, completion="nobody/nothing") as assistant:
        with pytest.raises(EngineError, match="nobody/nothing"):
            await generate(assistant._engine, "import os\n", 4)
