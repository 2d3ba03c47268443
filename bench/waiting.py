"""Measure what a person gets to see in the time that she waits, with a real model and through the real server.

    python -m bench.waiting [FILES] --model FOLDER [--cases 4] [--threads 1] [--open-seconds 0]

FILES is a folder of Python files; this repository's own by default. Each case is a cursor in a document of its own, cut
as in `bench.suggest`: the rest of a line, a new line, in brackets, a body. Four ways to ask at it:

- *typing, cold*: the document is opened, ``--open-seconds`` later the last character before the cursor is typed;
- *typing, warm*: the last eight characters are typed at 250 ms per key, with a request after each;
- *by key, cold* and *warm*: the same, and the last request is invoked instead of automatic.

Per way: *shown*; *exact*, the first line equals that of the removed text; *harmful*, of those shown; *part*, of those
shown, texts that end inside a line that the model would have finished without a time limit; the median wait. Of
the prompts: *reused*, the share of tokens that later keys of a document found read already, and *first keys read*, the
share of tokens that their first key found read. On Linux, time that the engine's
thread waits for a core is left out, so that other programs on the machine matter less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.suggest import InfillCase, cut_cases, is_harmful, read_files
from bench.typist import AUTOMATIC, INVOKED, Typist, Variant, run_server, wait_for_answers
from tests.editor import Buffer, Editor

KINDS = ("rest of a line", "new line", "in brackets", "body")
_KEYS, _SECONDS_PER_KEY = 8, 0.25
# A workspace may lower limits, so the server starts with those of the answers without a limit.
_OPTIONS = {"invokedBudgetMs": 60000}
_UNLIMITED, _LIMITED = {"completion": {"candidates": 1}}, {"completion": {"invokedBudgetMs": 5000}}
_COLUMNS = {
    "": 16,
    "shown": 8,
    "exact": 8,
    "harmful": 9,
    "part": 7,
    "median ms": 11,
    "tokens": 8,
    "reused": 9,
    "first keys read": 17,
}
# Prints each keystroke's document, the tokens of its prompt, and how many of them were read already.
_REPORT = """
import sys
from codeclippy_ls.engine import generation_job
class GenerationJob(generation_job.GenerationJob):
    def __init__(self, handle, model, prompt, prefix, deadline):
        super().__init__(handle, model, prompt, prefix, deadline)
        if handle.priority == 0:
            numbers = len(prompt.token_ids), len(prefix.token_ids)
            print("prompt", handle.request.key, *numbers, file=sys.stderr, flush=True)
generation_job.GenerationJob = GenerationJob
"""
# Time that the engine's thread waits for a core does not count: other programs run on this machine, too.
_CLOCK = """
import threading, time
from pathlib import Path
def read_wait():
    stat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    return int(stat.read_text().split()[1]) / 1e9
class Deadline(generation_job.Deadline):
    __slots__ = ("wait",)
    def __init__(self, at):
        super().__init__(at)
        self.wait = read_wait()
    @property
    def has_passed(self):
        return time.monotonic() - (read_wait() - self.wait) > self.at
generation_job.Deadline = Deadline
"""


class Clock:
    """Seconds less the time that a process's busiest thread, the engine's, waited for a core; off Linux all seconds."""

    def __init__(self, process: int) -> None:
        self._process = process

    def __call__(self) -> float:
        threads = [self._read(path) for path in Path(f"/proc/{self._process}/task").glob("*/schedstat")]
        return time.perf_counter() - max(threads, default=(0.0, 0.0))[1]

    def _read(self, path: Path) -> tuple[float, float]:
        try:
            ran, waited, _ = path.read_text().split()
        except (OSError, ValueError):
            return 0.0, 0.0
        return int(ran) / 1e9, int(waited) / 1e9

    async def sleep(self, seconds: float) -> None:
        """Wait until that much time has passed."""
        until = self() + seconds
        while (left := until - self()) > 0:  # noqa: ASYNC110 - nothing reports that a thread has run
            await asyncio.sleep(max(left, 0.005))


@dataclass
class Way:
    """A way to ask, and what came of it."""

    name: str
    keys: int
    kind: int
    shown: int = 0
    exact: int = 0
    harmful: int = 0
    parts: int = 0
    seconds: list[float] = field(default_factory=list)


def list_ways(names: Sequence[str]) -> list[Way]:
    """List the ways to ask, all of them without names."""
    ways = [
        Way("typing, cold", 1, AUTOMATIC),
        Way("typing, warm", _KEYS, AUTOMATIC),
        Way("by key, cold", 1, INVOKED),
        Way("by key, warm", _KEYS, INVOKED),
    ]
    return [way for way in ways if not names or way.name in names]


async def ask(
    editor: Editor, clock: Clock, case: InfillCase, way: Way, uri: str, open_seconds: float
) -> tuple[str, int, float]:
    """Open a document, type up to the cursor and ask; return the text, what it replaces, and the seconds."""
    before = case.prefix[: -way.keys]
    buffer = editor.open(before + case.suffix, uri)
    typist, cursor = Typist(editor, AUTOMATIC), len(before)
    if open_seconds:
        editor.notify("codeclippy/cursor", editor.at(buffer, cursor))
    await clock.sleep(open_seconds)
    for character in case.prefix[len(before) : -1]:
        cursor = editor.type(buffer, cursor, character)
        typist.cancel()
        typist.request_completion(buffer, cursor, time.perf_counter())
        await clock.sleep(_SECONDS_PER_KEY)
    cursor = editor.type(buffer, cursor, case.prefix[-1])
    typist.cancel()
    started = clock()
    result = await request(editor, buffer, cursor, way.kind)
    seconds = clock() - started
    editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    await typist.wait_until_idle()
    return *read_item(buffer, cursor, result), seconds


async def request(editor: Editor, buffer: Buffer, cursor: int, kind: int) -> Any:
    """Request ghost text and wait for the answer."""
    params = {**editor.at(buffer, cursor), "context": {"triggerKind": kind}}
    future = editor.request("textDocument/inlineCompletion", params)
    await wait_for_answers(future)
    return future.result()


def read_item(buffer: Buffer, cursor: int, result: Any) -> tuple[str, int]:
    """Return the first item's text and how much behind the cursor it replaces; an empty text without an item."""
    items = (result or {}).get("items", [])
    if not items:
        return "", 0
    span = items[0].get("range")
    start, end = (buffer.offset(span["start"]), buffer.offset(span["end"])) if span else (cursor, cursor)
    return items[0]["insertText"][cursor - start :], end - cursor


def is_part(text: str, whole: str) -> bool:
    """Return whether a text ends inside a line that the whole answer finishes."""
    return whole.startswith(text) and bool(whole[len(text) :].partition("\n")[0].strip())


def record(way: Way, case: InfillCase, text: str, replaces: int, seconds: float, whole: str) -> None:
    """Count one answer."""
    way.seconds.append(seconds)
    if not text:
        return
    way.shown += 1
    way.exact += text.strip().split("\n")[0].rstrip() == case.middle.strip().split("\n")[0].rstrip()
    way.harmful += is_harmful(replace(case, suffix=case.suffix[replaces:]), text)
    way.parts += is_part(text, whole)


async def answer_without_limit(editor: Editor, cases: list[InfillCase]) -> list[str]:
    """Return the answer to each case if there is no time limit."""
    found = []
    editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": _UNLIMITED}})
    for number, case in enumerate(cases):
        buffer = editor.open(case.prefix + case.suffix, f"file:///bench/{number}-whole.py")
        result = await request(editor, buffer, len(case.prefix), INVOKED)
        found.append(read_item(buffer, len(case.prefix), result)[0])
        editor.notify("textDocument/didClose", {"textDocument": {"uri": buffer.uri}})
    editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": _LIMITED}})
    return found


def read_prompts(log: Path) -> dict[str, list[tuple[int, int]]]:
    """Read the server's log: for each document the tokens of its prompts, and how many were read already."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in log.read_text().split("\n"):
        if line.startswith("prompt "):
            uri, total, cached = line.removeprefix("prompt ").rsplit(" ", 2)
            found.setdefault(uri, []).append((int(total), int(cached)))
    return found


async def measure(parsed: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Measure all ways and print a row for each; the server logs to ``log``."""
    files = read_files(parsed.files)
    cases = [case for kind in KINDS for case in cut_cases(files, kind, parsed.cases, parsed.seed)]
    cases = [case for case in cases if len(case.prefix) > _KEYS]
    variant = Variant({"model": {"completion": parsed.model}, "completion": _OPTIONS}, _REPORT + _CLOCK)
    rows: dict[str, Any] = {}
    print("".join(f"{title:>{width}}" for title, width in _COLUMNS.items()))
    async with run_server(variant, 48, parsed.threads, log) as (editor, process):
        clock = Clock(process)
        wholes = await answer_without_limit(editor, cases)
        for way in list_ways(parsed.ways):
            log.write_text("")
            for number, case in enumerate(cases):
                # The name stands at the prompt's start, so that no way finds the prompt of another one.
                uri = f"file:///bench/{number}-{way.name.replace(', ', '-')}.py"
                text, replaces, seconds = await ask(editor, clock, case, way, uri, parsed.open_seconds)
                record(way, case, text, replaces, seconds, wholes[number])
                if parsed.show:
                    print(f"{case.prefix[-50:]!r} [{text!r}] whole {wholes[number]!r} was {case.middle!r}", flush=True)
            rows[way.name] = row = summarize(way, read_prompts(log), len(cases))
            cells = [f"{row[key]:.0%}" for key in ("shown", "exact", "harmful", "part")]
            cells += [
                f"{row['ms']:.0f}",
                f"{row['tokens']:.0f}",
                f"{row['reused']:.0%}",
                f"{row['first_keys_read']:.0%}",
            ]
            print("".join(f"{c:>{w}}" for c, w in zip((way.name, *cells), _COLUMNS.values(), strict=True)), flush=True)
    return rows


def summarize(way: Way, by_document: dict[str, list[tuple[int, int]]], count: int) -> dict[str, float]:
    """Summarize a way's answers, and its prompts by document."""
    first = [prompts[0] for prompts in by_document.values()]
    later = [prompt for prompts in by_document.values() for prompt in prompts[1:]]
    everything = first + later
    return {
        "cases": count,
        "shown": way.shown / count,
        "exact": way.exact / count,
        "harmful": way.harmful / max(1, way.shown),
        "part": way.parts / max(1, way.shown),
        "ms": 1000 * statistics.median(way.seconds),
        "prompts": len(everything),
        "tokens": statistics.mean(tokens for tokens, _ in everything),
        "reused": sum(cached for _, cached in later) / max(1, sum(tokens for tokens, _ in later)),
        "first_keys_read": sum(cached for _, cached in first) / max(1, sum(tokens for tokens, _ in first)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="?", default=Path(__file__).parent.parent / "codeclippy_ls")
    parser.add_argument("--model", default="", help="a folder or hub name; the shipped model if not given")
    parser.add_argument("--cases", type=int, default=4, help="number of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--open-seconds", type=float, default=0.0, help="between opening the document and the first key"
    )
    parser.add_argument("--ways", nargs="+", default=[], help="only these")
    parser.add_argument("--show", action="store_true", help="print each answer")
    parsed = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, "
        f"{parsed.threads} threads, seed {parsed.seed}, Python {sys.version.split()[0]}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(parsed, Path(folder) / "log"))
    print(json.dumps({"load_before": load, "load_after": os.getloadavg()[0], "rows": rows}))


if __name__ == "__main__":
    main()
