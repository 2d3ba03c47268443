"""The typing workload through the real server over stdio, beside other engines asked for the same prompts.

    python -m bench.keystrokes [--quick] [--tokens 16] [--no-peers]

- *unhurried*: key by key, the server and engines in turns, one thread each: the same prompt as token ids for each key;
  engines write all tokens, the server ends where the line or the statement does.
- *typing* at 50, 150 and 300 ms a key, requests cancelled as editors do, and the same with each technique switched off.
- *cancelling*: how soon a cancelled request is answered, and how much later than otherwise the next one is.
- *the loop*: how long the server takes to refuse an unknown method, with the engine idle, completing and editing.

`bench.workload` says what is typed.
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
from bench.typist import INVOKED, SWITCHES, UNSHOWN, Outcome, Pings, Typist, Variant, answered, cpu_seconds, serving
from bench.workload import Typing, typings

PACES = (0.05, 0.15, 0.3)
_URI = "file:///bench/{}-{}.py"


@dataclass(frozen=True)
class Extent:
    """How many keys: unhurried, at each pace, for each switch; how many cancels; how many edits."""

    unhurried: int = 150
    typed: tuple[int, ...] = (400, 300, 200)
    switched: int = 160
    cancels: int = 40
    edits: int = 4


QUICK = Extent(20, (60, 40, 20), 24, 8, 1)


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median, percentiles and the most, in milliseconds; nothing of nothing."""
    if not seconds:
        return None
    rows = sorted(seconds)
    at = {f"p{share}": rows[min(len(rows) - 1, int(len(rows) * share / 100))] * 1000 for share in (50, 95, 99)}
    return {"count": len(rows), **at, "max": rows[-1] * 1000}


def shown(found: dict[str, float] | None) -> str:
    """A spread as four columns of a table."""
    if found is None:
        return f"{'-':>8}" * 4
    return "".join(f"{found[key]:8.1f}" for key in ("p50", "p95", "p99", "max"))


def summary(typist: Typist, cpu: tuple[float, float] | None) -> dict[str, Any]:
    """What came of a typist's requests, and what it cost."""
    counts = {outcome.name.lower(): sum(answer.outcome is outcome for answer in typist.answers) for outcome in Outcome}
    answered = [
        answer for answer in typist.answers if answer.outcome in (Outcome.FRESH, Outcome.THROUGH, Outcome.EMPTY)
    ]
    visible = [answer.seconds for answer in answered if answer.text]
    made = [answer.seconds for answer in answered if answer.outcome is not Outcome.THROUGH]
    loop, others = cpu or (None, None)
    return {
        "sent": typist.sent,
        "answered": len(answered),
        **counts,
        "key_to_answer_ms": spread([answer.seconds for answer in answered]),
        "key_to_suggestion_ms": spread(visible),
        "key_to_engines_answer_ms": spread(made),
        "loop_seconds": loop,
        "engine_seconds": others,
        "engine_ms_per_shown": others * 1000 / len(visible) if others is not None and visible else None,
        "engine_ms_per_key": others * 1000 / typist.sent if others is not None else None,
    }


async def typed(
    variant: Variant, name: str, plan: Sequence[tuple[float, Sequence[Typing]]], tokens: int
) -> tuple[list[dict[str, Any]], Pings]:
    """A summary of each part of a plan, typed one after the other into one server, which is pinged meanwhile."""
    found, pings = [], Pings()
    async with serving(variant, tokens) as (editor, process):
        await Typist(editor, variant.kind).type(typings(5, seed=9)[0], 0.2, _URI.format("warm", 0))
        for pace, parts in plan:
            typist, before = Typist(editor, variant.kind), cpu_seconds(process)
            async with pings.running(editor, typist, 0.02):
                for index, typing in enumerate(parts):
                    await typist.type(typing, pace, _URI.format(f"{name}-{pace}", index))
            after = cpu_seconds(process)
            cpu = (after[0] - before[0], after[1] - before[1]) if before and after else None
            found.append({"pace_ms": pace * 1000, **summary(typist, cpu)})
    return found, pings


def print_typed(rows: dict[str, dict[str, Any]]) -> None:
    """One row for each summary."""
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


async def unhurried(parts: Sequence[Typing], columns: Sequence[Any], model: Any, tokens: int) -> dict[str, list[float]]:
    """Seconds of each key, for the server with what is typed through, for the server asked anew, and each column."""
    found: dict[str, list[float]] = {name: [] for name in ("server", "server asked anew", *(c.name for c in columns))}
    anew = Variant(UNSHOWN, kind=INVOKED)
    async with serving(Variant(), tokens) as (plain, _), serving(anew, tokens) as (asking, _):
        typists = {"server": Typist(plain), "server asked anew": Typist(asking, anew.kind)}
        for index, typing in enumerate(parts):
            uri = _URI.format("unhurried", index)
            buffers = {name: typist.editor.open(typing.before + typing.after, uri) for name, typist in typists.items()}
            cursor = len(typing.before)
            for number, (key, prefix) in enumerate(zip(typing.keys, typing.prefixes, strict=True)):
                for name, typist in typists.items():
                    struck = time.perf_counter()
                    typist.editor.type(buffers[name], cursor - key.removed, key.text, cursor)
                    await answered(typist.ask(buffers[name], len(prefix), struck))
                    assert typist.answers[-1].outcome is not Outcome.FAILED, "the server refuses to complete"
                    if number:  # the first reads the file
                        found[name].append(typist.answers[-1].seconds)
                cursor = len(prefix)
                asked(columns, prompt(model, prefix, typing.after, tokens), tokens, found if number else None)
    return found


def asked(columns: Sequence[Any], ids: Sequence[int], tokens: int, found: dict[str, list[float]] | None) -> None:
    """Ask each column, in turns."""
    for column in columns:
        started = time.perf_counter()
        column.keystroke(ids, tokens)
        if found is not None:
            found[column.name].append(time.perf_counter() - started)


def prompt(model: Any, prefix: str, suffix: str, tokens: int) -> list[int]:
    """The token ids that the server asks its engine with."""
    from codeclippy_ls.prompts.context import CompletionContext
    from codeclippy_ls.prompts.token_prompts import build_completion_prompt

    reserve = min(tokens + 8, model.context_length // 2)
    return list(
        build_completion_prompt(model, CompletionContext(prefix, suffix), model.context_length, reserve).token_ids
    )


def beside(subject: Subject, peers: bool) -> list[Column]:
    """Ours without the server, the naive way, and llama.cpp where it can be had."""
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
    """The table, with how long reading the weights takes for so many tokens written one by one."""
    rates = {column.name: limits.measure_bandwidth(column.nbytes) for column in columns}
    rows: dict[str, Any] = {}
    naive = next(statistics.median(found[column.name]) for column in columns if isinstance(column, GenerateColumn))
    print(f"\nunhurried, milliseconds a key; limit: {tokens} times the weights over the bandwidth measured")
    print(f"{'':<34}{'keys':>6}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'mean':>8}{'limit':>8}{'naive/it':>10}")
    for name, seconds in found.items():
        column = next((one for one in columns if one.name == name), None)
        limit = tokens * column.nbytes / rates[name] * 1000 if column is not None else None
        mean = statistics.fmean(seconds) * 1000
        rows[name] = {
            **(spread(seconds) or {}),
            "mean": mean,
            "limit_ms": limit,
            "ratio_vs_naive": naive / statistics.median(seconds),
        }
        print(
            f"{name:<34}{len(seconds):6}{shown(rows[name])}{mean:8.1f}"
            + (f"{limit:8.1f}" if limit else f"{'-':>8}")
            + f"{rows[name]['ratio_vs_naive']:10.1f}",
            flush=True,
        )
    return rows


async def cancelled(count: int, tokens: int) -> dict[str, Any]:
    """Seconds from a cancel to its answer; of a request alone, and of the same right after a cancel.

    The one that is cancelled reads a prompt that nobody read before; the other's is in the prefix cache.
    """
    source = random.Random(1)
    answer, alone, after = list[float](), list[float](), list[float]()
    typing, far = typings(40, seed=3)[0], typings(4000, seed=4, each=1)
    async with serving(Variant(UNSHOWN), tokens) as (editor, _):
        typist = Typist(editor, INVOKED)
        near = editor.open(typing.before + typing.after, _URI.format("near", 0))
        await _latency(typist, near, len(typing.before))
        for number in range(count):
            other = far[number % len(far)]
            buffer = editor.open(other.before + other.after, _URI.format("far", number))
            alone.append(await _latency(typist, near, len(typing.before)))
            victim = typist.ask(buffer, len(other.before), time.perf_counter())
            await asyncio.sleep(source.uniform(0.004, 0.06))
            if victim.done():
                continue
            typist.cancel()
            struck = time.perf_counter()
            next_one = typist.ask(near, len(typing.before), struck)
            await answered(victim)
            answer.append(time.perf_counter() - struck)
            await answered(next_one)
            after.append(time.perf_counter() - struck)
    late = [later - statistics.median(alone) for later in after]
    return {
        "cancel_to_answer_ms": spread(answer),
        "request_alone_ms": spread(alone),
        "request_after_cancel_ms": spread(after),
        "engine_busy_after_cancel_ms": spread(late),
    }


async def _latency(typist: Typist, buffer: Any, cursor: int) -> float:
    struck = time.perf_counter()
    await answered(typist.ask(buffer, cursor, struck))
    return time.perf_counter() - struck


async def loop_lag(edits: int, tokens: int) -> dict[str, list[float]]:
    """Seconds of pings with nothing to do and while edits are written."""
    pings, idle = Pings(), Pings()
    async with serving(Variant({"edit": {"timeBudgetMs": 5000}}), tokens) as (editor, _):
        editor.accept_edits = False
        async with idle.running(editor, period=0.005):
            await asyncio.sleep(1.0)
        for number, typing in enumerate(typings(4000, seed=5, each=1)[:edits]):
            buffer = editor.open(typing.before + typing.after, _URI.format("edit", number))
            start = len(typing.before)
            end = buffer.text.find("\n\n", start + 1)
            async with pings.running(editor, period=0.005):
                await editor.edit(buffer, "Add a docstring", start, max(end, start))
                said = await editor.outcome()
            if "edit" in said:
                await editor.outcome()  # that it was refused
    return {"idle": idle.busy, "editing": pings.busy}


def measured(extent: Extent, tokens: int, peers: bool) -> dict[str, Any]:
    """Everything, each table as soon as it is there."""
    import torch

    from bench.speed import load_shipped
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.inference.spec import ModelSpec

    model, subject = load(ModelSpec(device="cpu", threads=1)), load_shipped()
    torch.set_num_threads(1)
    columns = beside(subject, peers)
    times = asyncio.run(unhurried(typings(extent.unhurried), columns, model, tokens))
    found: dict[str, Any] = {"unhurried_ms": print_unhurried(times, columns, tokens)}
    plan = [(pace, typings(keys, seed=2)) for pace, keys in zip(PACES, extent.typed, strict=True)]
    paced, pings = asyncio.run(typed(Variant(), "typing", plan, tokens))
    print("\ntyping; the engine's milliseconds are CPU time of all threads but the loop's, for each suggestion shown")
    found["typing"] = {f"{row['pace_ms']:.0f} ms a key": row for row in paced}
    print_typed(found["typing"])
    print("\nat 150 ms a key, with one thing switched off")
    found["switches"] = {}
    for name, variant in SWITCHES.items():
        rows, _ = asyncio.run(typed(variant, name, [(0.15, typings(extent.switched, seed=2, each=40))], tokens))
        found["switches"][name] = rows[0]
    print_typed(found["switches"])
    found["cancelling"] = asyncio.run(cancelled(extent.cancels, tokens))
    lag = asyncio.run(loop_lag(extent.edits, tokens))
    found["loop_ms"] = {
        name: spread(rows)
        for name, rows in {**lag, "typing, waiting": pings.idle, "typing, engine busy": pings.busy}.items()
    }
    for title in ("cancelling", "loop_ms"):
        print(f"\n{title}, milliseconds{'':<16}{'count':>6}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
        for name, row in found[title].items():
            print(f"{name:<40}{row['count'] if row else 0:6}{shown(row)}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    import os
    import platform

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="less than two minutes")
    parser.add_argument("--tokens", type=int, default=16, help="new tokens for a key")
    parser.add_argument("--no-peers", action="store_true", help="without other engines")
    parsed = parser.parse_args()
    started, load_before = time.perf_counter(), os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load_before:.1f}, one thread")
    found = measured(QUICK if parsed.quick else Extent(), parsed.tokens, not parsed.no_peers)
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
