"""What asking for edits came to: an outcome for each case and way, the table of all, the limits of the machine.

Knows nothing of how the edits are made.
"""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.edit_asking import Facts

_UNCHANGED = re.compile("proposed no change|changes nothing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case asked in one way; ``reason`` is why there are no edits, ``ended`` whether the model came to an end."""

    exact: bool
    applied: bool
    parses: bool
    reason: str
    ended: bool
    prompt: int
    tokens: int
    passes: int
    reading: int
    seconds: float


def summary(rows: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of one way."""
    return {
        "cases": len(rows),
        "exact": sum(row.exact for row in rows),
        "applied": sum(row.applied for row in rows),
        "parses": sum(row.parses for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "passes": sum(row.passes for row in rows),
        "writing": sum(row.passes - row.reading for row in rows),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "ended": sum(row.ended for row in rows),
        "unchanged": sum(bool(_UNCHANGED.search(row.reason)) for row in rows),
        "reasons": dict(Counter(re.sub(r"\d+", "N", row.reason) for row in rows if row.reason).most_common()),
    }


def ratios(plain: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, float]:
    """How many times more the first way took than the second, of the cases that both answered."""
    pairs = [(a, b) for a, b in zip(plain, other, strict=True) if a.passes and b.passes]
    ended = [(a, b) for a, b in pairs if a.ended and b.ended]

    def ratio(some: Sequence[tuple[Outcome, Outcome]], of: Callable[[Outcome], float]) -> float:
        below = sum(of(b) for _, b in some)
        return round(sum(of(a) for a, _ in some) / below, 2) if below else 0.0

    return {
        "cases": len(pairs),
        "passes": ratio(pairs, lambda one: one.passes),
        "writing": ratio(pairs, lambda one: one.passes - one.reading),
        "wall": ratio(pairs, lambda one: one.seconds),
        "ended": len(ended),
        "passes_ended": ratio(ended, lambda one: one.passes),
        "writing_ended": ratio(ended, lambda one: one.passes - one.reading),
        "median_passes": round(statistics.median([a.passes / b.passes for a, b in pairs] or [0.0]), 2),
    }


def report(title: str, found: dict[str, list[Outcome]], facts: Facts, bandwidth: float) -> dict[str, Any]:
    """Print a table; returns its figures."""
    floor = facts.weights / bandwidth * 1000
    print(
        f"\n{title}\n{facts.parameters / 1e6:.0f} million parameters, {facts.dtype}, window {facts.window}, "
        f"{facts.threads} thread(s); no pass of one token beats {floor:.1f} ms "
        f"({facts.weights / 2**20:.0f} MiB of weights at {bandwidth / 1e9:.0f} GB/s)"
    )
    columns = ("cases", "exact", "applied", "parses", "unchanged", "ended", "tokens", "passes", "writing")
    print(f"{'way':12}" + "".join(f"{column:>10}" for column in columns) + f"{'seconds':>10}{'ms/pass':>10}")
    rows = {name: summary(some) for name, some in found.items()}
    for name, row in rows.items():
        each = 1000 * row["seconds"] / max(row["passes"], 1)
        print(f"{name:12}" + "".join(f"{row[column]:10}" for column in columns) + f"{row['seconds']:10.1f}{each:10.1f}")
    for name, row in rows.items():
        for reason, count in row["reasons"].items():
            print(f"  {name}: {count} x {reason[:100]}")
    against = {
        name: ratios(some, found["constrained"])
        for name, some in found.items()
        if name != "constrained" and "constrained" in found
    }
    for name, row in against.items():
        print(
            f"{name} : constrained = {row['passes']} passes (median of a case {row['median_passes']}), "
            f"{row['writing']} of them writing, {row['wall']} wall; where both came to an end ({row['ended']}) "
            f"{row['passes_ended']} and {row['writing_ended']}",
            flush=True,
        )
    return {"ways": rows, "ratios": against, "model": facts.plain(), "floor_ms": round(floor, 2)}


def bandwidth() -> float:
    """Bytes per second that one pass over memory reads."""
    import torch

    data = torch.ones(64 << 20, dtype=torch.float32)
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best


def processor() -> str:
    """What the machine calls its processor, as far as that is told."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        return platform.processor() or platform.machine()
    return next((row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")), platform.machine())
