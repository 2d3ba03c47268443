"""A real model in our server and in llama.cpp's: starts, memory, prompts, tokens, keystrokes, and how good they are.

    python -m bench.real MODELS... [--quick] [--lines 60] [--formats int8,float32] [--parts start,speed,keys,lines,bits]

MODELS are GGUF files and checkpoint folders. Each is measured in our server; a GGUF file also in llama.cpp's, if that
is installed (``xllamacpp``, as in the environment that `make test-services` makes):

- *start*: from the start of the process until the model is ready, with an empty cache of prepared models and again with
  what the first start wrote; the largest memory until then and half a minute of work later;
- *speed*: a prompt of 512 tokens and 32 tokens after it, milliseconds a token, by the clock and by CPU time;
- *keys*: one key in a document that was never read, four keys behind it, and one key where the cursor rested before;
  up to 16 tokens each;
- *lines*: HumanEval's single lines filled in, with the cursor behind the indentation: shown, first line exact, passes;
- *bits*: bits per byte of this repository's own files, in each number format.

What is absent is skipped with the reason. The machine's limits are measured in the same run. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.real_engines import (
    KEYS,
    RESTING,
    ROOT,
    Completer,
    LlamaServer,
    Place,
    Timing,
    read_cpu_seconds,
    read_peak_memory,
    run_llama,
    run_own,
)

PARTS = ("start", "speed", "keys", "lines", "bits")
EVALUATION = ROOT.parent / "shared" / "eval" / "HumanEval-SingleLineInfilling.jsonl.gz"
FILES = ("text.py", "settings.py", "diffs/matching.py", "prompts/context.py", "server/convert.py", "host/start.py")
_PROMPT_TOKENS, _NEW_TOKENS, _KEY_TOKENS, _LINE_TOKENS = 512, 32, 16, 48
_TYPED = "retu"
_REST_SECONDS = 8.0
Run = Callable[[], AbstractAsyncContextManager[Completer]]


def list_columns(model: str, threads: int, tokens: int, completion: dict[str, Any] | None = None) -> dict[str, Run]:
    """List the servers that can run a model, by name; ``completion`` are settings of ours."""
    columns: dict[str, Run] = {"ours": partial(run_own, model, tokens, threads, completion)}
    if model.endswith(".gguf") and find_spec("xllamacpp") is not None:
        columns["llama.cpp"] = partial(run_llama, model, tokens, threads)
    return columns


async def measure_start(model: str) -> dict[str, dict[str, float]]:
    """Measure the first and the second start of each server, and the memory."""
    rows: dict[str, dict[str, float]] = {}
    for name, run in list_columns(model, os.cpu_count() or 1, _KEY_TOKENS).items():
        for which in ("first", "second"):
            started = time.perf_counter()
            async with run() as server:
                seconds, at_start = time.perf_counter() - started, read_peak_memory(server.process)
                await asyncio.sleep(_REST_SECONDS)  # for packing
                await server.complete(cut_places(1)[0], "memory")
                peak = read_peak_memory(server.process)
            rows[f"{name}, {which} start"] = {"seconds": seconds, "MiB": at_start / 2**20, "peak MiB": peak / 2**20}
    return rows


def cut_places(count: int) -> list[Place]:
    """Cut documents of about 540 tokens at the start of a statement."""
    places = []
    for file in FILES[:count]:
        text = (ROOT / "codeclippy_ls" / file).read_text(encoding="utf-8")
        start = text.index("    return ", 1500) + 4
        places.append(Place(text[max(0, start - 1700) : start], text[start:][:300].partition("\n")[2]))
    return places


async def measure_keys(model: str, threads: int, count: int) -> dict[str, dict[str, float]]:
    """Measure keys in documents that were never read, that were, and where the cursor rested before."""
    rows: dict[str, dict[str, float]] = {}
    for name, run in list_columns(model, threads, _KEY_TOKENS, KEYS).items():
        timings: dict[str, list[Timing]] = {"cold": [], "warm": []}
        async with run() as server:
            await _wake(server)
            for number, place in enumerate(cut_places(count)):
                for end in range(len(_TYPED) + 1):
                    _, timing = await server.complete(place.type(_TYPED[:end]), f"{number}")
                    timings["warm" if end else "cold"].append(timing)
        rows |= {f"{name}, {kind}": summarize(found) for kind, found in timings.items()}
    for name, run in list_columns(model, threads, _KEY_TOKENS, RESTING).items():
        found = []
        async with run() as server:
            await _wake(server)
            for number, place in enumerate(cut_places(count)):
                await server.rest(place, f"{number}", _REST_SECONDS)
                _, timing = await server.complete(place.type(_TYPED[:1]), f"{number}")
                found.append(timing)
        rows[f"{name}, prewarmed"] = summarize(found)
    return rows


async def _wake(server: Completer) -> None:
    """Let a server pack its weights and answer once."""
    await server.complete(Place("def f(x):\n    retu", "\n"), "first")
    await asyncio.sleep(_REST_SECONDS)


def summarize(timings: Sequence[Timing]) -> dict[str, float]:
    """Return the median milliseconds."""
    return {
        "ms": 1000 * statistics.median(timing.seconds for timing in timings),
        "CPU ms": 1000 * statistics.median(timing.cpu_seconds for timing in timings),
    }


async def measure_lines(model: str, threads: int, count: int) -> dict[str, dict[str, float]]:
    """Fill in single lines and run them."""
    from training.evaluate_human import ProgramRunner, filter_solvable, load_tasks

    runner = ProgramRunner()
    tasks = filter_solvable(load_tasks(EVALUATION, count), runner)
    rows: dict[str, dict[str, float]] = {}
    for name, run in list_columns(model, threads, _LINE_TOKENS).items():
        shown = exact = passed = 0
        async with run() as server:
            for number, task in enumerate(tasks):
                middle = task.case.middle
                indentation = middle[: len(middle) - len(middle.lstrip())]
                place = Place(task.case.prefix + indentation, task.case.suffix)
                text, _ = await server.complete(place, f"line{number}")
                line = text.partition("\n")[0].rstrip()
                shown += bool(line)
                exact += indentation + line == middle.rstrip()
                passed += bool(line) and runner.passes(task.build_program(indentation + line))
        size = len(tasks)
        rows[name] = {"tasks": size, "shown": shown / size, "exact": exact / size, "passes": passed / size}
    return rows


async def measure_llama_speed(model: str, threads: int) -> dict[str, float]:
    """Measure a prompt and tokens in llama.cpp's server, by its own clock and by CPU time."""
    async with run_llama(model, _NEW_TOKENS, threads) as server:
        ids = server.post("/tokenize", {"content": read_sample()})["tokens"][:_PROMPT_TOKENS]
        prompts, tokens = [], []
        for _ in range(3):
            prompts.append(_time_llama(server, ids, 1, is_cached=False))
            tokens.append(_time_llama(server, ids, _NEW_TOKENS, is_cached=True))
    return {
        "prompt ms": statistics.median(prompt[0] for prompt in prompts) / len(ids),
        "prompt CPU ms": statistics.median(prompt[2] for prompt in prompts) / len(ids),
        "token ms": statistics.median(token[1] for token in tokens) / _NEW_TOKENS,
        "token CPU ms": statistics.median(token[2] for token in tokens) / _NEW_TOKENS,
    }


def _time_llama(server: LlamaServer, ids: list[int], count: int, is_cached: bool) -> tuple[float, float, float]:
    cpu = read_cpu_seconds(server.process)
    options = {"samplers": ["top_k"], "top_k": 1, "ignore_eos": True}
    answer = server.post("/completion", {"prompt": ids, "n_predict": count, "cache_prompt": is_cached, **options})
    timings = answer["timings"]
    return timings["prompt_ms"], timings["predicted_ms"], 1000 * (read_cpu_seconds(server.process) - cpu)


def read_sample() -> str:
    """Read code of this repository as one text."""
    return "\n".join((ROOT / "codeclippy_ls" / file).read_text(encoding="utf-8") for file in FILES)


def measure_in_process(model: str, number_format: str, threads: int, part: str) -> dict[str, float]:
    """Measure our decoder in a process of its own, so that its memory is free afterwards."""
    arguments = [sys.executable, "-m", "bench.real", "--worker", part, number_format, str(threads), model]
    output = subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.strip().rpartition("\n")[2])
    return found


def run_worker(part: str, number_format: str, threads: str, model: str) -> dict[str, float]:
    """Measure one thing of a loaded model."""
    import torch

    from bench.limits import measure_bandwidth, measure_peaks
    from bench.threads import wait_until_packed
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.inference.spec import ModelSpec

    if part == "limits":
        torch.set_num_threads(int(threads))
        return {"GB/s": measure_bandwidth(1 << 28) / 1e9, **{f"{k} G/s": v / 1e9 for k, v in measure_peaks().items()}}
    loaded = load(ModelSpec(model, "cpu", number_format, int(threads)))
    wait_until_packed()
    if part == "bits":
        return {"bits per byte": compute_bits_per_byte(loaded), "MiB": loaded.nbytes / 2**20}
    return measure_speed(loaded)


def measure_speed(model: Any) -> dict[str, float]:
    """Measure a prompt and the tokens after it, by the clock and by CPU time."""
    from codeclippy_ls.engine.generation.kv_cache import ModelInput

    ids = model.tokenizer.encode(read_sample())[:_PROMPT_TOKENS]
    step = model.speed.prefill_chunk
    prompts, tokens = [], []
    for _ in range(4):
        kv_cache = model.new_cache()
        started, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(ids), step):
            chunk = ids[start : start + step]
            (logits,) = model.forward([ModelInput(chunk, kv_cache, int(start + step >= len(ids)))])
        prompts.append(Timing(time.perf_counter() - started, time.process_time() - cpu))
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(_NEW_TOKENS):
            (logits,) = model.forward([ModelInput([int(logits[-1].argmax())], kv_cache)])
        tokens.append(Timing(time.perf_counter() - started, time.process_time() - cpu))
    return {
        "prompt ms": 1000 * statistics.median(timing.seconds for timing in prompts[1:]) / len(ids),
        "prompt CPU ms": 1000 * statistics.median(timing.cpu_seconds for timing in prompts[1:]) / len(ids),
        "token ms": 1000 * statistics.median(timing.seconds for timing in tokens[1:]) / _NEW_TOKENS,
        "token CPU ms": 1000 * statistics.median(timing.cpu_seconds for timing in tokens[1:]) / _NEW_TOKENS,
        "threads": model.thread_tuner.count,
    }


def compute_bits_per_byte(model: Any) -> float:
    """Compute the bits that a model needs for a byte of this repository's files, behind the first 16 tokens of each."""
    import torch

    from codeclippy_ls.engine.generation.kv_cache import ModelInput

    bits = num_bytes = 0.0
    for file in FILES:
        text = (ROOT / "codeclippy_ls" / file).read_text(encoding="utf-8")[:3000]
        ids = model.tokenizer.encode(text)
        (logits,) = model.forward([ModelInput(ids, model.new_cache(), len(ids))])
        losses = torch.nn.functional.cross_entropy(logits[16:-1], torch.tensor(ids[17:]), reduction="sum")
        bits += float(losses) / math.log(2)
        num_bytes += sum(len(model.tokenizer.token_bytes[id]) for id in ids[17:])
    return bits / num_bytes


class Report:
    """Rows of one model, printed as soon as they are known."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}

    def add(self, title: str, row: dict[str, float]) -> None:
        """Add a row."""
        self.rows[title] = row
        print(f"  {title:<32} " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)

    def add_all(self, title: str, rows: dict[str, dict[str, float]]) -> None:
        """Add rows whose names begin alike."""
        for name, row in rows.items():
            self.add(title + name, row)


def measure_model(model: str, options: argparse.Namespace) -> Report:
    """Measure a model."""
    report, counts = Report(), sorted({1, os.cpu_count() or 1})
    if lacks_llama := "llama.cpp" not in list_columns(model, 1, 1):
        reason = "xllamacpp is not installed" if model.endswith(".gguf") else "it reads no such folder"
        print(f"  llama.cpp's server is left out: {reason}")
    places = 2 if options.quick else len(FILES)
    work: dict[str, Callable[[], object]] = {
        "start": lambda: report.add_all("", asyncio.run(measure_start(model))),
        "speed": lambda: add_speed(report, model, counts, not lacks_llama),
        "keys": lambda: report.add_all("key: ", asyncio.run(measure_keys(model, counts[-1], places))),
        "lines": lambda: add_lines(report, model, counts[-1], options.lines),
        "bits": lambda: add_bits(report, model, counts[-1], options.formats.split(",")),
    }
    for part in options.parts.split(","):
        work[part]()
    return report


def add_speed(report: Report, model: str, counts: Sequence[int], with_llama: bool) -> None:
    """Measure each number of threads, and the one that the engine chooses."""
    for threads in (*counts, 0):
        report.add(f"ours, {threads or 'chosen'} threads", measure_in_process(model, "auto", threads, "speed"))
        if with_llama and threads:
            report.add(f"llama.cpp, {threads} threads", asyncio.run(measure_llama_speed(model, threads)))


def add_lines(report: Report, model: str, threads: int, count: int) -> None:
    """Fill in HumanEval's lines, if they are on this machine."""
    if EVALUATION.is_file():
        report.add_all("lines: ", asyncio.run(measure_lines(model, threads, count)))
    else:
        print(f"  lines are left out: {EVALUATION.name} is not on this machine")


def add_bits(report: Report, model: str, threads: int, formats: Sequence[str]) -> None:
    """Compute bits per byte in each format."""
    for number_format in formats:
        report.add(f"bits: {number_format}", measure_in_process(model, number_format, threads, "bits"))


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(run_worker(*sys.argv[2:6])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--quick", action="store_true", help="fewer keys and 12 lines")
    parser.add_argument("--lines", type=int, default=60)
    parser.add_argument("--formats", default="int8,float32", help="number formats for bits per byte")
    parser.add_argument("--parts", default=",".join(PARTS), help="only these")
    options = parser.parse_args()
    options.lines = min(options.lines, 12) if options.quick else options.lines
    load = os.getloadavg()[0]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for threads in sorted({1, os.cpu_count() or 1}):
            limits = found[f"limits, {threads} threads"] = measure_in_process("", "auto", threads, "limits")
            print(f"{threads} threads: " + ", ".join(f"{key} {value:.4g}" for key, value in limits.items()), flush=True)
        for model in options.models:
            print(Path(model).name, flush=True)
            if not Path(model).exists():
                print("  left out: it is not on this machine")
                continue
            found[Path(model).name] = measure_model(model, options).rows
    print(json.dumps({"load_before": load, "load_after": os.getloadavg()[0], "found": found}))


if __name__ == "__main__":
    main()
