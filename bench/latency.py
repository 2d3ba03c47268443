"""What a user waits for: the server's start, the first suggestion, each keystroke.

    python -m bench.latency [--quick] [--model FOLDER]

The start is measured on the real process through the protocol. The keystrokes replay a file typed character by
character, once as the server does it, with the prefix cache, once without the cache, and once by transformers'
``generate`` over the same prompts, side by side in one run. Beside them stand the limits of this machine: decoding
cannot beat the weights' bytes over the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.client import LanguageClient

SAMPLE = Path(__file__).parent.parent / "codeclippy_ls" / "text.py"
_URI = "file:///bench/text.py"


async def _start(arguments: list[str]) -> dict[str, float]:
    """Seconds from the process's start to ``initialize``, to the model, to the first suggestion; bytes at rest."""
    client = LanguageClient("bench", "1")
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @client.feature("codeclippy/status")
    def status(params: Any) -> None:
        if params.state in ("ready", "failed") and not ready.done():
            ready.set_result(None)

    started = time.monotonic()
    await client.start_io(sys.executable, "-m", "codeclippy_ls", *arguments)
    await client.initialize_async(types.InitializeParams(
        capabilities=types.ClientCapabilities(), process_id=os.getpid(),
        initialization_options={"statusNotification": True, "completion": {"timeBudgetMs": 60000}}))
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
    process = client._server
    assert process is not None
    memory = _resident(process.pid)
    await client.shutdown_async(None)
    client.exit(None)
    await client.stop()
    return {"initialize": initialized, "model": loaded, "first": first, "memory": memory}


def _resident(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return float(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024
    return float(pages * resource.getpagesize())


def _bandwidth() -> float:
    """Bytes per second that one pass over memory reads, with the engine's threads."""
    import torch

    data = torch.ones(64 << 20, dtype=torch.float32)
    best = 9.0
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best


def _keystrokes(spec: Any, count: int, tokens: int) -> dict[str, Any]:
    """Milliseconds per keystroke: with the prefix cache, without it, and by ``generate``."""
    import torch

    from codeclippy_ls.engine.cache import PrefixCache
    from codeclippy_ls.engine.decode import Chooser, Stream, decoded
    from codeclippy_ls.engine.models import load
    from codeclippy_ls.prompts import Context, completion_prompt

    model = load(spec)
    text = SAMPLE.read_text(encoding="utf-8")
    place = text.index("def offset_at")
    prompts = [
        completion_prompt(model, Context(text[: place + i], text[place + 200 :], ""), model.window, tokens + 8).tokens
        for i in range(count)
    ]
    warm, cold = PrefixCache(1 << 30), PrefixCache(0)
    times: dict[str, list[float]] = {"cache": [], "no cache": [], "generate": []}
    steps = 0

    def ours(cache: PrefixCache, prompt: tuple[int, ...]) -> int:
        prefix = cache.take(prompt, model.new_cache)
        stream = Stream(prefix, None, frozenset(), Chooser(), tokens, model.cost)
        made = sum(len(step.tokens) for step in decoded(model.forward, stream, prompt))
        cache.put(prefix)
        return made

    def theirs(prompt: tuple[int, ...]) -> None:
        ids = torch.tensor([prompt], device=model.device)
        model.module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                              do_sample=False, pad_token_id=0)

    ours(warm, prompts[0])
    theirs(prompts[0])
    for prompt in prompts[1:]:
        for name, run in (("cache", lambda p: ours(warm, p)), ("no cache", lambda p: ours(cold, p)),
                          ("generate", theirs)):
            started = time.perf_counter()
            made = run(prompt)
            times[name].append((time.perf_counter() - started) * 1000)
            steps = made if isinstance(made, int) else steps
    weights = sum(parameter.nbytes for parameter in model.module.parameters())
    bandwidth = _bandwidth()
    return {
        "milliseconds": {name: statistics.median(row) for name, row in times.items()},
        "prompt_tokens": len(prompts[-1]), "new_tokens": steps, "weights_bytes": weights, "bandwidth": bandwidth,
        "floor_ms": steps * weights / bandwidth * 1000, "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."), "device": str(model.device),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--model", default="", help="a checkpoint folder; the shipped model if not given")
    parser.add_argument("--tokens", type=int, default=16, help="new tokens per keystroke")
    parsed = parser.parse_args()
    arguments = [f"--model={parsed.model}"] if parsed.model else []
    starts = [asyncio.run(_start(arguments)) for _ in range(2 if parsed.quick else 5)]
    best = {key: min(start[key] for start in starts) for key in starts[0]}

    from codeclippy_ls.engine.spec import ModelSpec

    keys = _keystrokes(ModelSpec(parsed.model), 12 if parsed.quick else 60, parsed.tokens)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"start to initialize    {best['initialize'] * 1000:8.0f} ms   (best of {len(starts)}; aim 500)")
    print(f"start to model loaded  {best['model'] * 1000:8.0f} ms")
    print(f"start to first answer  {best['first'] * 1000:8.0f} ms")
    print(f"memory at rest         {best['memory'] / 2**20:8.0f} MiB")
    print(f"a keystroke: {keys['prompt_tokens']} tokens of prompt, {keys['new_tokens']} new, {keys['dtype']} on "
          f"{keys['device']}, {keys['threads']} thread(s)")
    base = keys["milliseconds"]["generate"]
    for name, value in keys["milliseconds"].items():
        print(f"  {name:<20} {value:8.1f} ms   {base / value:5.1f} x generate")
    print(f"  limit of decoding    {keys['floor_ms']:8.1f} ms   {keys['weights_bytes'] / 2**20:.0f} MiB of weights a "
          f"token at {keys['bandwidth'] / 1e9:.0f} GB/s")
    print(json.dumps({"start": best, "keystroke": keys}))


if __name__ == "__main__":
    main()
