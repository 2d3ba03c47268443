"""Measure the start of the server: `initialize`, the loading of the model, the first suggestion.

    python -m bench.latency [--quick] [--model FOLDER]

Measured on the real process through the protocol, with the engine in it (`bench.host` measures the shared host).
`bench.speed` measures the speed after the start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.client import LanguageClient

SAMPLE = Path(__file__).parent.parent / "codeclippy_ls" / "text.py"
_URI = "file:///bench/text.py"


async def _measure_start(arguments: list[str]) -> dict[str, float]:
    """Measure the seconds from the start to ``initialize``, to the model, to the first suggestion; and idle memory."""
    client = LanguageClient("bench", "1")
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @client.feature("codeclippy/status")
    def status(params: Any) -> None:
        if params.state in ("ready", "failed") and not ready.done():
            ready.set_result(None)

    started = time.monotonic()
    await client.start_io(sys.executable, "-m", "codeclippy_ls", *arguments)
    await client.initialize_async(
        types.InitializeParams(
            capabilities=types.ClientCapabilities(),
            process_id=os.getpid(),
            initialization_options={
                "statusNotification": True,
                "completion": {"timeBudgetMs": 60000},
                "model": {"engine": "in-process"},
            },
        )
    )
    initialized = time.monotonic() - started
    client.initialized(types.InitializedParams())
    text = SAMPLE.read_text(encoding="utf-8")
    item = types.TextDocumentItem(uri=_URI, language_id="python", version=1, text=text)
    client.text_document_did_open(types.DidOpenTextDocumentParams(item))
    await ready
    loaded = time.monotonic() - started
    line = next(i for i, row in enumerate(text.split("\n")) if row.startswith("    return"))
    position = types.Position(line, 11)
    await client.text_document_completion_async(types.CompletionParams(types.TextDocumentIdentifier(_URI), position))
    first = time.monotonic() - started
    server = client._server
    assert server is not None
    memory = _read_resident_bytes(server.pid)
    await client.shutdown_async(None)
    client.exit(None)
    await client.stop()
    return {"initialize": initialized, "model": loaded, "first": first, "memory": memory}


def _read_resident_bytes(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return float(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024
    return float(pages * resource.getpagesize())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--model", default="", help="a checkpoint folder; the shipped model if not given")
    parsed = parser.parse_args()
    arguments = [f"--model={parsed.model}"] if parsed.model else []
    starts = [asyncio.run(_measure_start(arguments)) for _ in range(2 if parsed.quick else 5)]
    best = {key: min(start[key] for start in starts) for key in starts[0]}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"start to initialize    {best['initialize'] * 1000:8.0f} ms   (best of {len(starts)}; aim 500)")
    print(f"start to model loaded  {best['model'] * 1000:8.0f} ms")
    print(f"start to first answer  {best['first'] * 1000:8.0f} ms")
    print(f"memory when idle       {best['memory'] / 2**20:8.0f} MiB")
    print(json.dumps({"start": best}))


if __name__ == "__main__":
    main()
