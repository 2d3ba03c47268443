"""An hour of typing in minutes: many documents, keys, cancels, edits, closes. Measures growth and unanswered requests.

    python -m bench.soak [--keys 24000] [--seconds-per-key 0.02] [--quick]

24,000 keys are an hour at 150 ms. The server runs its models in its own process. Its memory (PSS), threads and file
descriptors are read during the run; the first fifth is warm-up. The last line is a JSON object. Linux only (``/proc``).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.typist import Outcome, Typist, Variant, run_server
from bench.workload import Typing, make_typings

_URI = "file:///soak/{}.py"
_SAMPLES = 20
_OPTIONS = {"edit": {"timeBudgetMs": 3000, "maxTokens": 64}}


def generate_typings(keys: int) -> Iterator[Typing]:
    """Yield functions to type until they have this many keys together; then the same ones with other typing errors."""
    for seed in itertools.count(3):
        for typing in make_typings(keys, seed, each=40):
            yield typing
            if (keys := keys - len(typing.keys)) <= 0:
                return


def read_resources(process: int) -> dict[str, float]:
    """Return the MiB, threads and file descriptors of a process."""
    folder = Path(f"/proc/{process}")
    pss = next(
        int(line.split()[1]) for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
    )
    return {
        "mib": pss / 1024,
        "threads": len(list((folder / "task").iterdir())),
        "descriptors": len(list((folder / "fd").iterdir())),
    }


async def run_soak(keys: int, seconds_per_key: float) -> dict[str, Any]:
    """Type keys into one server, and read its resources from time to time."""
    rng, rows, sent = random.Random(1), list[dict[str, float]](), 0
    started = time.perf_counter()
    async with run_server(Variant(_OPTIONS), 16) as (editor, process):
        typist = Typist(editor)
        editor.accept_edits = False
        step = max(1, keys // _SAMPLES)
        for number, typing in enumerate(generate_typings(keys)):
            await typist.type(typing, seconds_per_key * rng.uniform(0.2, 2.0), _URI.format(number))
            if number % 25 == 24:
                await _edit(editor, rng, number)
            if typist.sent // step > sent // step:
                rows.append({"keys": typist.sent, **read_resources(process)})
                print(
                    f"{typist.sent:7} keys{rows[-1]['mib']:9.0f} MiB{rows[-1]['threads']:5.0f} threads"
                    f"{rows[-1]['descriptors']:5.0f} descriptors",
                    flush=True,
                )
            sent = typist.sent
        counts = {
            outcome.name.lower(): sum(answer.outcome is outcome for answer in typist.answers) for outcome in Outcome
        }
    warm = rows[len(rows) // 5 :]
    grown = {name: warm[-1][name] - warm[0][name] for name in ("mib", "threads", "descriptors")} if warm else {}
    return {
        "keys": sent,
        "seconds": time.perf_counter() - started,
        "answered": len(typist.answers),
        **counts,
        "rows": rows,
        "grown": grown,
    }


async def _edit(editor: Any, rng: random.Random, number: int) -> None:
    """Ask for an edit, which the client does not apply, as if the user refused it."""
    typing = make_typings(4000, seed=5, each=1)[number % 20]
    buffer = editor.open(typing.before + typing.after, _URI.format(f"edit-{number}"))
    await editor.edit(buffer, rng.choice(("Add a docstring", "Fix the bug")), 0, min(200, len(buffer.text)))
    if "edit" in await editor.outcome():
        await editor.outcome()
    editor.notify("textDocument/didClose", {"textDocument": {"uri": buffer.uri}})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=24_000)
    parser.add_argument("--seconds-per-key", type=float, default=0.02, help="on average")
    parser.add_argument("--quick", action="store_true", help="2,000 keys")
    parsed = parser.parse_args()
    found = asyncio.run(run_soak(2000 if parsed.quick else parsed.keys, parsed.seconds_per_key))
    print(
        f"{found['answered']} of {found['keys']} requests answered in {found['seconds']:.0f} s; grown after warming "
        "up: " + ", ".join(f"{value:.0f} {name}" for name, value in found["grown"].items())
    )
    print(json.dumps({"cores": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
