"""One engine host for several editors beside an engine in each server: memory, first suggestion, keystrokes, loop lag.

    python -m bench.host [--quick]

One, two and eight clients each way, all alive at once. They type the same text, the two ways in turns, at a pace that
gives all of them together the same number of keys a second; a request that no handler answers is timed meanwhile.
Memory is the sum over the servers, and the host where there is one.
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

from bench.keystrokes import spread, summary
from bench.typist import Pings, Typist, Variant, serving
from bench.workload import Typing, typings
from tests.editor import Editor

WAYS = ("shared", "in-process")
_URI = "file:///bench/{}-{}-{}.py"
_KEYS_A_SECOND = 8.0  # of all clients together
_TOKENS = 48


@dataclass
class Way:
    """Servers that have their engine in one place, and what was measured of them."""

    name: str
    editors: list[Editor] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds from a server's start to its first suggestion
    typists: list[Typist] = field(default_factory=list)
    pings: Pings = field(default_factory=Pings)

    async def start(self, stack: contextlib.AsyncExitStack, count: int) -> None:
        """Start servers, one after the other, each asked for a suggestion."""
        text = "def mean(values):\n    total = sum(values)\n    return "
        for index in range(count):
            began = time.perf_counter()
            options = {"model": {"engine": self.name, "idleMinutes": 1}}
            editor, process = await stack.enter_async_context(serving(Variant(options), _TOKENS))
            await editor.ghost(editor.open(text, _URI.format("first", self.name, index)), len(text))
            self.first.append(time.perf_counter() - began)
            self.editors.append(editor)
            self.processes.append(process)
            self.typists.append(Typist(editor))

    async def type(self, parts: Sequence[Typing], turn: int) -> None:
        """All clients at once, each its own part; the first one's server is pinged."""
        pace = len(self.typists) / _KEYS_A_SECOND
        async with self.pings.running(self.editors[0], self.typists[0], 0.02):
            await asyncio.gather(
                *(
                    typist.type(part, pace, _URI.format(turn, self.name, index))
                    for index, (typist, part) in enumerate(zip(self.typists, parts, strict=True))
                )
            )

    def figures(self, hosts: Sequence[int]) -> dict[str, Any]:
        """What is printed."""
        together = Typist(self.editors[0])
        for typist in self.typists:
            together.sent += typist.sent
            together.answers += typist.answers
        found = summary(together, None)
        processes = [*self.processes, *(hosts if self.name == "shared" else ())]
        return {
            "first_s": self.first[0],
            "next_first_s": statistics.median(self.first[1:] or self.first),
            **{f"{kind}_mib": sum(memory(process, kind) for process in processes) for kind in ("pss", "rss")},
            "key_to_engines_answer_ms": found["key_to_engines_answer_ms"],
            "sent": found["sent"],
            "failed": found["failed"],
            "lag_ms": spread([*self.pings.idle, *self.pings.busy]),
            "lag_busy_ms": spread(self.pings.busy),
        }


def memory(process: int, kind: str) -> float:
    """MiB of a process, shared pages divided among those who share them (``pss``) or not (``rss``)."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.lower().startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {kind} of process {process}")


@contextlib.contextmanager
def own_hosts() -> Iterator[list[int]]:
    """A folder for this run's hosts alone; fills in their processes when asked, and ends them."""
    folder = tempfile.mkdtemp(prefix="cc-")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = folder
    found: list[int] = []
    try:
        yield found
    finally:
        found += hosts_of(folder)
        for process in set(found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def hosts_of(folder: str) -> list[int]:
    """Hosts whose socket is in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--at={folder}/".encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found


async def compared(count: int, turns: int, keys: int) -> dict[str, Any]:
    """Both ways with so many clients, in turns."""
    ways = [Way(name) for name in WAYS]
    parts = typings(count * turns * keys, seed=count, each=keys)
    with own_hosts() as hosts:
        async with contextlib.AsyncExitStack() as stack:
            for way in ways if count != 2 else ways[::-1]:  # who is first finds the files cold
                await way.start(stack, count)
            for turn in range(turns):
                some = [parts[(turn * count + index) % len(parts)] for index in range(count)]
                for way in ways if turn % 2 == 0 else ways[::-1]:
                    await way.type(some, turn)
            hosts += hosts_of(os.environ["XDG_RUNTIME_DIR"])
            if len(hosts) != 1:
                raise ValueError(f"{len(hosts)} hosts, where one was to be")
            return {way.name: way.figures(hosts) for way in ways}


def print_row(count: int, name: str, row: dict[str, Any]) -> None:
    """One way with so many clients."""
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
        turns, keys = (2, 12 if count == 8 else 40) if options.quick else (4, 24 if count == 8 else 80)
        found[str(count)] = asyncio.run(compared(count, turns, keys))
        for name in WAYS:
            print_row(count, name, found[str(count)][name])
    print(json.dumps({"load": os.getloadavg()[0], "clients": found}))


if __name__ == "__main__":
    main()
