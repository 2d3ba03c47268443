"""Measure the typing workload through the real server over stdio, and other engines with the same prompts.

    python -m bench.keystrokes [--quick] [--tokens 16] [--no-peers]

- *unhurried*: key by key, the server and engines in turns, one thread each: the same prompt as token ids for each key;
  engines generate all tokens, the server stops at the end of the line or statement.
- *typing* at 50, 150 and 300 ms per key, with requests cancelled as editors do; then with each technique switched off.
- *cancelling*: time until a cancelled request is answered, and how much it delays the next one.
- *the loop*: time until the server refuses an unknown method, with the engine idle, completing and editing.

`bench.workload` makes the keys.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench import limits
from bench.columns import Column, GenerateColumn, NativeColumn, Subject
from bench.typist import (
    INVOKED,
    SWITCHES,
    UNCACHED,
    Outcome,
    Pings,
    Typist,
    Variant,
    read_cpu_seconds,
    run_server,
    wait_for_answers,
)
from bench.workload import Typing, make_typings

SECONDS_PER_KEY = (0.05, 0.15, 0.3)
_URI = "file:///bench/{}-{}.py"


@dataclass(frozen=True)
class Extent:
    """Numbers of keys: unhurried, at each speed, for each switch; numbers of cancels and edits."""

    unhurried: int = 150
    typed: tuple[int, ...] = (400, 300, 200)
    switched: int = 160
    cancels: int = 40
    edits: int = 4


QUICK = Extent(20, (60, 40, 20), 24, 8, 1)


def compute_percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Return median, percentiles and maximum in milliseconds; ``None`` without values."""
    if not seconds:
        return None
    rows = sorted(seconds)
    at = {f"p{share}": rows[min(len(rows) - 1, int(len(rows) * share / 100))] * 1000 for share in (50, 95, 99)}
    return {"count": len(rows), **at, "max": rows[-1] * 1000}


def format_percentiles(percentiles: dict[str, float] | None) -> str:
    """Format percentiles as four columns of a table."""
    if percentiles is None:
        return f"{'-':>8}" * 4
    return "".join(f"{percentiles[key]:8.1f}" for key in ("p50", "p95", "p99", "max"))


def summarize(typist: Typist, cpu: tuple[float, float] | None) -> dict[str, Any]:
    """Summarize the outcomes of a typist's requests, and their cost."""
    counts = {outcome.name.lower(): sum(answer.outcome is outcome for answer in typist.answers) for outcome in Outcome}
    answered = [
        answer for answer in typist.answers if answer.outcome in (Outcome.FRESH, Outcome.THROUGH, Outcome.EMPTY)
    ]
    visible = [answer.seconds for answer in answered if answer.text]
    from_engine = [answer.seconds for answer in answered if answer.outcome is not Outcome.THROUGH]
    loop, others = cpu or (None, None)
    return {
        "sent": typist.sent,
        "answered": len(answered),
        **counts,
        "key_to_answer_ms": compute_percentiles([answer.seconds for answer in answered]),
        "key_to_suggestion_ms": compute_percentiles(visible),
        "key_to_engines_answer_ms": compute_percentiles(from_engine),
        "loop_seconds": loop,
        "engine_seconds": others,
        "engine_ms_per_shown": others * 1000 / len(visible) if others is not None and visible else None,
        "engine_ms_per_key": others * 1000 / typist.sent if others is not None else None,
    }


async def run_typing(
    variant: Variant, name: str, plan: Sequence[tuple[float, Sequence[Typing]]], tokens: int
) -> tuple[list[dict[str, Any]], Pings]:
    """Type each part of a plan into one server, which is pinged during that; return their summaries and the pings."""
    found, pings = [], Pings()
    async with run_server(variant, tokens) as (editor, process):
        await Typist(editor, variant.kind).type(make_typings(5, seed=9)[0], 0.2, _URI.format("warm", 0))
        for seconds_per_key, parts in plan:
            typist, before = Typist(editor, variant.kind), read_cpu_seconds(process)
            async with pings.measure(editor, typist, 0.02):
                for index, typing in enumerate(parts):
                    await typist.type(typing, seconds_per_key, _URI.format(f"{name}-{seconds_per_key}", index))
            after = read_cpu_seconds(process)
            cpu = (after[0] - before[0], after[1] - before[1]) if before and after else None
            found.append({"ms_per_key": seconds_per_key * 1000, **summarize(typist, cpu)})
    return found, pings


def print_typing(rows: dict[str, dict[str, Any]]) -> None:
    """Print one row for each summary."""
    print(
        f"{'':<24}{'sent':>6}{'new':>5}{'thru':>6}{'none':>6}{'stale':>6}{'cancel':>7}{'failed':>7}"
        f"{'answer p50':>12}{'p95':>7}{'max':>7}{'shown p50':>11}{'p95':>7}{'max':>7}"
        f"{'engine ms/shown':>17}{'/key':>7}"
    )
    for name, row in rows.items():
        cells = [row["key_to_answer_ms"], row["key_to_suggestion_ms"]]
        texts = [
            "".join(f"{cell[key]:{width}.1f}" for key, width in (("p50", 0), ("p95", 7), ("max", 7))) if cell else "-"
            for cell in cells
        ]
        cost = [
            f"{row[key]:.1f}" if row[key] is not None else "-" for key in ("engine_ms_per_shown", "engine_ms_per_key")
        ]
        print(
            f"{name:<24}{row['sent']:6}{row['fresh']:5}{row['through']:6}{row['empty']:6}{row['stale']:6}"
            f"{row['cancelled']:7}{row['failed']:7}{texts[0]:>26}{texts[1]:>25}{cost[0]:>17}{cost[1]:>7}",
            flush=True,
        )


async def run_unhurried(
    parts: Sequence[Typing], columns: Sequence[Any], model: Any, tokens: int
) -> dict[str, list[float]]:
    """Measure the seconds of each key: with the suggestion cache, without it, and for each column."""
    found: dict[str, list[float]] = {
        name: [] for name in ("server", "server without suggestion cache", *(c.name for c in columns))
    }
    uncached_variant = Variant(UNCACHED, kind=INVOKED)
    async with run_server(Variant(), tokens) as (plain, _), run_server(uncached_variant, tokens) as (uncached, _):
        typists = {"server": Typist(plain), "server without suggestion cache": Typist(uncached, uncached_variant.kind)}
        for index, typing in enumerate(parts):
            uri = _URI.format("unhurried", index)
            buffers = {name: typist.editor.open(typing.before + typing.after, uri) for name, typist in typists.items()}
            cursor = len(typing.before)
            for number, (key, prefix) in enumerate(zip(typing.keys, typing.prefixes, strict=True)):
                for name, typist in typists.items():
                    pressed_at = time.perf_counter()
                    typist.editor.type(buffers[name], cursor - key.removed, key.text, cursor)
                    await wait_for_answers(typist.request_completion(buffers[name], len(prefix), pressed_at))
                    assert typist.answers[-1].outcome is not Outcome.FAILED, "the server failed to complete"
                    if number:  # the first reads the file
                        found[name].append(typist.answers[-1].seconds)
                cursor = len(prefix)
                time_columns(
                    columns, build_prompt(model, prefix, typing.after, tokens), tokens, found if number else None
                )
    return found


def time_columns(columns: Sequence[Any], ids: Sequence[int], tokens: int, found: dict[str, list[float]] | None) -> None:
    """Run each column once and record the seconds."""
    for column in columns:
        started = time.perf_counter()
        column.keystroke(ids, tokens)
        if found is not None:
            found[column.name].append(time.perf_counter() - started)


def build_prompt(model: Any, prefix: str, suffix: str, tokens: int) -> list[int]:
    """Build the prompt that the server sends to its engine."""
    from codeclippy_ls.prompts.context import CompletionContext
    from codeclippy_ls.prompts.token_prompts import build_completion_prompt

    reserve = min(tokens + 8, model.context_length // 2)
    return list(
        build_completion_prompt(model, CompletionContext(prefix, suffix), model.context_length, reserve).token_ids
    )


def open_columns(subject: Subject, peers: bool) -> list[Column]:
    """Open the columns: our engine without the server, transformers' generate, and llama.cpp if available."""
    from bench.peers import LIBRARY, SERVER, PeerError, open_peer
    from codeclippy_ls.engine.decoder.linear import WeightFormats
    from codeclippy_ls.engine.decoder.linear import choose_fastest_formats as fastest

    best, exact = fastest("cpu", subject.module.config.hidden_size), WeightFormats("float32", "float32")
    found: list[Column] = [
        NativeColumn(subject, best, f"engine alone ({best})"),
        NativeColumn(subject, exact, "engine alone float32"),
    ]
    for engine, form in ((SERVER, "int8"), (LIBRARY, "int8"), (SERVER, "float32")) if peers else ():
        try:
            found.append(open_peer(subject, engine, form, 1))
        except PeerError as error:
            print(f"{engine} {form} skipped: {error}")
    return [*found, GenerateColumn(subject, "float32")]


def print_unhurried(found: dict[str, list[float]], columns: Sequence[Any], tokens: int) -> dict[str, Any]:
    """Print the table, with the time that reading the weights once per generated token takes."""
    rates = {column.name: limits.measure_bandwidth(column.nbytes) for column in columns}
    rows: dict[str, Any] = {}
    naive = next(statistics.median(found[column.name]) for column in columns if isinstance(column, GenerateColumn))
    print(f"\nunhurried, milliseconds per key; limit: {tokens} times the size of the weights / memory bandwidth")
    print(f"{'':<34}{'keys':>6}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'mean':>8}{'limit':>8}{'naive/it':>10}")
    for name, seconds in found.items():
        column = next((column for column in columns if column.name == name), None)
        limit = tokens * column.nbytes / rates[name] * 1000 if column is not None else None
        mean = statistics.fmean(seconds) * 1000
        rows[name] = {
            **(compute_percentiles(seconds) or {}),
            "mean": mean,
            "limit_ms": limit,
            "ratio_vs_naive": naive / statistics.median(seconds),
        }
        print(
            f"{name:<34}{len(seconds):6}{format_percentiles(rows[name])}{mean:8.1f}"
            + (f"{limit:8.1f}" if limit else f"{'-':>8}")
            + f"{rows[name]['ratio_vs_naive']:10.1f}",
            flush=True,
        )
    return rows


async def measure_cancelling(count: int, tokens: int) -> dict[str, Any]:
    """Measure the time from a cancel to its answer, of a request alone, and of the same right after a cancel.

    The cancelled request has a new prompt; that of the other one is in the prefix cache.
    """
    rng = random.Random(1)
    answer, alone, after = list[float](), list[float](), list[float]()
    typing, far = make_typings(40, seed=3)[0], make_typings(4000, seed=4, each=1)
    async with run_server(Variant(UNCACHED), tokens) as (editor, _):
        typist = Typist(editor, INVOKED)
        near = editor.open(typing.before + typing.after, _URI.format("near", 0))
        await _measure_latency(typist, near, len(typing.before))
        for number in range(count):
            other = far[number % len(far)]
            buffer = editor.open(other.before + other.after, _URI.format("far", number))
            alone.append(await _measure_latency(typist, near, len(typing.before)))
            to_cancel = typist.request_completion(buffer, len(other.before), time.perf_counter())
            await asyncio.sleep(rng.uniform(0.004, 0.06))
            if to_cancel.done():
                continue
            typist.cancel()
            pressed_at = time.perf_counter()
            next_request = typist.request_completion(near, len(typing.before), pressed_at)
            await wait_for_answers(to_cancel)
            answer.append(time.perf_counter() - pressed_at)
            await wait_for_answers(next_request)
            after.append(time.perf_counter() - pressed_at)
    delays = [seconds - statistics.median(alone) for seconds in after]
    return {
        "cancel_to_answer_ms": compute_percentiles(answer),
        "request_alone_ms": compute_percentiles(alone),
        "request_after_cancel_ms": compute_percentiles(after),
        "engine_busy_after_cancel_ms": compute_percentiles(delays),
    }


async def _measure_latency(typist: Typist, buffer: Any, cursor: int) -> float:
    pressed_at = time.perf_counter()
    await wait_for_answers(typist.request_completion(buffer, cursor, pressed_at))
    return time.perf_counter() - pressed_at


async def measure_loop_lag(edits: int, tokens: int) -> dict[str, list[float]]:
    """Measure the seconds of pings to an idle server, and while edits are generated."""
    pings, idle = Pings(), Pings()
    async with run_server(Variant({"edit": {"timeBudgetMs": 5000}}), tokens) as (editor, _):
        editor.accept_edits = False
        async with idle.measure(editor, period=0.005):
            await asyncio.sleep(1.0)
        for number, typing in enumerate(make_typings(4000, seed=5, each=1)[:edits]):
            buffer = editor.open(typing.before + typing.after, _URI.format("edit", number))
            start = len(typing.before)
            end = buffer.text.find("\n\n", start + 1)
            async with pings.measure(editor, period=0.005):
                await editor.edit(buffer, "Add a docstring", start, max(end, start))
                outcome = await editor.outcome()
            if "edit" in outcome:
                await editor.outcome()  # the message about the refusal
    return {"idle": idle.busy, "editing": pings.busy}


def measure_all(extent: Extent, tokens: int, peers: bool) -> dict[str, Any]:
    """Measure everything; print each table as soon as it is complete."""
    import torch

    from bench.speed import load_shipped
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.inference.spec import ModelSpec

    model, subject = load(ModelSpec(device="cpu", threads=1)), load_shipped()
    torch.set_num_threads(1)
    columns = open_columns(subject, peers)
    times = asyncio.run(run_unhurried(make_typings(extent.unhurried), columns, model, tokens))
    found: dict[str, Any] = {"unhurried_ms": print_unhurried(times, columns, tokens)}
    plan = [
        (seconds_per_key, make_typings(keys, seed=2))
        for seconds_per_key, keys in zip(SECONDS_PER_KEY, extent.typed, strict=True)
    ]
    paced, pings = asyncio.run(run_typing(Variant(), "typing", plan, tokens))
    print("\ntyping; engine ms: CPU time of all threads except the event loop's, per shown suggestion")
    found["typing"] = {f"{row['ms_per_key']:.0f} ms per key": row for row in paced}
    print_typing(found["typing"])
    print("\nat 150 ms per key, with one technique switched off")
    found["switches"] = {}
    for name, variant in SWITCHES.items():
        rows, _ = asyncio.run(
            run_typing(variant, name, [(0.15, make_typings(extent.switched, seed=2, each=40))], tokens)
        )
        found["switches"][name] = rows[0]
    print_typing(found["switches"])
    found["cancelling"] = asyncio.run(measure_cancelling(extent.cancels, tokens))
    lag = asyncio.run(measure_loop_lag(extent.edits, tokens))
    found["loop_ms"] = {
        name: compute_percentiles(rows)
        for name, rows in {**lag, "typing, waiting": pings.idle, "typing, engine busy": pings.busy}.items()
    }
    for title in ("cancelling", "loop_ms"):
        print(f"\n{title}, milliseconds{'':<16}{'count':>6}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
        for name, row in found[title].items():
            print(f"{name:<40}{row['count'] if row else 0:6}{format_percentiles(row)}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    import os
    import platform

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="less than two minutes")
    parser.add_argument("--tokens", type=int, default=16, help="maximum of new tokens per key")
    parser.add_argument("--no-peers", action="store_true", help="without other engines")
    parsed = parser.parse_args()
    started, load_before = time.perf_counter(), os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load_before:.1f}, one thread")
    found = measure_all(QUICK if parsed.quick else Extent(), parsed.tokens, not parsed.no_peers)
    machine = {
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "python": platform.python_version(),
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps({"machine": machine, "tokens": parsed.tokens, **found}))


if __name__ == "__main__":
    main()
