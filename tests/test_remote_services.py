"""The remote engine against two real services: llama.cpp's server and transformers' own `serve`.

They run where their packages are, in the environment that `make test-services` makes.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
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
from codeclippy_ls.prompts.build import CompletionContext
from codeclippy_ls.remote.engine import RemoteEngine
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.text import Document
from tests.services import llama_server, transformers_server

PACKAGES = {"llama.cpp": ("xllamacpp", "gguf"), "transformers": ("fastapi", "uvicorn", "openai")}
# Where llama.cpp cuts words as our tokenizer does: without digits, underscores and indentation.
PLAIN = ("import os\nimport sys\n", "class Basket:\n", "x = [a for a in ", "print(", "from pathlib import Path\n\n")
CODE = (
    *PLAIN,
    "def add_all(values):\n    total = 0\n    for value in values:\n        ",
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = ",
)

pytestmark = pytest.mark.peers


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: what it is, its endpoint, the model's name there."""

    kind: str
    url: str
    model: str

    def settings(self, **options: Any) -> Settings:
        """Settings that use it, with time for a busy machine."""
        model = {
            "endpoint": self.url,
            "completion": self.model,
            "family": "clippy",
            "dtype": "float32",
            "device": "cpu",
        }
        made, problems = parse(
            {
                "model": {**model, **options},
                "edit": {"timeBudgetMs": 120000, "candidates": 1},
                "completion": {"timeBudgetMs": 60000, "prefetch": False, "minConfidence": 0.0, "copiedCode": "show"},
            }
        )
        assert not problems
        return made


@pytest.fixture(scope="module", params=list(PACKAGES))
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Each of them, over the shipped model in float32."""
    kind = request.param
    if missing := [name for name in PACKAGES[kind] if find_spec(name) is None]:
        pytest.skip(f"{kind}'s server is not installed: {', '.join(missing)}")
    scratch = tmp_path_factory.mktemp("service")
    if kind == "llama.cpp":
        with llama_server(scratch) as url:
            yield Service(kind, url, "")
    else:
        with transformers_server(SHIPPED_FOLDER, scratch) as url:
            yield Service(kind, url, str(SHIPPED_FOLDER))


@asynccontextmanager
async def assistant(engine: Engine, settings: Settings) -> AsyncIterator[Assistant]:
    """An assistant with an engine whose models are there."""
    made = Assistant(engine, settings)
    try:
        await made.prepare()
        yield made
    finally:
        await made.close()


def remote(service: Service, **options: Any) -> Any:
    """An assistant over a service."""
    settings = service.settings(**options)
    return assistant(RemoteEngine(settings.model, resolve_model_specs(settings)), settings)


def local(service: Service) -> Any:
    """An assistant whose engine runs the same weights in this process."""
    settings = service.settings()
    settings = replace(settings, model=replace(settings.model, completion="", endpoint=""))
    return assistant(open_thread_engine(settings), settings)


@dataclass(frozen=True, slots=True)
class Unended(CompletionTask):
    """A completion that only the model or its budget ends."""

    def is_done(self, text: str, prompt: Any) -> bool:
        """Never."""
        return False


async def written(engine: Engine, code: str, tokens: int = 24, **sampling: Any) -> Generation:
    """What an engine writes at the end of some code, before a closing line."""
    ask = Unended(CompletionContext(code, "\n# end\n", "a.py", "python"), tokens, family="clippy")
    wanted = Sampling(max_tokens=tokens, seconds=60.0, **sampling)
    return await engine.submit(Request(ask, wanted, ModelRole.COMPLETE), Priority.EDIT).result()


async def test_greedy_text_is_the_in_process_engines(service: Service) -> None:
    """The same weights, the same prompt, float32: the same text, to the last character."""
    codes = PLAIN if service.kind == "llama.cpp" else CODE
    async with remote(service) as there, local(service) as here:
        for code in codes:
            found, expected = await written(there.engine, code), await written(here.engine, code)
            assert expected.text
            assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason), code


async def test_suggestions_with_candidates(service: Service) -> None:
    """The whole way: template, stream, our end, clean-up."""
    async with remote(service) as subject:
        code = "for key, value in values."
        found = await subject.complete(Document("file:///a.py", code, language="python"), len(code), candidates=3)
        assert found.items and found.generation is not None
        many = 3 if service.kind == "llama.cpp" else 2  # transformers' serve knows no `n`
        assert len(found.generation.candidates) == many
        if service.kind == "llama.cpp":
            assert all(0 < item.confidence < 1 for item in found.items)


async def test_a_long_file_fits_the_window(service: Service) -> None:
    """The estimate of tokens is on the safe side, by the service's own judgement."""
    line = "    value_{0} = compute[{0}]({0}.5, 'naïve ü {0}', **options)  # ☃ {0}\n"
    code = "".join(map(line.format, range(4000)))
    async with remote(service, **({} if service.kind == "llama.cpp" else {"endpointContextLength": 1024})) as subject:
        assert subject.engine.status(ModelRole.COMPLETE).model.window == 1024
        generation = await written(subject.engine, code, 16)
        assert generation.text


async def test_a_service_is_free_after_a_cancel(service: Service) -> None:
    """It notices that the connection is closed, and answers the next at once."""
    async with remote(service) as subject:
        asked = Unended(CompletionContext("import os\n", "", "a.py"), 900, family="clippy")
        wanted = Sampling(max_tokens=900, temperature=1.0, candidates=2, seconds=60.0)
        ticket = subject.engine.submit(Request(asked, wanted, ModelRole.COMPLETE), Priority.EDIT)
        async for _ in ticket.deltas():
            ticket.cancel()
            break
        assert (await ticket.result()).reason is FinishReason.CANCELLED
        assert (await written(subject.engine, "import os\n", 4)).text
        if service.kind == "llama.cpp":
            for _ in range(50):
                if not any(slot["is_processing"] for slot in await asyncio.to_thread(slots, service)):
                    return
                await asyncio.sleep(0.1)
            raise AssertionError("a slot is still busy")


def slots(service: Service) -> Any:
    """What llama.cpp's server says of its slots."""
    with urllib.request.urlopen(service.url.removesuffix("/v1") + "/slots", timeout=5) as answer:
        return json.load(answer)


async def test_an_edit_is_made_or_refused_with_the_reason(service: Service) -> None:
    """llama.cpp's server holds the shipped model to the grammar, so that it always writes a diff of the text; what it
    writes elsewhere is placed by its text, or refused."""
    text = "import os\nimport sys\n\nprint(sys.argv)\n"
    async with remote(service) as subject:
        assert subject.edits_possible()
        made = await subject.edit(Document("file:///a.py", text, language="python"), "Remove the unused import os")
        if service.kind == "transformers":  # with our own tokenizer the model gets this right
            assert isinstance(made, Proposal) and made.after == text.removeprefix("import os\n"), made
        for message in ("Add a docstring", "Rename argv to arguments"):
            made = await subject.edit(Document("file:///a.py", text, language="python"), message)
            good = made.after != text if isinstance(made, Proposal) else "the model" in made.reason
            assert good, made
            if service.kind == "llama.cpp" and not isinstance(made, Proposal):
                assert "diff was refused" not in made.reason, made


async def test_a_model_that_is_not_there_is_named(service: Service) -> None:
    """By the service's own words; llama.cpp's server takes any name for its only model."""
    if service.kind == "llama.cpp":
        pytest.skip("it has one model, whatever it is called")
    async with remote(service, completion="nobody/nothing") as subject:
        with pytest.raises(EngineError, match="nobody/nothing"):
            await written(subject.engine, "import os\n", 4)
