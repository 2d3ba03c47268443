"""Services for the tests of the remote engine: a scripted one that sends raw bytes, and two real ones.

The real ones are llama.cpp's server, from the package `xllamacpp`, with the shipped model in float32, and transformers'
own `serve`. Run as a program, this module is llama.cpp's server: it prints its address and runs until its stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODELS = {"object": "list", "data": [{"id": "qwen2.5-coder-7b", "object": "model", "max_model_len": 4096}]}


@dataclass
class RecordedRequest:
    """A request that the service received: its first line, its headers in lower case, its body."""

    line: str
    headers: dict[str, str]
    body: dict[str, Any]


Answer = Callable[[RecordedRequest, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Stub:
    """A scripted service.

    Attributes:
        answer: writes the response to a POST.
        models: the response to a GET; of another path than the list's, ``properties``.
        cut_off: number of connections that the client closed before the response was complete.
    """

    answer: Answer
    models: bytes = b""
    properties: bytes = b""
    requests: list[RecordedRequest] = field(default_factory=list)
    cut_off: int = 0
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, for one request."""
        self._writers.add(writer)
        try:
            request = await _read_request(reader)
            self.requests.append(request)
            if request.line.startswith("GET"):
                is_list = request.line.startswith("GET /v1/models ")
                writer.write((self.models if is_list else self.properties) or json_response(MODELS))
            else:
                closed = asyncio.create_task(reader.read(1))
                answered = asyncio.ensure_future(self.answer(request, writer))
                await asyncio.wait((closed, answered), return_when=asyncio.FIRST_COMPLETED)
                self.cut_off += not answered.done()
                for task in (closed, answered):
                    task.cancel()
                await asyncio.gather(closed, answered, return_exceptions=True)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def drop(self) -> None:
        """Abort all connections, as a process that dies does."""
        for writer in self._writers:
            writer.transport.abort()

    @property
    def posts(self) -> list[RecordedRequest]:
        """The POST requests."""
        return [request for request in self.requests if request.line.startswith("POST")]


async def _read_request(reader: asyncio.StreamReader) -> RecordedRequest:
    line = (await reader.readline()).decode()
    headers: dict[str, str] = {}
    while header := (await reader.readline()).decode().strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return RecordedRequest(line.strip(), headers, json.loads(body) if body else {})


@contextlib.asynccontextmanager
async def run_stub(answer: Answer, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stub]:
    """Run a scripted service on a free port, or on a given one."""
    stub = Stub(answer)
    server = await asyncio.start_server(stub.serve, "127.0.0.1", port, ssl=tls)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        stub.drop()


def response_head(status: str = "200 OK", content_type: str = "text/event-stream", headers: str = "") -> bytes:
    """Return the head of a response that ends with its connection."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{headers}Connection: close\r\n\r\n".encode()


def json_response(body: Any, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a response in JSON."""
    return response_head(status, "application/json", headers) + json.dumps(body).encode()


def event(text: str, index: int = 0, finish: str | None = None, logprobs: Any = None) -> bytes:
    """Return an event with a piece of text, in the completions interface."""
    choice = {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


@contextlib.contextmanager
def run_llama_server(model: Path) -> Iterator[str]:
    """Run llama.cpp's server with a GGUF file, or with the shipped model for a folder; yields the endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.services", str(model)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = next((line for line in process.stdout if line.startswith("http")), "")
        assert address, "llama.cpp's server did not start"
        yield address.strip() + "/v1"
    finally:
        process.stdin.close()
        process.wait(20)


@contextlib.contextmanager
def run_transformers_server(folder: Path, scratch: Path) -> Iterator[str]:
    """Run `transformers serve` with the model of a folder, in float32; yields the endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from transformers.cli.transformers import main; main()",
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    process = subprocess.Popen(
        command,
        cwd=scratch,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert _wait_until_healthy(port, process), "transformers serve did not start"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(240):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        if process.poll() is not None:
            return False
        time.sleep(0.25)
    return False


def write_gguf(folder: Path, path: Path) -> None:
    """Write the shipped model with its tokenizer, as far as llama.cpp supports it.

    The regular expression is GPT-2's, which splits digits, underscores and indentation in another way.
    """
    import gguf

    from bench import peer_formats

    model = peer_formats.convert_checkpoint(folder)
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = dict(definition["model"]["vocab"])
    control = {token["content"]: token["id"] for token in definition["added_tokens"]}
    names = {id: token for token, id in {**ids, **control}.items()}
    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_name("shipped")
    vocab_size = peer_formats.write_sizes(writer, model)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(id, f"<|unused{id}|>") for id in range(vocab_size)])
    token_types = [
        gguf.TokenType.CONTROL
        if id in control.values()
        else gguf.TokenType.NORMAL
        if id in names
        else gguf.TokenType.UNUSED
        for id in range(vocab_size)
    ]
    writer.add_token_types(token_types)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"]]
    )
    writer.add_bos_token_id(control["<|endoftext|>"])
    writer.add_eos_token_id(control["<|endoftext|>"])
    writer.add_add_bos_token(False)
    for name, weight in model.weights.items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _serve(path: Path) -> None:
    import xllamacpp

    from codeclippy_ls.inference.spec import SHIPPED_FOLDER

    if path.is_dir():
        path = path / "shipped.gguf"
        if not path.exists():
            write_gguf(SHIPPED_FOLDER, path)
    options = xllamacpp.CommonParams()
    options.model.path = str(path)
    options.n_ctx, options.n_parallel, options.n_gpu_layers = 4096, 4, 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.fit_params = options.ui = False
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
