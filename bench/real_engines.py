"""A real model in our server and in llama.cpp's, as `bench.real` asks them: each in a process of its own.

Both are given a document cut at the cursor. Ours is asked as an editor asks it; llama.cpp's server is asked at
``/infill`` as llama.vim asks it, without that plugin's time limits. Both write greedily.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bench.typist import INVOKED, Variant, run_server, wait_for_answers
from tests.editor import Editor

ROOT = Path(__file__).parent.parent
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_NO_LIMIT = {"timeBudgetMs": 60000, "invokedBudgetMs": 60000, "candidates": 1, "temperature": 0, "prefetch": False}
# A request by key for one candidate would be answered from the suggestion before it, at temperature 0 two are one.
KEYS: dict[str, Any] = {"candidates": 2}
RESTING: dict[str, Any] = {"candidates": 2, "prefetch": True}


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a document."""

    before: str
    after: str

    def type(self, text: str) -> Place:
        """Return the cursor after a text was typed."""
        return replace(self, before=self.before + text)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of an answer: seconds until it came, and CPU seconds of the process."""

    seconds: float
    cpu_seconds: float


class Completer(Protocol):
    """A server that completes at a cursor."""

    process: int

    async def complete(self, place: Place, name: str) -> tuple[str, Timing]:
        """Return the text at a cursor in the document of that name, which differs from the last only at the cursor."""

    async def rest(self, place: Place, name: str, seconds: float) -> None:
        """Open a document and let the cursor rest."""


def read_cpu_seconds(process: int) -> float:
    """Return the CPU seconds of a process; 0 off Linux."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def read_peak_memory(process: int) -> int:
    """Return the largest memory that a process has had, in bytes; 0 off Linux."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


class OwnServer:
    """Our server, with the engine in its process."""

    def __init__(self, editor: Editor, process: int) -> None:
        self._editor, self.process = editor, process

    async def complete(self, place: Place, name: str) -> tuple[str, Timing]:
        """See `Completer`."""
        editor, uri = self._editor, f"file:///bench/{name}.py"
        cursor = len(place.before)
        if (buffer := editor.buffers.get(uri)) is None:
            buffer = editor.open(place.before + place.after, uri)
        elif (typed := cursor - (len(buffer.text) - len(place.after))) > 0:
            editor.type(buffer, cursor - typed, place.before[cursor - typed :])
        started, cpu = time.perf_counter(), read_cpu_seconds(self.process)
        params = {**editor.at(buffer, cursor), "context": {"triggerKind": INVOKED}}
        request = editor.request("textDocument/inlineCompletion", params)
        await wait_for_answers(request)
        timing = Timing(time.perf_counter() - started, read_cpu_seconds(self.process) - cpu)
        items = (request.result() or {}).get("items", [])
        if not items:
            return "", timing
        span = items[0].get("range")
        start = buffer.offset(span["start"]) if span else cursor
        return items[0]["insertText"][cursor - start :], timing

    async def rest(self, place: Place, name: str, seconds: float) -> None:
        """See `Completer`."""
        buffer = self._editor.open(place.before + place.after, f"file:///bench/{name}.py")
        self._editor.notify("codeclippy/cursor", self._editor.at(buffer, len(place.before)))
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def run_own(
    model: str, tokens: int, threads: int, completion: dict[str, Any] | None = None
) -> AsyncIterator[OwnServer]:
    """Run our server with a model, until it is loaded.

    Args:
        completion: settings that differ from one candidate without a time limit.

    Raises:
        ConnectionError: the model cannot be loaded.
    """
    variant = Variant({"model": {"completion": model}, "completion": {**_NO_LIMIT, **(completion or {})}})
    async with run_server(variant, tokens, threads, Path(os.devnull)) as (editor, process):
        states = [m["params"] for m in editor.seen if m.get("method") == "codeclippy/status"]
        if states and states[-1]["state"] == "failed":
            raise ConnectionError(f"{model} cannot be loaded: {states[-1].get('message', '')}")
        yield OwnServer(editor, process)


class LlamaServer:
    """llama.cpp's server."""

    def __init__(self, address: str, process: int, tokens: int) -> None:
        self._address, self.process, self._tokens = address.partition("//")[2], process, tokens

    async def complete(self, place: Place, name: str) -> tuple[str, Timing]:
        """See `Completer`."""
        before, newline, line = place.before.rpartition("\n")
        body = {
            "input_prefix": before + newline,
            "prompt": line,
            "input_suffix": place.after,
            "input_extra": [],
            "n_predict": self._tokens,
            "n_indent": len(line) - len(line.lstrip()),
            "samplers": ["top_k", "infill"],
            "top_k": 1,
            "cache_prompt": True,
            "id_slot": 0,
        }
        started, cpu = time.perf_counter(), read_cpu_seconds(self.process)
        answer = await asyncio.to_thread(self.post, "/infill", body)
        return answer["content"], Timing(time.perf_counter() - started, read_cpu_seconds(self.process) - cpu)

    async def rest(self, place: Place, name: str, seconds: float) -> None:
        """Ask for no token, as llama.vim does to have a prompt read."""
        before, newline, line = place.before.rpartition("\n")
        body = {"input_prefix": before + newline, "prompt": line, "input_suffix": place.after, "n_predict": 0}
        await asyncio.to_thread(self.post, "/infill", {**body, "input_extra": [], "cache_prompt": True, "id_slot": 0})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Post a request and return the answer."""
        connection = http.client.HTTPConnection(self._address)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextlib.asynccontextmanager
async def run_llama(model: str, tokens: int, threads: int) -> AsyncIterator[LlamaServer]:
    """Run llama.cpp's server with a GGUF file.

    Raises:
        ConnectionError: it does not start.
    """
    command = [sys.executable, "-m", "bench.real_engines", model, str(threads)]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        address = ""
        while not address and (line := await child.stdout.readline()):
            address = line.decode().strip() if line.startswith(b"http") else ""
        if not address:
            raise ConnectionError("llama.cpp's server does not start")
        yield LlamaServer(address, child.pid, tokens)
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), 30)


def _serve_llama(model: str, threads: int) -> None:
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path = model
    options.n_ctx, options.n_parallel, options.n_gpu_layers = 4096, 1, 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    options.cache_ram_mib = 0  # no cache of older prompts: copying them would cost it time
    options.fit_params = options.ui = False
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve_llama(sys.argv[1], int(sys.argv[2]))
