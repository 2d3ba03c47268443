"""Compare one shared engine host with an engine in each server: memory, first suggestion, keystrokes, loop lag.

    python -m bench.host [--quick]

One, two and eight clients of each kind, all running at once. They type the same text, the two kinds in turns, at a pace
at which all clients together type the same number of keys per second. At the same time a request that no handler
answers is timed. Memory is the sum over the servers, plus the host if there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.keystrokes import compute_percentiles, summarize
from bench.typist import Pings, Typist, Variant, run_server
from bench.workload import Typing, make_typings
from tests.editor import Editor

ENGINES = ("shared", "in-process")
_URI = "file:///bench/{}-{}-{}.py"
_KEYS_PER_SECOND = 8.0  # of all clients together
_MAX_TOKENS = 48


@dataclass
class Group:
    """Servers with the same setting `model.engine`, and their measurements."""

    name: str
    editors: list[Editor] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds from a server's start to its first suggestion
    typists: list[Typist] = field(default_factory=list)
    pings: Pings = field(default_factory=Pings)

    async def start(self, stack: contextlib.AsyncExitStack, count: int) -> None:
        """Start servers, one after the other, and ask each for a suggestion."""
        text = "def mean(values):\n    total = sum(values)\n    return "
        for index in range(count):
            began = time.perf_counter()
            options = {"model": {"engine": self.name, "idleMinutes": 1}}
            editor, process = await stack.enter_async_context(run_server(Variant(options), _MAX_TOKENS))
            await editor.ghost(editor.open(text, _URI.format("first", self.name, index)), len(text))
            self.first.append(time.perf_counter() - began)
            self.editors.append(editor)
            self.processes.append(process)
            self.typists.append(Typist(editor))

    async def type(self, parts: Sequence[Typing], repetition: int) -> None:
        """Let all clients type at once, each its own part; the first client's server is pinged."""
        seconds_per_key = len(self.typists) / _KEYS_PER_SECOND
        async with self.pings.measure(self.editors[0], self.typists[0], 0.02):
            await asyncio.gather(
                *(
                    typist.type(part, seconds_per_key, _URI.format(repetition, self.name, index))
                    for index, (typist, part) in enumerate(zip(self.typists, parts, strict=True))
                )
            )

    def metrics(self, hosts: Sequence[int]) -> dict[str, Any]:
        """Return the measurements that are printed."""
        together = Typist(self.editors[0])
        for typist in self.typists:
            together.sent += typist.sent
            together.answers += typist.answers
        found = summarize(together, None)
        processes = [*self.processes, *(hosts if self.name == "shared" else ())]
        return {
            "first_s": self.first[0],
            "next_first_s": statistics.median(self.first[1:] or self.first),
            **{f"{kind}_mib": sum(read_memory(process, kind) for process in processes) for kind in ("pss", "rss")},
            "key_to_engines_answer_ms": found["key_to_engines_answer_ms"],
            "sent": found["sent"],
            "failed": found["failed"],
            "lag_ms": compute_percentiles([*self.pings.idle, *self.pings.busy]),
            "lag_busy_ms": compute_percentiles(self.pings.busy),
        }


def read_memory(process: int, kind: str) -> float:
    """Return the MiB of a process, with shared pages divided among the processes that share them (``pss``) or not."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.lower().startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc has no {kind} of process {process}")


@contextlib.contextmanager
def private_host_folder() -> Iterator[list[int]]:
    """Make a folder for this run's hosts alone; yields a list for their processes, which are ended in the end."""
    folder = tempfile.mkdtemp(prefix="cc-")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = folder
    found: list[int] = []
    try:
        yield found
    finally:
        found += find_hosts(folder)
        for process in set(found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def find_hosts(folder: str) -> list[int]:
    """Return the processes of the hosts with sockets in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--at={folder}/".encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found


async def compare(count: int, repetitions: int, keys: int) -> dict[str, Any]:
    """Measure both kinds with this many clients, in turns."""
    groups = [Group(name) for name in ENGINES]
    parts = make_typings(count * repetitions * keys, seed=count, each=keys)
    with private_host_folder() as hosts:
        async with contextlib.AsyncExitStack() as stack:
            for group in groups if count != 2 else groups[::-1]:  # the first one finds cold files
                await group.start(stack, count)
            for repetition in range(repetitions):
                own_parts = [parts[(repetition * count + index) % len(parts)] for index in range(count)]
                for group in groups if repetition % 2 == 0 else groups[::-1]:
                    await group.type(own_parts, repetition)
            hosts += find_hosts(os.environ["XDG_RUNTIME_DIR"])
            if len(hosts) != 1:
                raise ValueError(f"there are {len(hosts)} hosts instead of one")
            return {group.name: group.metrics(hosts) for group in groups}


def print_row(count: int, name: str, row: dict[str, Any]) -> None:
    """Print the measurements of one kind with this many clients."""
    answer, lag = row["key_to_engines_answer_ms"], row["lag_busy_ms"]
    times = f"{answer['p50']:9.1f}{answer['p95']:8.1f}" if answer else f"{'-':>9}{'-':>8}"
    lags = f"{lag['p50']:9.2f}{lag['p95']:8.2f}{lag['max']:8.2f}" if lag else f"{'-':>9}{'-':>8}{'-':>8}"
    print(
        f"{count:7}  {name:<9}{row['pss_mib']:8.0f}{row['rss_mib']:8.0f}{row['first_s']:9.2f}"
        f"{row['next_first_s']:8.2f}{row['sent']:7}{times}{lags}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer keys")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print("clients  engine   PSS MiB RSS MiB  first s next s   keys   p50 ms  p95 ms  lag p50     p95     max")
    found: dict[str, Any] = {}
    for count in (1, 2, 8):
        repetitions, keys = (2, 12 if count == 8 else 40) if options.quick else (4, 24 if count == 8 else 80)
        found[str(count)] = asyncio.run(compare(count, repetitions, keys))
        for name in ENGINES:
            print_row(count, name, found[str(count)][name])
    print(json.dumps({"load": os.getloadavg()[0], "clients": found}))


if __name__ == "__main__":
    main()
