"""Results of the edit benchmark: an outcome for each case and way, the printed table, the limits of the machine.

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

from bench.edit_asking import ModelStats

_UNCHANGED = re.compile("proposed no change|changes nothing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case in one way; ``reason`` says why there are no edits, ``ended`` that the model wrote a stop token."""

    exact: bool
    applied: bool
    parses: bool
    reason: str
    ended: bool
    prompt: int
    tokens: int
    passes: int
    prefill_passes: int
    seconds: float


def summarize(rows: Sequence[Outcome]) -> dict[str, Any]:
    """Return the sums of one way."""
    return {
        "cases": len(rows),
        "exact": sum(row.exact for row in rows),
        "applied": sum(row.applied for row in rows),
        "parses": sum(row.parses for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "passes": sum(row.passes for row in rows),
        "writing": sum(row.passes - row.prefill_passes for row in rows),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "ended": sum(row.ended for row in rows),
        "unchanged": sum(bool(_UNCHANGED.search(row.reason)) for row in rows),
        "reasons": dict(Counter(re.sub(r"\d+", "N", row.reason) for row in rows if row.reason).most_common()),
    }


def compute_ratios(plain: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, float]:
    """Return how many times more the first way took than the second, over the cases that both answered."""
    pairs = [(a, b) for a, b in zip(plain, other, strict=True) if a.passes and b.passes]
    ended = [(a, b) for a, b in pairs if a.ended and b.ended]

    def compute_ratio(pairs: Sequence[tuple[Outcome, Outcome]], get: Callable[[Outcome], float]) -> float:
        total = sum(get(b) for _, b in pairs)
        return round(sum(get(a) for a, _ in pairs) / total, 2) if total else 0.0

    return {
        "cases": len(pairs),
        "passes": compute_ratio(pairs, lambda row: row.passes),
        "writing": compute_ratio(pairs, lambda row: row.passes - row.prefill_passes),
        "wall": compute_ratio(pairs, lambda row: row.seconds),
        "ended": len(ended),
        "passes_ended": compute_ratio(ended, lambda row: row.passes),
        "writing_ended": compute_ratio(ended, lambda row: row.passes - row.prefill_passes),
        "median_passes": round(statistics.median([a.passes / b.passes for a, b in pairs] or [0.0]), 2),
    }


def print_report(title: str, found: dict[str, list[Outcome]], stats: ModelStats, bandwidth: float) -> dict[str, Any]:
    """Print a table; return its numbers."""
    floor = stats.weights / bandwidth * 1000
    print(
        f"\n{title}\n{stats.parameters / 1e6:.0f} million parameters, {stats.dtype}, "
        f"context length {stats.context_length}, {stats.threads} thread(s); "
        f"the fastest possible pass of one token takes {floor:.1f} ms "
        f"({stats.weights / 2**20:.0f} MiB of weights at {bandwidth / 1e9:.0f} GB/s)"
    )
    columns = ("cases", "exact", "applied", "parses", "unchanged", "ended", "tokens", "passes", "writing")
    print(f"{'way':12}" + "".join(f"{column:>10}" for column in columns) + f"{'seconds':>10}{'ms/pass':>10}")
    rows = {name: summarize(outcomes) for name, outcomes in found.items()}
    for name, row in rows.items():
        each = 1000 * row["seconds"] / max(row["passes"], 1)
        print(f"{name:12}" + "".join(f"{row[column]:10}" for column in columns) + f"{row['seconds']:10.1f}{each:10.1f}")
    for name, row in rows.items():
        for reason, count in row["reasons"].items():
            print(f"  {name}: {count} x {reason[:100]}")
    against = {
        name: compute_ratios(outcomes, found["constrained"])
        for name, outcomes in found.items()
        if name != "constrained" and "constrained" in found
    }
    for name, row in against.items():
        print(
            f"{name} : constrained = {row['passes']} passes (median of a case {row['median_passes']}), "
            f"{row['writing']} of them writing, {row['wall']} wall; where both wrote a stop token ({row['ended']}) "
            f"{row['passes_ended']} and {row['writing_ended']}",
            flush=True,
        )
    return {"ways": rows, "ratios": against, "model": stats.as_dict(), "floor_ms": round(floor, 2)}


def measure_bandwidth() -> float:
    """Measure the memory bandwidth of reading, in bytes per second."""
    import torch

    data = torch.ones(64 << 20, dtype=torch.float32)
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best


def read_processor_name() -> str:
    """Return the processor's name, as far as the system reports it."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        return platform.processor() or platform.machine()
    return next((row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")), platform.machine())
